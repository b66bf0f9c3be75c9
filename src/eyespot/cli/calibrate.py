"""`eyespot calibrate`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from eyespot import cpus
from eyespot.cli.labelled import Labelled, measures, read, report_of
from eyespot.cli.terminal import err, load_settings, out, say
from eyespot.errors import CalibrationRefused


def calibrate(
    source: Labelled,
    test: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            metavar="FOLDER|CSV",
            show_default=False,
            help="Images to measure on; by default each half of the others, with the fit of the other half.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure only; save nothing.")] = False,
) -> None:
    """Fit confidences and the answer threshold to your own labelled images.

    A subfolder is named after its class: a label in either language, or a wnid, as `eyespot labels` lists them. Files
    whose names begin with a wnid need no subfolder, and a CSV file lists paths and labels. At least 100 images are
    needed, a few hundred are better.

    The temperature scales confidences so that answers at 0.8 are right 80 % of the time. The threshold, `min_says`, is
    the lowest at which 95 % of answers are right. Both are for the model and the precision that EYESPOT_MODEL and
    EYESPOT_PRECISION choose. A running server uses them after SIGHUP or a restart. EYESPOT_MIN_SAYS replaces
    `min_says`.

    Example: `eyespot calibrate labelled/`
    """
    from eyespot import assembly
    from eyespot.vision import calibration, fitting

    if test and test.samefile(source):
        raise typer.BadParameter("--test must name other images: those to measure on must not be fitted on")
    config = load_settings(quiet=True)
    own = config.model_copy(update={"min_says": None})
    plan = cpus.plan(config.workers, config.threads)
    classifier = assembly.open_classifier(own, plan)
    reading = read(classifier, source, plan.workers, fitting.MIN_IMAGES)
    if reading.trained_on:
        raise CalibrationRefused(
            f"`eyespot finetune` has calibrated {classifier.info.name} on these; calibrate it only on new images"
        )
    samples = reading.samples
    tested = read(classifier, test, plan.workers, fitting.MIN_IMAGES).samples if test else None
    with err.status("fitting"):
        fitted, present = fitting.fit(samples), classifier.calibration
        new = [(fitted, tested)] if tested else fitting.crossed(samples)
        columns = [report_of((present, part) for _, part in new), report_of(new)]
    table = Table(f"{sum(len(part.truth) for _, part in new)} images", "current", "new")
    for row in measures(columns, classifier.labels):
        table.add_row(*row)
    out.print(table)
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
