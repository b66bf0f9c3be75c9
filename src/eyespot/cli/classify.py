"""`eyespot classify`: what is in files and folders of images."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from eyespot import pool
from eyespot.cli.asking import Url
from eyespot.cli.findings import Csv, FileProblem, Finding, Format, JsonLines, Results, Table, encoded
from eyespot.cli.run import Rows, Run
from eyespot.cli.terminal import err, load_settings, out
from eyespot.errors import EyespotError, ImageTooLarge, NoAnswer, NoImage, OutputUnusable, Refusal
from eyespot.types import ImageInfo, ModelInfo, Prediction

Look: TypeAlias = Callable[[str], tuple[list[Prediction], ImageInfo]]
"""What is in the image in a file. Raises `EyespotError`, `OSError`."""

Looking: TypeAlias = tuple[Look, ModelInfo, int, Callable[[], None]]
"""How images are looked at, with what network, by how many threads, and what makes those give up that wait."""

_MOST_BYTES = 256 * 1024 * 1024  # of a file that is read into memory; more than any photograph has
_KEYWORD_CONFIDENCE = 0.2
_CALLERS = 8


def classify(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Images, and folders of images with all below them.", show_default=False),
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
    chosen = _chosen(form, output, resume)
    if min_confidence is None:
        min_confidence = _KEYWORD_CONFIDENCE if xmp else 0
    run = Run([str(path) for path in paths], out if chosen == "table" else err)
    try:
        with (
            _remote(url, lang, workers, top_k, min_confidence) if url else _local(workers, top_k, min_confidence) as (
                look,
                model,
                threads,
                stop,
            ),
            _writing(chosen, output, resume, top_k, model) as (write, is_done),
        ):
            run.go(partial(_find, _with_keywords(look) if xmp else look, model), threads, stop, is_done, write)
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
def _local(workers: int | None, top_k: int, min_confidence: float) -> Iterator[Looking]:
    from eyespot import assembly

    config = load_settings()
    planned = pool.plan(workers or config.workers, config.threads)
    classifier = assembly.open_classifier(config, planned)

    def look(path: str) -> tuple[list[Prediction], ImageInfo]:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ImageTooLarge(f"The file has more than {_MOST_BYTES:,} bytes.", limit=_MOST_BYTES)
        if not data:
            raise NoImage("The file is empty.")
        seen = classifier.see(data)
        image = ImageInfo(sha256(data).hexdigest(), seen.format, seen.width, seen.height)
        return classifier.top(seen, top_k, min_confidence), image

    yield look, classifier.info, planned.workers, lambda: None


@contextmanager
def _remote(
    url: str, lang: Literal["en", "zh"], workers: int | None, top_k: int, min_confidence: float
) -> Iterator[Looking]:
    from eyespot.client import Client

    load_settings()
    with Client(url) as client:
        card = client.model()

        def look(path: str) -> tuple[list[Prediction], ImageInfo]:
            found = client.predict(path, top_k=top_k, min_confidence=min_confidence, lang=lang)
            return found.predictions, found.image

        model = ModelInfo(card.name, card.digest, card.engine, card.precision)
        yield look, model, workers or _CALLERS, client.close


def _with_keywords(look: Look) -> Look:
    try:
        from eyespot.cli import xmp
    except ModuleNotFoundError as error:
        raise OutputUnusable("to write keywords, `pip install eyespot[xmp]` is needed") from error

    def look_and_tell(path: str) -> tuple[list[Prediction], ImageInfo]:
        predictions, image = look(path)
        xmp.add_keywords(Path(path), [found.label for found in predictions])
        return predictions, image

    return look_and_tell


@contextmanager
def _writing(
    chosen: str, output: Path | None, resume: bool, top_k: int, model: ModelInfo
) -> Iterator[tuple[Callable[[Finding], None], Callable[[str], bool]]]:
    """What writes a finding, and what says whether one has been written by the run before."""
    form: Format = JsonLines() if chosen == "jsonl" else Csv(top_k)
    if output:
        with Results(output, form) as results:
            if resume:
                results.resume(model)
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


def _find(look: Look, model: ModelInfo, path: str) -> Finding:
    """What is in a file, or what is wrong with it. Raises `EyespotError` of what is wrong with the server."""
    try:
        predictions, image = look(path)
    except (EyespotError, OSError) as error:
        if isinstance(error, NoAnswer) or (isinstance(error, Refusal) and not error.is_of_the_image):
            raise
        return Finding(path, problem=FileProblem.of(error))
    return Finding(path, predictions, image, model)
