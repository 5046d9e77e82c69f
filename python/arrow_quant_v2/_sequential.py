"""Quantization in stages: later layers are calibrated on what quantized ones before them put out.

As GPTQ does block by block (Frantar et al. 2023, arXiv 2210.17323), with a few stages for a whole
network. The result of the usual single stage is the other candidate: held-out states decide.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arrow_quant_v2._calibrate_first import Calibration, part_of, wants_calibration
from arrow_quant_v2._engine import Allotment, EngineJob, ProgressCallback, StrPath, plan_options
from arrow_quant_v2._native import core
from arrow_quant_v2._recorded import RecordedNetwork, record_network
from arrow_quant_v2.artefact import QuantizedModel, open_quantized
from arrow_quant_v2.config import SEQUENTIAL, DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError
from arrow_quant_v2.plan import plan_model

__all__ = ["check_sequential", "quantize_sequential"]

#: Ends of the parts of the progress: recording states, the usual result, the stages, judging.
_RECORDED, _STARTED, _STAGED, _JUDGED = 0.15, 0.2, 0.9, 0.95
#: Part of a stage that its calibration takes.
_CALIBRATED = 0.7
#: That of capture(): stages run on the states that the first one saw.
_SEED = 0


def check_sequential(config: DiffusionQuantConfig, statistics: StrPath | None) -> None:
    """Raise ConfigurationError where settings leave nothing to run stages on."""
    if statistics is not None:
        raise ConfigurationError(
            "statistics were given, and sequential=True makes some of its own for every stage",
            hint="Leave one of them out.",
        )
    if config.method == "learned":
        raise ConfigurationError(
            "sequential=True does not go with method='learned', which moves all layers together",
            hint="Leave one of them out.",
        )
    if not wants_calibration(config):
        why = (
            "calibration_samples is 0" if config.calibration_samples == 0 else "the method has none"
        )
        raise ConfigurationError(
            f"sequential=True is about calibration, and {why}",
            hint="Set calibration_samples to 1 or more and method to 'auto', or sequential=False.",
        )


def quantize_sequential(
    job: EngineJob,
    model_path: StrPath,
    config: DiffusionQuantConfig,
    calibration_data: Any,
    found: Calibration,
) -> tuple[core.QuantizeReport, Calibration]:
    """Quantize as usual and in stages, and store what held-out states find better.

    Returns
    -------
    tuple
        What the engine reports, and `found` with what the stages brought.

    Raises
    ------
    ConfigurationError
        The model cannot be calibrated here.
    """
    if found.statistics is None:
        raise ConfigurationError(
            f"sequential=True needs calibration: {found.reason}",
            hint="Set sequential=False to quantize without.",
        )
    recorded = record_network(
        model_path, config, calibration_data, _SEED, part_of(found.progress, 0, _RECORDED)
    )
    with tempfile.TemporaryDirectory(prefix="arrow-quant-") as folder:
        begin = time.perf_counter()
        run = _Run(job, model_path, config, recorded, calibration_data is not None, Path(folder))
        start = run.quantize("start", part_of(found.progress, _RECORDED, _STARTED - _RECORDED))
        run.fix_widths(start)
        stages = run.stages()
        progress = part_of(found.progress, _STARTED, _STAGED - _STARTED)
        staged = run.in_stages(start, stages, progress)
        ratio, better = run.compared(
            start, staged, part_of(found.progress, _STAGED, _JUDGED - _STAGED)
        )
        record = {
            "enabled": better,
            "reason": "" if better else "one stage is as good on held-out states",
            "stages": len(stages),
            "held_out_error_ratio": float(f"{ratio:.6g}"),
        }
        options = job.options
        options.refinements_json = {"sequential": json.dumps(record)}
        options.statistics_path = os.fsencode(found.statistics)
        (staged if better else start).store_again(options)
        seconds = time.perf_counter() - begin
        report = job.run(part_of(found.progress, _JUDGED, 1 - _JUDGED))
    return report, replace(found, sequential={**record, "seconds": seconds})


@dataclass(frozen=True)
class _Artefact:
    """A quantized model in the temporary folder."""

    report: core.QuantizeReport
    model: QuantizedModel
    path: Path

    def store_again(
        self, options: core.QuantizeOptions, but: tuple[str, Sequence[str]] = ("", ())
    ) -> None:
        """Let a run keep all its quantized tensors but some of a component."""
        options.store_again(
            self.report,
            [
                (component, tensors[name].packed)
                for component, tensors in self.model.components.items()
                for name in tensors
                if tensors[name].is_quantized and not (component == but[0] and name in but[1])
            ],
        )


class _Run:
    """What the steps of one job share."""

    def __init__(
        self,
        job: EngineJob,
        model_path: StrPath,
        config: DiffusionQuantConfig,
        recorded: RecordedNetwork,
        own_data: bool,
        folder: Path,
    ) -> None:
        self._job = job
        self._config = config
        self._plan = plan_model(model_path, config)
        self._recorded = recorded
        self._own_data = own_data
        self._folder = folder

    def quantize(self, name: str, progress: ProgressCallback | None) -> _Artefact:
        path = self._folder / name
        report = EngineJob(self._job.model, os.fsencode(path), self._job.options).run(progress)
        return _Artefact(report, open_quantized(path, num_threads=self._config.num_threads), path)

    def fix_widths(self, start: _Artefact) -> None:
        """Where the first run fell back to more bits, stages have these from the beginning."""
        if len(start.report.attempts) == 1:
            return
        allocation: list[Allotment] = [
            (t.component, t.info.name, t.info.spec.bit_width, t.info.spec.group_size, t.reason)
            for t in start.report.tensors
            if t.info.encoding != "copy"
        ]
        self._job.options.plan = plan_options(self._config, calibrated=True, allocation=allocation)

    def stages(self) -> list[list[str]]:
        from arrow_quant_v2.torch.stages import stages_of

        tensors = self._plan.tensors
        component = self._recorded.component
        names = [t.name for t in tensors if t.bit_width and t.component == component]
        return stages_of(self._recorded.network, self._recorded.tape[0], names, SEQUENTIAL.stages)

    def in_stages(
        self, start: _Artefact, stages: list[list[str]], progress: ProgressCallback | None
    ) -> _Artefact:
        """The first stage as at the start, each later one for what comes out of those before."""
        current = start
        share = 1 / max(1, len(stages) - 1)
        for number in range(1, len(stages)):
            later = [name for stage in stages[number:] for name in stage]
            part = part_of(progress, (number - 1) * share, share)
            statistics = self._calibrated(current, later, number, part_of(part, 0, _CALIBRATED))
            self._job.options.statistics_path = os.fsencode(statistics)
            current.store_again(self._job.options, but=(self._recorded.component, later))
            earlier = current
            current = self.quantize(str(number), part_of(part, _CALIBRATED, 1 - _CALIBRATED))
            statistics.unlink()
            if earlier is not start:
                shutil.rmtree(earlier.path)
        return current

    def _calibrated(
        self, current: _Artefact, later: list[str], number: int, progress: ProgressCallback | None
    ) -> Path:
        """A file of statistics of the inputs of `later` weights, the others being quantized."""
        from arrow_quant_v2.torch.calibrate import run_tape
        from arrow_quant_v2.torch.quantized_network import replaced, restored

        network, config = self._recorded.network, self._config
        tensors = current.model.components[self._recorded.component]
        earlier = {name: tensors[name] for name in tensors if name not in later}
        path = self._folder / f"statistics-{number}"
        with replaced(network, restored(network, earlier)):
            run_tape(
                network,
                self._recorded.tape,
                path,
                layers=later,
                component=self._recorded.component,
                data="user" if self._own_data else "neutral",
                time_aware=config.enable_time_aware,
                max_memory_mb=config.max_memory_mb,
                num_threads=config.num_threads,
                seed=_SEED,
                overwrite=False,
                progress_callback=progress,
            )
        return path

    def compared(
        self, start: _Artefact, staged: _Artefact, progress: ProgressCallback | None
    ) -> tuple[float, bool]:
        """Error of predictions for held-out states over that of the start, and whether it is less.

        A difference that may be chance counts as none.
        """
        import torch

        from arrow_quant_v2.torch.judge import Judge
        from arrow_quant_v2.torch.observe import evaluating
        from arrow_quant_v2.torch.quantized_network import QuantizedNetwork

        network = self._recorded.network

        def check() -> None:
            if progress is not None:
                progress("comparing with one stage", 0.0)

        judge = Judge(network, self._recorded.tape, torch.Generator().manual_seed(_SEED), check)
        with evaluating(network):
            one, many = (
                judge.errors(
                    QuantizedNetwork(
                        network, artefact.model.components[self._recorded.component]
                    ).predict
                )
                for artefact in (start, staged)
            )
        return judge.ratio(many, one), judge.is_less(many, one)
