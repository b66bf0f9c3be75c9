"""`eyespot classify`: recognise files and folders of images."""

import os
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eyespot.cli.backend import Backend, local, remote
from eyespot.cli.formats import Csv, JsonLines
from eyespot.cli.output import Output, Stdout, Table
from eyespot.cli.results import Results
from eyespot.cli.run import Run
from eyespot.cli.terminal import Url, err, out
from eyespot.errors import OutputUnusable
from eyespot.types import ModelInfo, Prediction

if TYPE_CHECKING:
    from eyespot.client.calls import Options


def classify(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Images, and folders to search.")],
    url: Url = None,
    form: Annotated[
        Literal["auto", "table", "jsonl", "csv"],
        typer.Option("--format", help="`auto`: a table on a terminal, otherwise jsonl, one object per line."),
    ] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file: CSV if it ends in .csv, else jsonl.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue --output after an interrupted run.")] = False,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Classes per image.")] = 3,
    min_confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="Minimum confidence; default 0, or 0.2 with --xmp.")
    ] = None,
    lang: Annotated[Literal["en", "zh"], typer.Option(help="Language of the labels; `zh` is English for now.")] = "en",
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Images at once; default 8 with --url, otherwise EYESPOT_WORKERS."),
    ] = None,
    xmp: Annotated[
        bool, typer.Option("--xmp", help="Add the classes as keywords to an XMP file beside each image: cat.jpg.xmp.")
    ] = False,
) -> None:
    """Recognise images on this machine, without a server, or with `--url` through one.

    Folders are searched for JPEG, PNG and WebP, without names that begin with a dot. A file that fails is reported on
    standard error, does not stop the others, and makes the exit code 1. Every line is written whole, so `--resume`
    continues after Ctrl-C or a crash. `EYESPOT_MODEL` and the other settings choose the model.

    Examples:

    - `eyespot classify cat.jpg`
    - `eyespot classify photos/ -o found.csv`
    - `eyespot classify photos/ -o found.jsonl --resume`
    - `eyespot classify photos/ --xmp`
    - `eyespot classify photos/ --url http://localhost:8000 | jq -r .predictions[0].label`
    """
    if "" in paths:
        raise typer.BadParameter("PATH is empty")
    chosen = _choose_format(form, output, resume)
    if min_confidence is None:
        min_confidence = 0.2 if xmp else 0
    options: Options = {"top_k": top_k, "min_confidence": min_confidence, "lang": lang}
    backend = remote(url, options, workers) if url else local(options, workers)
    if xmp:
        backend = _with_keywords(backend)
    with closing(backend):
        results = _open_output(chosen, output, resume, top_k, backend.model)
        code = Run(paths, backend, results, out if chosen == "table" else err).go()
    if url or code > 128:  # after a signal or a closed pipe, a thread may wait for the server for another 30 s
        sys.stdout.flush()
        os._exit(code)
    raise typer.Exit(code)


def _choose_format(form: str, output: Path | None, resume: bool) -> str:
    if resume and not output:
        raise typer.BadParameter("--resume needs --output")
    if form == "auto":
        suffix = output.suffix.lower() if output else ""
        return "csv" if suffix == ".csv" else "table" if out.is_terminal and not output else "jsonl"
    if form == "table" and output:
        raise typer.BadParameter("a table is for the terminal; --output takes jsonl or csv")
    return form


def _open_output(chosen: str, path: Path | None, resume: bool, top_k: int, model: ModelInfo) -> Output:
    if chosen == "table":
        return Table(out, top_k)
    form = JsonLines() if chosen == "jsonl" else Csv(top_k)
    if not path:
        return Stdout(form)
    results = Results(path, form)
    results.resume(model) if resume else results.begin()
    return results


def _with_keywords(backend: Backend) -> Backend:
    try:
        from eyespot.cli import xmp
    except ModuleNotFoundError as error:
        raise OutputUnusable("--xmp needs `pip install eyespot[xmp]`") from error

    def keep(path: str, predictions: list[Prediction]) -> None:
        xmp.add_keywords(Path(path), [found.label for found in predictions])

    return replace(backend, keep=keep)
