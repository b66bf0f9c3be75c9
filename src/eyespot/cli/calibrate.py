"""`eyespot calibrate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from eyespot import cpus
from eyespot.cli.terminal import bar, err, load_settings, out, say
from eyespot.errors import CalibrationRefused
from eyespot.types import Calibration

if TYPE_CHECKING:
    from eyespot.vision.classifier import Classifier
    from eyespot.vision.evaluation import Measure, Report
    from eyespot.vision.fitting import Samples

_TITLES = {
    "top1": "top-1 accuracy",
    "class_said": "answered with a class",
    "group_said": "answered with a group",
    "said": "answered",
    "said_right": "answers right",
    "calibration_error": "calibration error (ECE)",
}


def calibrate(
    folder: Annotated[
        Path,
        typer.Argument(
            exists=True, file_okay=False, metavar="FOLDER", help="Folder with one subfolder of images per class."
        ),
    ],
    test: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            metavar="FOLDER",
            show_default=False,
            help="Images to measure on; by default each half of the others, with the fit of the other half.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure only; save nothing.")] = False,
) -> None:
    """Fit the model's confidences, and the threshold to answer, to your own labelled images.

    A subfolder is named after its class: a label in either language, or a wnid, as `eyespot labels` lists them. Files
    whose names begin with a wnid need no subfolder. At least 100 images are needed, a few hundred are better.

    The temperature makes a confidence of 0.8 mean right 80 % of the time. The threshold, `min_says`, is the lowest at
    which 95 % of answers are right. Both are for the model and the precision that EYESPOT_MODEL and EYESPOT_PRECISION
    choose; `serve` and `classify` use them from their next start, unless EYESPOT_MIN_SAYS is set, and `/model` shows
    them.

    Example: `eyespot calibrate labelled/`
    """
    from eyespot import assembly
    from eyespot.vision import calibration, fitting

    if test and test.samefile(folder):
        raise typer.BadParameter("--test must be another folder: images to measure on must not be fitted on")
    config = load_settings(quiet=True)
    own = config.model_copy(update={"min_says": None})
    classifier = assembly.open_classifier(own, cpus.plan(config.workers, config.threads))
    samples = _read(classifier, folder)
    tested = _read(classifier, test) if test else None
    with err.status("fitting"):
        fitted, present = fitting.fit(samples), classifier.calibration
        new = [(fitted, tested)] if tested else fitting.crossed(samples)
        columns = [_report([(present, part) for _, part in new]), _report(new)]
    _show(columns, sum(len(part.truth) for _, part in new))
    if fitted.min_says == 1:
        raise CalibrationRefused("no threshold makes 95 % of answers right; are the labels right? Nothing was saved")
    info = classifier.info
    values = f"temperature = {fitted.temperature}, min_says = {fitted.min_says}, images = {fitted.images}"
    say(f"calibration.{info.precision} = {{ {values} }}")
    if dry_run:
        say("not saved (--dry-run)")
    else:
        say(f"saved to {calibration.keep(fitted, info.digest, info.precision, config.data_dir)}")
    if config.min_says is not None:
        say(f"EYESPOT_MIN_SAYS={config.min_says} replaces min_says as long as it is set", err)


def _read(classifier: "Classifier", folder: Path) -> "Samples":
    from eyespot.vision import fitting

    with bar() as progress:
        samples, skipped = fitting.read(classifier, folder, progress)
    for path in skipped:
        say(f"{path}: not a readable image", err)
    return samples


def _report(parts: list[tuple[Calibration, "Samples"]]) -> "Report":
    from eyespot.vision.evaluation import report

    return report([(samples.candidates(used.temperature), used) for used, samples in parts])


def _show(columns: "list[Report]", images: int) -> None:
    table = Table(f"{images} images", "present", "new")
    for name, title in _TITLES.items():
        table.add_row(title, *(_percent(getattr(column, name)) for column in columns))
    out.print(table)


def _percent(one: "Measure") -> str:
    return f"{one.value:.1%} ({one.low:.1%} to {one.high:.1%})"
