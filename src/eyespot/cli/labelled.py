"""Shared by the commands for labelled images: reading them and printing the measures."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from eyespot.cli.output import printable
from eyespot.cli.terminal import bar, err, out, say

if TYPE_CHECKING:
    from eyespot.types import Calibration
    from eyespot.vision.classifier import Classifier
    from eyespot.vision.evaluation import Measure, Report
    from eyespot.vision.labels import Labels
    from eyespot.vision.samples import Reading, Samples

Labelled = Annotated[
    Path,
    typer.Argument(
        exists=True, metavar="FOLDER|CSV", help="Folder with one subfolder of images per class, or a list of images."
    ),
]

_MOST = 5  # rows of a short list
_TITLES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "class_said": "answered with a class",
    "group_said": "answered with a group",
    "said": "answered",
    "said_right": "answers right",
    "refused": "unsure, of 'other' images",
    "wrongly_refused": "unsure, of all other images",
    "calibration_error": "calibration error (ECE)",
}


def read(classifier: "Classifier", source: Path, threads: int, minimum: int = 1, *, again: bool = False) -> "Reading":
    """Read the images under a progress bar, and name those left out, unless this is `again`."""
    from eyespot.vision import samples

    with bar() as progress:
        reading = samples.read(classifier, source, threads, progress, minimum)
    if again:
        return reading
    left_out(reading.unreadable, reading.contradictory)
    if reading.trained_on:
        say(f"{reading.trained_on} of {len(reading.paths)} images trained this model, so the figures flatter it", err)
    return reading


def left_out(unreadable: Iterable[Path], contradictory: Iterable[Sequence[Path]]) -> None:
    """Name the images that do not count."""
    for path in unreadable:
        say(printable(f"{path}: not a readable image"), err)
    for paths in contradictory:
        say(printable(f"{', '.join(map(str, paths))}: the same image in different classes, left out"), err)


def report_of(parts: "Iterable[tuple[Calibration, Samples]]") -> "Report":
    """The report on samples, each part with its calibration."""
    from eyespot.vision.evaluation import report

    return report([(samples.candidates(used.temperature), used) for used, samples in parts])


def measures(reports: "Sequence[Report]", labels: "Labels") -> Iterator[list[str]]:
    """The title of each measure that says something about a model with these classes, and its value in each report."""
    absent = {"top5"} if len(labels) <= 5 else set()
    absent |= {"class_said", "group_said"} if not labels.groups else set()
    absent |= {"refused", "wrongly_refused"} if labels.other is None else set()
    for name, title in _TITLES.items():
        if name not in absent:
            yield [title, *(percent(getattr(report, name)) for report in reports)]


def confused(samples: "Samples") -> None:
    """Print which classes are taken for which most often."""
    from eyespot.vision import confusion

    names = samples.labels.names["en"]
    pairs = confusion.confusions(samples)
    rows = ((f"{names[pair.true]} → {names[pair.found]}", f"{pair.images}") for pair in pairs)
    shortlist("most confused classes", "images", rows)


def shortlist(title: str, column: str, rows: Iterable[tuple[str, str]]) -> None:
    """Print a table of the first names, each with its figure, if there are any."""
    table = Table(title, column)
    for name, figure in islice(rows, _MOST):
        table.add_row(Text(name), figure)
    if table.row_count:
        out.print(table)


def percent(one: "Measure") -> str:
    """A share with its interval; a dash if it is of nothing."""
    low, high = f"{100 * one.low:.1f}", f"{100 * one.high:.1f}"
    return "-" if one.high - one.low == 1 else f"{one.value:.1%} ({low}–{high})"
