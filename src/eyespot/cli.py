"""The command line."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from eyespot import __version__, pool, settings, telemetry
from eyespot.errors import EyespotError, StartError
from eyespot.settings import Settings
from eyespot.vision import export, weights
from eyespot.vision.classifier import Classifier
from eyespot.vision.weights import Entry
from eyespot.web.app import create_app
from eyespot.web.server import Server, bind

app = typer.Typer(
    help="What is in this image? Offline, on a CPU.",
    epilog="Settings are environment variables EYESPOT_*; openapi.md lists them all.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
weights_app = typer.Typer(help="The weight files: which there are, whether they are right, and where to get them.")
app.add_typer(weights_app, name="weights", no_args_is_help=True)

err = Console(stderr=True, highlight=False, emoji=False)
out = Console(highlight=False, emoji=False)


def main() -> None:
    """Run a command; what cannot start is told in one line, with exit code 2."""
    try:
        app()
    except (StartError, OSError) as error:  # OSError: a file that this user may not read, say
        if os.environ.get(settings.variable("log_format"), "").lower() == "json":  # the settings may be what is wrong
            telemetry.configure_logging("json", "error")
            telemetry.event("start_failed", logging.ERROR, reason=str(error))
        else:
            err.print(f"eyespot: {error}", markup=False, soft_wrap=True)
        sys.exit(2)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eyespot {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """What is in this image? Offline, on a CPU."""


@app.command()
def serve() -> None:
    """Serve the API and the page.

    Listens on `EYESPOT_HOST`:`EYESPOT_PORT` (127.0.0.1:8000) once the model is loaded and has recognised an image.
    SIGTERM stops it without losing a request; Ctrl-C stops it at once.

    Example: `EYESPOT_PORT=9000 eyespot serve`
    """
    config = _settings()
    for name in config.without_effect():
        telemetry.event(
            "setting_without_effect", logging.WARNING, name=name, reason="known, but not acted on in this version"
        )
    bound = bind(config.host, config.port)
    host, port = bound.getsockname()[:2]
    name = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104
    url = f"http://{name}:{port}"
    fastapi = create_app(config)

    def ready() -> None:
        card = fastapi.state.recognizer.classifier.card
        telemetry.event("server_ready", url=url, model=card.name, engine=card.engine, precision=card.precision)
        if config.log_format != "json":
            typer.echo(f"\n  page  {url}/\n  docs  {url}/docs\n  try   curl -F file=@{export.SAMPLE} {url}/predict\n")

    with bound:
        Server(fastapi, bound, config.drain_seconds, config.deadline_seconds).serve_until_stopped(ready)
    telemetry.event("server_stopped")


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    top_k: Annotated[int, typer.Option(min=1, help="How many classes a line.")] = 3,
    min_confidence: Annotated[float, typer.Option(min=0, max=1, help="Leave out classes below this.")] = 0,
) -> None:
    """Say what is in images, a line each, without a server.

    A file that cannot be recognised is reported on standard error, does not stop the others, and makes the exit code 1.

    Example: `eyespot classify cat.jpg dog.png`
    """
    config = _settings()
    planned = pool.plan(1, config.threads)
    classifier = Classifier.open(
        config.manifest,
        config.model,
        engine=config.engine,
        precision=config.precision,
        labels_dir=config.labels_dir,
        data_dir=config.data_dir,
        threads=planned.threads,
        max_pixels=config.max_pixels,
        formats=config.formats,
    )
    failed = 0
    for path in images:
        try:
            predictions = classifier.classify(path.read_bytes(), top_k, min_confidence)
        except (EyespotError, OSError) as error:
            failed += 1
            reason = error.strerror if isinstance(error, OSError) else error
            err.print(f"{path}: {reason}", markup=False, soft_wrap=True)
        else:
            said = ", ".join(f"{found.label} {found.confidence:.1%}" for found in predictions)
            out.print(f"{path}: {said or 'nothing above the least confidence'}", markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


@weights_app.command("list")
def list_weights() -> None:
    """List the networks of the manifest, and whether their weights are here."""
    entries = weights.read_manifest(_settings().manifest)
    table = Table("network", "weights", "top-1", "licence")
    table.add_column("file", overflow="fold")  # a path that is cut off helps nobody
    for entry in entries.values():
        state = "here" if entry.path.is_file() else "missing"
        top1 = f"{entry.accuracy.top1:.1f} %" if entry.accuracy else "unknown"
        table.add_row(entry.name, state, top1, entry.license, str(entry.path))
    out.print(table)


@weights_app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="Network; all whose weights are here, when left out.")] = None,
) -> None:
    """Check the size and the whole sha256 of weight files."""
    entries = weights.read_manifest(_settings().manifest)
    chosen = [weights.choose(entries, name)] if name else [entry for entry in entries.values() if entry.path.is_file()]
    if not chosen:
        weights.choose(entries)  # says what is missing
    for entry in chosen:
        out.print(f"{entry.name}: {weights.verify(entry)} is right", markup=False, soft_wrap=True)


@weights_app.command()
def fetch(
    name: Annotated[str | None, typer.Argument(help="Network; EYESPOT_MODEL or the first one, when left out.")] = None,
    url: Annotated[str | None, typer.Option(help="Take it from this address: a mirror, say.")] = None,
    source_file: Annotated[Path | None, typer.Option("--from", help="Take it from this file.")] = None,
) -> None:
    """Download the weights of a network, verify them, and put them beside the manifest.

    A download that breaks off goes on where it stopped when it is run again. This is the only command that reaches out;
    proxies are taken from HTTPS_PROXY.

    Examples: `eyespot weights fetch resnet18`, `eyespot weights fetch --from /media/usb/resnet18-f37072fd.pth`
    """
    config = _settings()
    entries = weights.read_manifest(config.manifest)
    name = name or (config.model if config.model != "auto" else next(iter(entries)))
    entry = weights.choose(entries, name)
    if entry.path.is_file():
        out.print(f"{entry.name}: {weights.verify(entry)} is here and right", markup=False, soft_wrap=True)
        return
    path = _fetch(entry, url, source_file)
    out.print(f"{entry.name}: {path} is here and right", markup=False, soft_wrap=True)


def _fetch(entry: Entry, url: str | None, source_file: Path | None) -> Path:
    columns = (TextColumn(entry.file), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("fetch", total=entry.bytes)
        return weights.fetch(
            entry,
            url=url,
            source_file=source_file,
            progress=lambda have, total: bar.update(task, completed=have, total=total),
        )


def _settings() -> Settings:
    config = settings.load()
    telemetry.configure_logging(config.log_format, config.log_level)
    return config
