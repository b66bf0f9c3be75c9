"""`eyespot evaluate`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from eyespot import cpus
from eyespot.choices import ENGINES
from eyespot.cli.labelled import Labelled, confused, measures, read, shortlist
from eyespot.cli.terminal import err, load_settings, out, say
from eyespot.errors import EngineUnavailable, OutputUnusable, UnlabelledImages

if TYPE_CHECKING:
    from eyespot.vision.classifier import Classifier
    from eyespot.vision.evaluation import Evaluation

PRECISIONS = list(dict.fromkeys(precision for choice in ENGINES.values() for precision in choice.precisions))


def evaluate(
    source: Labelled,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="PRECISIONS", help="Evaluate in several precisions, and compare each with the first: f32,bf16,int8."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            file_okay=False,
            help="Write report.html, confusion.png and reliability.png into this folder.",
        ),
    ] = None,
) -> None:
    """Measure accuracy, confusions and speed on your own labelled images.

    A subfolder is named after its class: a label in either language, or a wnid, as `eyespot labels` lists them. Files
    whose names begin with a wnid need no subfolder. A CSV file has the columns `path` and `label`, or these two without
    a header; paths are relative to it. Images that cannot be read are named and left out.

    `EYESPOT_MODEL`, `EYESPOT_ENGINE` and `EYESPOT_PRECISION` choose what is evaluated. With `--compare`, McNemar's test
    tells whether a difference in top-1 may be chance.

    Examples: `eyespot evaluate labelled/`, `eyespot evaluate test.csv --compare f32,int8 --output report/`
    """
    from eyespot import assembly

    if output and output.resolve().is_relative_to(source.resolve()):
        raise typer.BadParameter("--output must not be inside the folder that is evaluated: charts are images too")
    precisions = _precisions(compare)
    report = open_report(output) if output else None  # before minutes of work
    config = load_settings(quiet=True)
    plan = cpus.plan(config.workers, config.threads)

    def open_model(precision: str) -> "Classifier":
        with err.status("loading the model (about 15 s the first time)"):
            return assembly.open_classifier(config.model_copy(update={"precision": precision}), plan)

    found = run(open_model, source, precisions or [config.precision], plan.workers)
    show(found)
    if report and output:
        with err.status("writing the report"):
            report.write(output, source, found, list(rows(found)))
        say(f"wrote {output / 'report.html'}, with confusion.png and reliability.png beside it")


def _precisions(compare: str | None) -> list[str]:
    chosen = list(dict.fromkeys(word.strip() for word in compare.split(","))) if compare is not None else []
    if unknown := [word for word in chosen if word not in PRECISIONS]:
        raise typer.BadParameter(f"--compare has {unknown[0]!r}; the precisions are {', '.join(PRECISIONS)}")
    return chosen


def open_report(folder: Path) -> ModuleType:
    """The module that writes reports, once it is known that it can write one here. Raises `OutputUnusable`."""
    try:
        from eyespot.cli import report
    except ModuleNotFoundError as error:
        raise OutputUnusable("--output needs `pip install 'eyespot[plot]'`") from error
    report.check(folder)
    return report


def run(
    open_model: "Callable[[str], Classifier]", source: Path, precisions: Sequence[str], threads: int
) -> "list[Evaluation]":
    """An evaluation for each precision. One that is unavailable here is skipped with a message, unless it is the first.

    Raises `StartError`, also if the images are no longer the same.
    """
    from eyespot.vision import evaluation

    found: list[Evaluation] = []
    for precision in precisions:
        try:
            classifier = open_model(precision)
        except EngineUnavailable as error:
            if not found:
                raise
            say(f"{precision} is left out: {error}", err)
            continue
        reading = read(classifier, source, threads, again=bool(found))
        if found and reading.paths != found[0].reading.paths:
            raise UnlabelledImages(f"the images in {source} changed while they were read; run this again")
        with err.status("measuring"):
            found.append(evaluation.evaluate(classifier, reading))
    return found


def rows(found: "Sequence[Evaluation]") -> Iterator[list[str]]:
    """The figures of each evaluation, each row with its title; and how the others compare with the first."""
    yield from measures([one.report for one in found], found[0].reading.samples.labels)
    yield ["images/s", *(f"{one.reading.images_per_second:.1f}" for one in found)]
    yield ["inference", *(f"{one.reading.infer_ms:.1f} ms" for one in found)]
    if len(found) > 1:
        first, differences = found[0].card.precision, [found[0].difference(one) for one in found[1:]]
        yield [f"right where {first} is wrong", "", *(f"{one.gained:,}" for one in differences)]
        yield [f"wrong where {first} is right", "", *(f"{one.lost:,}" for one in differences)]
        yield ["p (McNemar)", "", *(f"{one.p:.3g}" for one in differences)]


def show(found: "Sequence[Evaluation]") -> None:
    """Print the figures, and the classes that the first model confuses."""
    from eyespot.vision import confusion

    card, samples = found[0].card, found[0].reading.samples
    say(f"{card.name} ({card.digest[:8]}), {card.engine}")
    table = Table(f"{len(samples.truth):,} images", *(one.card.precision for one in found))
    for row in rows(found):
        table.add_row(*row)
    out.print(table)
    names = samples.labels.names["en"]
    worst = [row for row in confusion.classes(samples) if row.right < row.images]
    shortlist("least accurate class", "right", ((names[row.class_id], f"{row.right} of {row.images}") for row in worst))
    confused(samples)
