"""Statistics of the inputs of a torch module's layers, from running it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from arrow_quant_v2.calibration.statistics import CalibrationStatistics, Fold
from arrow_quant_v2.caller_warnings import warn_caller
from arrow_quant_v2.config.settings import CALIBRATION
from arrow_quant_v2.errors import ConfigurationError, OutputError
from arrow_quant_v2.paths import StrPath
from arrow_quant_v2.progress import ProgressCallback
from arrow_quant_v2.torch.build.roles import BARE, OUTSIDE, module_roles
from arrow_quant_v2.torch.collect.accumulate import Accumulator
from arrow_quant_v2.torch.collect.error_costs import Costs, Profile, measure_costs
from arrow_quant_v2.torch.collect.passes import join_files, plan_passes
from arrow_quant_v2.torch.evaluation import evaluating
from arrow_quant_v2.torch.observe.folds import find_folds
from arrow_quant_v2.torch.observe.shared_inputs import UNUSED, ObservedInput, Survey, survey
from arrow_quant_v2.torch.observe.watch import watch
from arrow_quant_v2.torch.record.trajectory import Batch, as_batches

__all__ = ["CalibrationRun", "calibrate", "run_tape"]

_NAMED = 3  # of the layers that a note is about
#: Networks of fewer layers are quantized from the first to the last.
_FEWEST_TO_KEEP_ENDS = 8


@dataclass(frozen=True)
class CalibrationRun:
    """What a calibration did.

    Attributes
    ----------
    path
        The file of statistics.
    data
        ``"neutral"`` or ``"user"``.
    layers
        Weights whose inputs were observed.
    samples
        Calls of the network, counted by sample.
    passes
        How often the recorded samples ran to stay within the memory.
    notes
        What could not be observed, and why; the file has them too.
    """

    path: Path
    data: str
    layers: tuple[str, ...]
    samples: int
    passes: int
    notes: tuple[str, ...]


def calibrate(
    module: nn.Module,
    batches: Iterable[Any],
    stats_path: StrPath,
    *,
    layers: Iterable[str] | None = None,
    component: str = "",
    data: Literal["user", "neutral"] = "user",
    held_out: bool = True,
    time_aware: bool = True,
    max_memory_mb: int = 1024,
    num_threads: int = 0,
    seed: int = 0,
    overwrite: bool = False,
    progress_callback: ProgressCallback | None = None,
) -> CalibrationRun:
    """Run a module on some batches and write statistics of its layers' inputs to a file.

    Parameters
    ----------
    module
        Any module. It runs as it is, in evaluation mode without gradients; sums are in float32.
    batches
        :class:`Batch` objects or tuples ``(args, kwargs, timestep)``; `timestep` is a number or a
        tensor with one for each sample, and then the first dimension of activations is that of the
        samples, or a multiple of it. An iterator is read into memory.
    stats_path
        The file to write, for ``statistics=`` of
        :meth:`~arrow_quant_v2.ArrowQuantV2.quantize_diffusion_model`.
    layers
        Names of weights, as in the weight file; None: every weight of a linear map or convolution.
    component
        The component of the pipeline that the module is; empty when there is one only.
    data
        ``"neutral"``: the batches were made up.
    held_out
        Set every fifth sample aside, to choose between methods by.
    time_aware
        Let tokens count as much as errors at their time cost the module's outputs; a part of the
        batches runs backwards for it.
    max_memory_mb
        Memory for statistics. Where they take more, the batches run several times; where one
        matrix takes more, only its diagonal blocks are kept.
    num_threads
        Threads of the sums; 0 means all cores.
    seed
        Of the choice of tokens: a layer sees about 8 for each channel.
    overwrite
        Replace an existing file.
    progress_callback
        Called with a message and a fraction.

    Returns
    -------
    CalibrationRun
        Its ``notes`` have been warned about.

    Raises
    ------
    ConfigurationError
        No batch, no layer, or too little memory.
    QuantizationError
        An activation is NaN or infinite; layer and timestep are named, and nothing is written.
    OutputError
        The file exists and `overwrite` is false, or it cannot be written.
    """
    run = run_tape(
        module,
        as_batches(batches, held_out=held_out),
        stats_path,
        layers=_weights(module) if layers is None else list(layers),
        component=component,
        data=data,
        time_aware=time_aware,
        max_memory_mb=max_memory_mb,
        num_threads=num_threads,
        seed=seed,
        overwrite=overwrite,
        tells_roles=True,
        progress_callback=progress_callback,
    )
    for note in run.notes:
        warn_caller(note)
    return run


def run_tape(
    module: nn.Module,
    tape: Sequence[Batch],
    stats_path: StrPath,
    *,
    layers: Sequence[str],
    component: str,
    data: Literal["user", "neutral"],
    time_aware: bool,
    max_memory_mb: int,
    num_threads: int,
    seed: int,
    overwrite: bool,
    notes: Sequence[str] = (),
    tells_roles: bool = False,
    progress_callback: ProgressCallback | None = None,
) -> CalibrationRun:
    """:func:`calibrate` with everything settled; `notes` go into the file before its own.

    `tells_roles`: the module and the run say which weights are not to be quantized, since nothing
    else knows the module's class.
    """
    path = Path(stats_path)
    if os.path.lexists(path) and not overwrite:
        raise OutputError(
            f"{path}: the file exists", path=str(path), hint="Remove it, or pass overwrite=True."
        )
    parameters = dict(module.named_parameters(remove_duplicate=False))
    notes = list(notes)
    names: dict[int, list[str]] = {}
    weights: list[Tensor] = []
    positions: dict[int, int] = {}
    for name in layers:
        weight = parameters.get(name)
        if weight is None:
            notes.append(f"{name}: not calibrated: the module has no such parameter")
            continue
        if id(weight) not in positions:
            positions[id(weight)] = len(weights)
            weights.append(weight)
        names.setdefault(positions[id(weight)], []).append(name)

    def report(message: str, fraction: float) -> None:
        if progress_callback is not None:
            progress_callback(message, fraction)

    with evaluating(module):
        report("calibrating", 0.0)
        found = survey(
            module, weights, _looked_at(tape), lambda: report("calibrating", 0.0), tape[1:-1]
        )
        for number, reason in found.unseen.items():
            notes += [f"{name}: not calibrated: {reason}" for name in names[number]]
        if not found.inputs:
            raise ConfigurationError(
                "calibration observed no layer", hint="\n".join(notes) or "Name layers to observe."
            )
        seen = {n for entry in found.inputs for weight in entry.weights for n in names[weight]}
        folds = find_folds(module, tape, seen, lambda: report("calibrating", 0.0))
        costs = Costs()
        if time_aware:
            costs = measure_costs(
                module, tape, weights, found.inputs, lambda: report("calibrating", 0.0)
            )
            notes += [costs.reason] if costs.reason else []
        sensitivities = {n: s for weight, s in costs.sensitivities.items() for n in names[weight]}
        roles = _roles(module, names, found) if tells_roles else {}
        collector = _Collector(module, tape, weights, names, found, costs.profiles, seed, notes)
        collector.statistics = lambda: _statistics(
            component, num_threads, data, folds, sensitivities, roles
        )
        collector.report = report
        passes = collector.write(path, max_memory_mb << 20, overwrite)
    observed = tuple(
        name for entry in found.inputs for weight in entry.weights for name in names[weight]
    )
    samples = sum(batch.samples for batch in tape)
    return CalibrationRun(path, data, observed, samples, passes, tuple(notes))


def _statistics(
    component: str,
    num_threads: int,
    data: Literal["user", "neutral"],
    folds: list[Fold] | None,
    sensitivities: Mapping[str, float],
    roles: Mapping[str, str],
) -> CalibrationStatistics:
    statistics = CalibrationStatistics(component, num_threads, data=data)
    statistics.set_sensitivities(sensitivities)
    statistics.set_roles(roles)
    if folds is not None:
        statistics.set_folds(folds)
    return statistics


def _roles(module: nn.Module, names: Mapping[int, list[str]], found: Survey) -> dict[str, str]:
    """What the weights are that are not to be quantized, by name.

    The modules tell of tables, norms, bare parameters, and what lies outside the repeated blocks;
    the run tells what no layer used. Where nothing repeats, the first and the last layer that ran
    are the way in and the way out.
    """
    roles = {name: role.name for name, role in module_roles(module).items() if not role.quantize}
    used = [list(names[w]) for entry in found.inputs for w in entry.weights]
    if OUTSIDE.name not in roles.values() and len(used) >= _FEWEST_TO_KEEP_ENDS:
        roles |= dict.fromkeys([*used[0], *used[-1]], "first or last layer")
    in_use = {name for layer in used for name in layer}
    roles = {name: role for name, role in roles.items() if role != BARE.name or name not in in_use}
    unused = [n for number, why in found.unseen.items() if why == UNUSED for n in names[number]]
    return roles | {name: "used by no layer" for name in unused if name not in roles}


def _weights(module: nn.Module) -> list[str]:
    """Parameters of two or more dimensions, but embeddings."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.ndim >= 2 and id(parameter) not in tables
    ]


