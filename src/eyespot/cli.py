"""The command line."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from eyespot import __version__, pool, settings, telemetry
from eyespot.errors import AuditUnusable, EngineUnavailable, EyespotError, StartError
from eyespot.memory import audit_export
from eyespot.settings import Settings
from eyespot.vision import export, weights
from eyespot.vision import quantize as int8
from eyespot.vision.classifier import Classifier, labels_of
from eyespot.vision.weights import Entry
from eyespot.web.app import create_app
from eyespot.web.server import Server, bind

if TYPE_CHECKING:
    from eyespot.memory.audit_table import AuditTable

app = typer.Typer(
    help="What is in this image? Offline, on a CPU.",
    epilog="Settings are environment variables EYESPOT_*; openapi.md lists them all.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
weights_app = typer.Typer(help="The weight files: which there are, whether they are right, and where to get them.")
app.add_typer(weights_app, name="weights", no_args_is_help=True)
audit_app = typer.Typer(help="The audit log that EYESPOT_AUDIT_URL names: who asked for what and what was answered.")
app.add_typer(audit_app, name="audit", no_args_is_help=True)

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
        threads=min(planned.threads, pool.MAX_LONE_THREADS),
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


@app.command()
def quantize(
    images: Annotated[Path, typer.Option(help="Folder of images like those that will be asked about.")],
    limit: Annotated[int, typer.Option(min=int8.MIN_IMAGES, help="Take no more than so many; 150 kB each.")] = 1000,
    force: Annotated[bool, typer.Option("--force", help="Keep it although it agrees on less than 90 %.")] = False,
) -> None:
    """Make the network's int8 form, several times as fast on processors with VNNI or AMX, from images of yours.

    Two of three images calibrate it; on the others its answers are measured beside those in float32. The report is
    printed, and `/model` shows it. A few hundred images are enough. `EYESPOT_PRECISION=int8 eyespot serve` uses it.

    Example: `eyespot quantize --images photos/`
    """
    config = _settings()
    if config.engine not in ("auto", "openvino"):
        raise EngineUnavailable(f"int8 is OpenVINO's; EYESPOT_ENGINE={config.engine} computes in f32")
    int8.check_installed()
    entry = weights.choose(weights.read_manifest(config.manifest), config.model)
    weights.verify(entry)
    classes = len(labels_of(entry, config.labels_dir))
    with _bar() as progress:
        found = int8.read_images(images, entry.recipe, limit, progress, config.max_pixels, config.formats)
    for path in found.skipped:
        err.print(f"{path}: no image that can be read", markup=False, soft_wrap=True)
    threads = pool.plan(config.workers, config.threads).lone_threads
    with _bar() as progress:
        place, report = int8.quantize(
            entry, classes, found, config.data_dir, threads=threads, force=force, progress=progress
        )
    table = Table("int8 beside float32", entry.name)
    table.add_row("the best way", report.way)
    table.add_row("images calibrated on, measured on", f"{report.calibrated_on}, {report.measured_on}")
    table.add_row("same likeliest class", f"{report.agreement:.1%}")
    table.add_row("confidence apart, mean and worst", f"{report.mean_difference:.3f}, {report.worst_difference:.3f}")
    speeds = report.images_per_second_before, report.images_per_second
    table.add_row("images a second, before and after", f"{speeds[0]:.1f}, {speeds[1]:.1f}")
    out.print(table)
    out.print(f"{place} is used with EYESPOT_PRECISION=int8", markup=False, soft_wrap=True)


@app.command()
def bench(
    url: Annotated[str | None, typer.Option(help="Load the server at this address instead.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of images to measure with, at most 100 of them.")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="Only this engine; may be given again.")] = None,
    connections: Annotated[str, typer.Option(help="Connections to the server, one load after the other.")] = "1,8,32",
    seconds: Annotated[float, typer.Option(min=0.05, max=600, help="Seconds of each measurement.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds with a server; medians are shown.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw a chart into this PNG file.")] = None,
) -> None:
    """Measure how fast this machine is, or a running server beside it.

    Without `--url`: each engine and precision that is installed, in a process of its own, and decode and crop by image
    size. With it: images a second over HTTP, as a fraction of what this machine could do at most, measured in turn.
    `EYESPOT_MODEL` and the other settings choose the network. Ctrl-C shows what has been measured so far.

    Examples: `eyespot bench --images photos/`, `eyespot bench --engine openvino --plot speed.png`,
    `eyespot bench --url http://localhost:8000 --connections 1,8 --json`
    """
    from eyespot.bench import machine, plot, report, server  # 25 ms that `serve` need not spend
    from eyespot.bench.figures import Setup

    config = _settings()
    if plot_file:
        plot.check(plot_file)
    planned = pool.plan(config.workers, config.threads)
    places = (config.manifest, config.model, config.labels_dir, config.data_dir)
    setup = Setup(*places, planned, seconds, images, config.max_bytes)
    found: report.Report
    with _bar() as progress:
        if url:
            found = server.bench(url, setup, server.numbers(connections), rounds, progress=progress)
        else:
            found = machine.measure(setup, engine or (), progress=progress)
    if as_json:
        typer.echo(report.as_json(found))
    else:
        report.show(found, out)
    if plot_file and found.measured:
        plot.draw(found, plot_file)
    if not found.measured:
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
    from eyespot.vision import fetch as fetching  # `serve` need not load an HTTP client

    columns = (TextColumn(entry.file), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("fetch", total=entry.bytes)
        return fetching.fetch(
            entry,
            url=url,
            source_file=source_file,
            progress=lambda have, total: bar.update(task, completed=have, total=total),
        )


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar, and what is to be told: what is being done, how much is done, and of how much."""
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=err) as bar:
        task = bar.add_task("")
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


