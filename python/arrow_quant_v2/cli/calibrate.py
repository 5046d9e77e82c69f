"""``arrow-quant calibrate``: what enters the layers of a model, into a file of statistics."""

from __future__ import annotations

import json as json_module
import os
from pathlib import Path
from typing import Annotated

import typer

from arrow_quant_v2.calibration.statistics import CalibrationStatistics
from arrow_quant_v2.cli import options
from arrow_quant_v2.cli.console import print_facts, print_json, progress_bar, warn
from arrow_quant_v2.cli.exit_codes import command
from arrow_quant_v2.config.settings import DiffusionQuantConfig
from arrow_quant_v2.errors import ConfigurationError, OutputError, ShapeMismatchError
from arrow_quant_v2.plan.model_plan import plan_model

#: What decides which layers are observed, and how.
_SETTINGS = (
    "deployment_profile",
    "layer_rules",
    "components",
    "calibration_samples",
    "num_threads",
    "max_memory_mb",
    "trust_remote_code",
)


@command
@options.takes_settings(*_SETTINGS)
def calibrate(
    model: options.Model,
    stats: Annotated[Path, typer.Argument(metavar="STATS", help="File of statistics to write.")],
    settings: DiffusionQuantConfig,
    data: options.Data = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="S", help="Of noise, labels, and what is observed.")
    ] = 0,
    merge: Annotated[
        list[Path] | None,
        typer.Option(
            "--merge",
            metavar="FILE",
            help="Do not run the model; add up files of other runs (with other seeds). Repeatable.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file that is at STATS.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Run a model and keep statistics of what enters its layers.

    'arrow-quant quantize --stats' takes the file.
    """
    if os.path.lexists(stats) and not overwrite:
        raise OutputError(f"{stats}: the file exists", path=str(stats), hint="Use --overwrite.")
    if merge:
        given = settings.explain()["calibration_samples"][1] == "argument"
        if given or data is not None:
            raise ConfigurationError("--merge adds up files; it takes no --samples and no --data")
        facts = _merge(model, stats, settings, merge, overwrite=overwrite)
    else:
        facts = _run(model, stats, settings, data, seed, overwrite=overwrite, quiet=json)
    if json:
        print_json(json_module.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print_facts([(name, str(value)) for name, value in facts.items() if name != "notes"])


def _run(
    model: Path,
    stats: Path,
    settings: DiffusionQuantConfig,
    data: Path | None,
    seed: int,
    *,
    overwrite: bool,
    quiet: bool,
) -> dict[str, object]:
    try:
        from arrow_quant_v2.torch import capture
    except ImportError as error:
        raise ConfigurationError(
            f"calibration runs the model, and a library is missing: {error}",
            hint="pip install 'arrow-quant-v2[models]'",
        ) from error
    with progress_bar(quiet=quiet) as show:
        run = capture(
            model,
            stats,
            settings,
            calibration_data=data,
            seed=seed,
            overwrite=overwrite,
            progress_callback=show,
        )
    warn(run.notes)
    return {
        "statistics": str(stats),
        "data": run.data,
        "layers": len(run.layers),
        "calls": run.samples,
        "passes": run.passes,
        "notes": list(run.notes),
    }


def _merge(
    model: Path,
    stats: Path,
    settings: DiffusionQuantConfig,
    files: list[Path],
    *,
    overwrite: bool,
) -> dict[str, object]:
    total = CalibrationStatistics.load(files[0], settings.num_threads)
    for file in files[1:]:
        total.merge(CalibrationStatistics.load(file, settings.num_threads))
    plan = plan_model(model, settings)
    known = {(tensor.component, tensor.name) for tensor in plan.tensors}
    layers = [name for number in range(len(total)) for name in total.layers(number)]
    for name in layers:
        if (total.component, name) not in known:
            raise ShapeMismatchError(
                f"{model}: the statistics are of another model: it has no weight "
                f"'{name}' in component '{total.component}'",
                tensor=name,
            )
    total.save(stats, overwrite=overwrite)
    warn(total.notes)
    return {
        "statistics": str(stats),
        "data": total.data,
        "layers": len(layers),
        "files": len(files),
        "notes": total.notes,
    }
