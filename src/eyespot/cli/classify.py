"""`eyespot classify`: what is in files and folders of images."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from eyespot.cli import looking
from eyespot.cli.asking import Url
from eyespot.cli.findings import Csv, Finding, Format, JsonLines, Table, encoded
from eyespot.cli.looking import Question
from eyespot.cli.results import Results
from eyespot.cli.run import Rows, Run
from eyespot.cli.terminal import err, out
from eyespot.types import ModelInfo

_KEYWORD_CONFIDENCE = 0.2


def classify(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="Images, and folders of images with all below them.",
            show_default=False,
            path_type=str,  # a Path makes the folder that one stands in of an empty text
        ),
    ],
    url: Url = None,
    form: Annotated[
        Literal["auto", "table", "jsonl", "csv"],
        typer.Option("--format", help="`auto` is a table on a terminal, and jsonl, an object a line, elsewhere."),
    ] = "auto",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write to this file, in the format that its name ends with."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --output where a run before was cut off.")
    ] = False,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many classes for each image.")] = 3,
    min_confidence: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out classes below this; by default 0, and 0.2 with --xmp."),
    ] = None,
    lang: Annotated[
        Literal["en", "zh"], typer.Option(help="Language of the labels; `zh` answers with the English names so far.")
    ] = "en",
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Images at once; by default planned, and 8 with --url.")
    ] = None,
    xmp: Annotated[
        bool, typer.Option("--xmp", help="Add the classes as keywords to an XMP file beside each image: cat.jpg.xmp.")
    ] = False,
) -> None:
    """Say what is in images: on this machine, without a server, or with `--url` by a server.

    Folders are searched for JPEG, PNG and WebP; what begins with a dot is left out. A file that cannot be recognised is
    reported on standard error, does not stop the others, and makes the exit code 1. Ctrl-C leaves a whole file, and so
    does anything else; `--resume` goes on with it. `EYESPOT_MODEL` and the other settings choose the network.

    Examples:

    - `eyespot classify cat.jpg`
    - `eyespot classify photos/ -o found.csv`
    - `eyespot classify photos/ -o found.jsonl --resume`
    - `eyespot classify photos/ --xmp`
    - `eyespot classify photos/ --url http://localhost:8000 | jq -r .predictions[0].label`
    """
    names = [str(path) for path in paths]
    if "" in names:
        raise typer.BadParameter("a PATH is empty")
    chosen = _chosen(form, output, resume)
    if min_confidence is None:
        min_confidence = _KEYWORD_CONFIDENCE if xmp else 0
    question = Question(top_k, min_confidence, lang)
    run = Run(names, out if chosen == "table" else err)
    try:
        with (
            looking.there(url, question, workers) if url else looking.here(question, workers) as looker,
            _writing(chosen, output, resume, top_k, looker.model, run) as (write, is_done),
        ):
            run.go(looking.with_keywords(looker) if xmp else looker, is_done, write)
    finally:
        code = run.report()
    if run.signals:
        os._exit(128 + run.signals[0])  # a thread may still wait for a server
    raise typer.Exit(code)


def _chosen(form: str, output: Path | None, resume: bool) -> str:
    if resume and not output:
        raise typer.BadParameter("--resume needs --output FILE, which it goes on with")
    if form == "auto":
        suffix = output.suffix.lower() if output else ""
        return "csv" if suffix == ".csv" else "table" if out.is_terminal and not output else "jsonl"
    if form == "table" and output:
        raise typer.BadParameter("a table is for the terminal; --output takes jsonl or csv")
    return form


@contextmanager
def _writing(
    chosen: str, output: Path | None, resume: bool, top_k: int, model: ModelInfo, run: Run
) -> Iterator[tuple[Callable[[Finding], None], Callable[[str], bool]]]:
    """What writes a finding, and what says whether one has been written by the run before."""
    form: Format = JsonLines() if chosen == "jsonl" else Csv(top_k)
    if output:
        with Results(output, form) as results:
            if resume:
                results.resume(model)
                run.problems_before = results.problems
            else:
                results.begin()
            yield results.write, results.has
    elif chosen == "table":
        rows = Rows(out, Table(out.width if out.is_terminal else None, top_k))
        yield rows.write, lambda _: False
        rows.flush()
    else:
        typer.echo(encoded(form.head()), nl=False)
        yield lambda finding: typer.echo(encoded(form.line(finding)), nl=False), lambda _: False
