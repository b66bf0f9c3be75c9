"""`eyespot calibrate`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from eyespot import cpus
from eyespot.cli.terminal import bar, err, load_settings, out, say
from eyespot.types import Calibration


def calibrate(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, metavar="FOLDER", help="Images in a folder for each class.")
    ],
    test: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            metavar="FOLDER",
            show_default=False,
            help="Measure on these images; by default on each half of the others, fitted on the other half.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only measure; keep the present calibration.")] = False,
) -> None:
    """Fit, on your own labelled images, how sure the model must be before it says something.

    Each folder is named after its class: a label in either language, or a wnid, as `eyespot labels` lists them. Files
    whose names begin with a wnid need no such folder. A few hundred images are enough.

    The temperature makes confidences true shares. The threshold, `min_says`, is the lowest with which 95 % of what is
    said is right. Both are for the model and the precision that EYESPOT_MODEL and EYESPOT_PRECISION choose; `serve` and
    `classify` use them from their next start, and `/model` shows them.

    Example: `eyespot calibrate labelled/`
    """
    from eyespot import assembly
    from eyespot.vision import calibration, fitting
    from eyespot.vision.evaluation import report

    config = load_settings(quiet=True)
    classifier = assembly.open_classifier(config, cpus.plan(config.workers, config.threads))

    def read(folder: Path) -> fitting.Samples:
        with bar() as progress:
            samples, skipped = fitting.read(classifier, folder, progress)
        for path in skipped:
            say(f"{path}: not a readable image", err)
        return samples

    samples = read(folder)
    tested = read(test) if test else None
    with err.status("fitting"):
        fitted, before = fitting.fit(samples), classifier.calibration
        measured = [(fitted, tested)] if tested else fitting.crossed(samples)
        reports = [
            report([(part.candidates(used.temperature), used) for used, part in parts])
            for parts in ([(before, part) for _, part in measured], measured)
        ]
    table = Table(f"{sum(len(part.truth) for _, part in measured)} images", "before", "after")
    for name, *columns in zip(_ROWS, *reports, strict=True):
        table.add_row(name, *(f"{one.value:.1%} ({one.low:.1%} to {one.high:.1%})" for one in columns))
    out.print(table)
    info = classifier.info
    say(f"calibration.{info.precision} = {_toml(fitted)}")
    if dry_run:
        say("nothing was kept: --dry-run")
    else:
        say(f"kept in {calibration.keep(fitted, info.digest, info.precision, config.data_dir)}")


# Of `evaluation.Report`, in its order.
_ROWS = (
    "likeliest class right",
    "class said",
    "group said",
    "something said",
    "of that, right",
    "calibration error (ECE)",
)


def _toml(fitted: Calibration) -> str:
    """The calibration as a line of the manifest."""
    return f"{{ temperature = {fitted.temperature}, min_says = {fitted.min_says}, images = {fitted.images} }}"
