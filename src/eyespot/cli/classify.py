"""`eyespot classify`: recognise files and folders of images."""

import os
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eyespot.cli.backend import DEFAULT_TOP_K, Backend, local, remote
from eyespot.cli.formats import Csv, Finding, JsonLines
from eyespot.cli.options import Language, Url
from eyespot.cli.output import Moves, Output, Stdout, Table
from eyespot.cli.results import Results, tried_again
from eyespot.cli.run import Run
from eyespot.cli.sorting import Sorter, passes
from eyespot.cli.terminal import err, out, say
from eyespot.errors import OutputUnusable

if TYPE_CHECKING:
    from eyespot.client.calls import Options

_SUFFIXES = {"": "jsonl", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
_FORMATS, _NAMES = "table, jsonl, csv or parquet", ".csv, .jsonl, .ndjson or .parquet"


def classify(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Images, and folders to search.")],
    url: Url = None,
    form: Annotated[
        Literal["auto", "table", "jsonl", "csv", "parquet"],
        typer.Option(
            "--format",
            metavar="FORMAT",
            show_default=False,
            help=f"{_FORMATS}. By default the suffix of --output decides; without it, a table on a terminal and jsonl "
            "otherwise.",
        ),
    ] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help=f"Write to this file: {_NAMES}.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue --output, and retry files that could not be read or sorted, and requests that failed.",
        ),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Continue --output, and retry all files that failed.")
    ] = False,
    top_k: Annotated[int, typer.Option("--top-k", "-k", metavar="N", min=1, help="Classes per image.")] = DEFAULT_TOP_K,
    min_confidence: Annotated[
        float, typer.Option(metavar="CONFIDENCE", min=0, max=1, help="List only classes of at least this confidence.")
    ] = 0,
    lang: Language = "en",
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=256,
            help="Images in parallel; the default is EYESPOT_WORKERS, or 8 with --url.",
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, max=86_400, help="Seconds to wait for a server that is down or overloaded."
        ),
    ] = 60,
    xmp: Annotated[
        bool,
        typer.Option(
            "--xmp",
            help="Write the answer and its groups as keywords to an XMP file beside each image: cat.jpg.xmp.",
        ),
    ] = False,
    sort_into: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            help="Link each image into a folder for its answer: DIR/animal/dog. Nothing is overwritten: "
            "another image of the same name becomes cat (1a2b3c4d).jpg. XMP files stay where they are.",
        ),
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="With --sort-into, copy instead of linking.")] = False,
    dry_run: Annotated[
        bool | None,
        typer.Option(
            "--dry-run/--no-dry-run",
            show_default=False,
            help="Only print what --sort-into would do, and write nothing; the default on a terminal.",
        ),
    ] = None,
) -> None:
    """Recognise images on this machine, without a server, or with `--url` through one.

    Folders are searched for JPEG, PNG and WebP; names that begin with a dot are skipped. A file that fails is reported
    on standard error, does not stop the others, and makes the exit code 1. After Ctrl-C or a crash, `--resume`
    continues. `EYESPOT_MODEL` and the other settings choose the model.

    Examples:

    - `eyespot classify cat.jpg`
    - `eyespot classify photos/ -o found.csv`
    - `eyespot classify photos/ -o found.parquet --resume`
    - `eyespot classify photos/ --xmp --lang zh`
    - `eyespot classify photos/ --sort-into sorted/`
    - `eyespot classify photos/ --url http://localhost:8000 | jq -r .says.label`
    """
    if "" in paths:
        raise typer.BadParameter("PATH is empty")
    chosen = _choose_format(form, output, resume or retry_failed)
    sorter = _open_sorter(paths, sort_into, copy, dry_run)
    if sorter and sorter.dry_run:
        if resume or retry_failed:
            raise typer.BadParameter("a dry run does not continue --output; add --no-dry-run")
        if output or xmp:
            say("a dry run ignores --output and --xmp", err)
        chosen, output, xmp = "table", None, False
    options: Options = {"top_k": top_k, "min_confidence": min_confidence, "lang": lang}
    backend = remote(url, options, workers, wait) if url else local(options, workers)
    if xmp:
        backend = _with_keywords(backend)
    with closing(backend):
        results = Moves(out, top_k) if sorter and chosen == "table" else _open_output(chosen, output, top_k)
        if isinstance(results, Results):
            if resume or retry_failed:
                results.resume(backend.model, tried_again(paths, every=retry_failed))
            else:
                results.begin()
        code = Run(paths, backend, results, out if chosen == "table" else err, sorter).go()
    if sorter and sorter.dry_run:
        say("Dry run: nothing was written; add --no-dry-run", err)
    if url or code > 128:  # after a signal or a closed pipe, a thread may wait for the server for another 30 s
        sys.stdout.flush()
        os._exit(code)
    raise typer.Exit(code)


def _choose_format(form: str, output: Path | None, resume: bool) -> str:
    if output and not output.name:
        raise typer.BadParameter("--output needs the name of a file")
    if resume and not output:
        raise typer.BadParameter("--resume and --retry-failed need --output")
    if form == "table" and output:
        raise typer.BadParameter("a table is for the terminal; choose another --format for --output")
    if form == "parquet" and not output:
        raise typer.BadParameter("parquet needs --output")
    if form != "auto":
        return form
    if not output:
        return "table" if out.is_terminal else "jsonl"
    suffix = output.suffix.lower()
    if suffix not in _SUFFIXES:
        raise typer.BadParameter(f"{output} does not end in {_NAMES}; rename it, or choose a --format")
    return _SUFFIXES[suffix]


def _open_output(chosen: str, path: Path | None, top_k: int) -> Output:
    if chosen == "table":
        return Table(out, top_k)
    form = Csv(top_k) if chosen == "csv" else JsonLines()
    if not path:
        return Stdout(form)
    if chosen != "parquet":
        return Results(path, form)
    try:
        from eyespot.cli.parquet import Parquet
    except ModuleNotFoundError as error:
        raise OutputUnusable("parquet needs `pip install eyespot[parquet]`") from error
    return Parquet(path)


def _open_sorter(paths: list[str], folder: Path | None, copy: bool, dry_run: bool | None) -> Sorter | None:
    if not folder:
        if copy or dry_run is not None:
            raise typer.BadParameter("--copy and --dry-run need --sort-into")
        return None
    if passes(paths, folder):
        say(f"{folder} is not searched", err)
    return Sorter(folder, copy=copy, dry_run=out.is_terminal if dry_run is None else dry_run)


def _with_keywords(backend: Backend) -> Backend:
    try:
        from eyespot.cli import xmp
    except ModuleNotFoundError as error:
        raise OutputUnusable("--xmp needs `pip install eyespot[xmp]`") from error

    def keep(finding: Finding) -> None:
        xmp.add_keywords(Path(finding.path), finding.said)

    return replace(backend, keep=keep)