_SINCE = typer.Option(help="From this time on, UTC: 2026-11-24 or 2026-11-24T09:00:00.", show_default=False)
_UNTIL = typer.Option(help="Before this time.", show_default=False)


@audit_app.command("export")
def export_audit(
    as_csv: Annotated[bool, typer.Option("--csv/--jsonl", help="A table, or a JSON object a line.")] = False,
    since: Annotated[datetime | None, _SINCE] = None,
    until: Annotated[datetime | None, _UNTIL] = None,
) -> None:
    """Print the audit log, oldest row first. A server may write to it meanwhile.

    Examples: `eyespot audit export --csv > audit.csv`, `eyespot audit export --since 2026-11-01 | jq .top5[0].label`
    """
    with _audit_table() as table:
        rows = table.all_rows(*(time and time.replace(tzinfo=UTC) for time in (since, until)))
        try:
            audit_export.write(rows, sys.stdout, as_csv=as_csv)
        except BrokenPipeError:  # whoever reads has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@audit_app.command("prune")
def prune_audit(
    days: Annotated[int, typer.Option(min=1, max=36_500, help="Delete what is older than so many days.")],
) -> None:
    """Delete old rows of the audit log, now. A server does so every hour with EYESPOT_AUDIT_DAYS.

    Example: `eyespot audit prune --days 90`
    """
    pruned = 0
    with _audit_table() as table, _bar() as progress:
        while some := table.prune(datetime.now(UTC) - timedelta(days=days)):
            pruned += some
            progress(f"{pruned:,} rows deleted", 0, 1)
    out.print(f"{pruned:,} rows deleted", markup=False)


@contextmanager
def _audit_table() -> Iterator["AuditTable"]:
    """The table that the settings name.

    Raises:
        AuditUnusable: there is none, or it cannot be had.
    """
    config = _settings()
    if config.audit_url == "off":
        raise AuditUnusable("there is no audit log: EYESPOT_AUDIT_URL is off")
    from eyespot.memory.audit_table import AuditTable  # 0.2 s that other commands need not spend

    table = AuditTable(config.audit_url, config.data_dir)
    try:
        table.prepare()
        yield table
    except table.failures as error:
        raise table.unusable(error) from error
    finally:
        table.close()


def _settings() -> Settings:
    config = settings.load()
    telemetry.configure_logging(config.log_format, config.log_level)
    return config