def _looked_at(tape: Sequence[Batch]) -> list[Batch]:
    """The first and the last batch: what they call is what the others call."""
    return [tape[0]] if len(tape) == 1 else [tape[0], tape[-1]]


class _Collector:
    """Passes over the recorded samples, each for as many inputs as fit into memory."""

    statistics: Callable[[], CalibrationStatistics]
    report: Callable[[str, float], None]

    def __init__(
        self,
        module: nn.Module,
        tape: Sequence[Batch],
        weights: list[Tensor],
        names: dict[int, list[str]],
        found: Survey,
        profiles: Mapping[int, Profile],
        seed: int,
        notes: list[str],
    ) -> None:
        self._module = module
        self._tape = tape
        self._weights = weights
        self._names = names
        self._found = found
        self._profiles = profiles
        self._seed = seed
        self._notes = notes

    def write(self, path: Path, limit: int, overwrite: bool) -> int:
        """Write the file; returns how many passes it took."""
        passes = plan_passes([entry.channels for entry in self._found.inputs], limit)
        if len(passes) == 1:
            statistics = self._pass(passes[0], 0, 1)
            for note in self._notes:
                statistics.add_note(note)
            statistics.save(path, overwrite=overwrite)
            return 1
        if not path.parent.is_dir():
            raise OutputError(f"{path.parent}: no such directory", path=str(path))
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            parts = []
            for i, chosen in enumerate(passes):
                statistics = self._pass(chosen, i, len(passes))
                if i == len(passes) - 1:
                    for note in self._notes:
                        statistics.add_note(note)
                parts.append(Path(folder) / str(i))
                statistics.save(parts[-1])
                del statistics
            join_files(parts, path)
        return len(passes)

    def _pass(self, chosen: list[tuple[int, int]], index: int, count: int) -> CalibrationStatistics:
        statistics = self.statistics()
        inputs: dict[int, tuple[int, ObservedInput]] = {}
        for number, block in chosen:
            entry = self._found.inputs[number]
            weights = {
                name: self._weights[weight].detach().cpu()
                for weight in entry.weights
                for name in self._names[weight]
            }
            inputs[number] = (statistics.add_input(weights, block=block), entry)
            if block:
                self._notes.append(
                    f"{next(iter(weights))}: statistics of blocks of {block} channels only, "
                    "for want of memory"
                )
        samples = sum(batch.samples for batch in self._tape)
        accumulator = Accumulator(statistics, inputs, samples, self._seed, self._profiles)
        with watch(self._weights, accumulator.on_call):
            for i, batch in enumerate(self._tape):
                accumulator.begin(batch)
                self._module(*batch.args, **batch.kwargs)
                self.report("calibrating", (index + (i + 1) / len(self._tape)) / count)
        accumulator.finish()
        self._note_few_tokens(statistics)
        return statistics

    def _note_few_tokens(self, statistics: CalibrationStatistics) -> None:
        fewest = CALIBRATION.fewest_tokens_per_channel
        sizes = {
            statistics.layers(i)[0]: (statistics.tokens(i), statistics.channels(i))
            for i in range(len(statistics))
        }
        few = [
            f"{name} ({tokens} tokens for {channels} channels)"
            for name, (tokens, channels) in sizes.items()
            if tokens < fewest * channels
        ]
        if few:
            more = f" and {len(few) - _NAMED} more" if len(few) > _NAMED else ""
            self._notes.append(
                f"one calibration run gave fewer than {fewest} tokens a channel to "
                f"{', '.join(few[:_NAMED])}{more}"
            )
