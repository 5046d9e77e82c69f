"""``python -m zoo.evaluate MODEL_DIR [--reference DIR] [--json] [--smoke] [--samples-png F]``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from zoo.data import DEFAULT_DATA
from zoo.evaluate.loader import load
from zoo.evaluate.measure import Progress, measure, report
from zoo.evaluate.report import Report
from zoo.evaluate.subject import Effort, Setting

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model_dir: Annotated[Path, typer.Argument(help="Model directory or ArrowQuant artefact.")],
    reference: Annotated[
        Path | None, typer.Option(help="What it was made from; adds the comparison.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    smoke: Annotated[bool, typer.Option(help="Few items and steps: seconds, says little.")] = False,
    samples_png: Annotated[
        Path | None,
        typer.Option(help="Draw the samples here, the reference's beside it (-reference)."),
    ] = None,
    data: Annotated[
        Path, typer.Option(help="Folder of image sets that are not in the repository.")
    ] = DEFAULT_DATA,
    seed: Annotated[int, typer.Option(help="Of noise, masks and samples.")] = 0,
) -> None:
    """How good is a model of the zoo, or a quantized version of it?

    zoo/EVALUATION.md says what the numbers mean. Exit code 2: the model cannot be evaluated.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever fetched
    os.environ.setdefault("TQDM_DISABLE", "1")  # of the libraries that load models
    log = Console(stderr=True)
    setting = Setting(Effort.smoke() if smoke else Effort.full(), data, seed)
    try:
        with log.status("loading ...") as status:
            found = _evaluate(model_dir, reference, setting, samples_png, status.update)
    except (OSError, ValueError) as error:
        log.print("error:", error, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(found.to_json())
    else:
        Console(highlight=False).print(found.table())


def _evaluate(
    model_dir: Path,
    reference_dir: Path | None,
    setting: Setting,
    picture: Path | None,
    progress: Progress,
) -> Report:
    reference, candidate = None, load(model_dir)
    if reference_dir is not None:
        reference = measure(load(reference_dir), setting, progress)
        candidate.subject.follow(reference.candidate.subject)
    model = measure(candidate, setting, progress)
    found = report(model, reference, progress)
    if picture is not None:
        model.picture(picture)
        if reference is not None:
            reference.picture(picture.with_stem(f"{picture.stem}-reference"))
    return found


if __name__ == "__main__":
    app()
