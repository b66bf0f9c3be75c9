"""`eyespot weights …`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from eyespot.cli.terminal import err, load_settings, out
from eyespot.errors import WeightsCorrupt
from eyespot.vision import weights
from eyespot.vision.weights import Entry

app = typer.Typer(help="The weight files: which there are, whether they are right, and where to get them.")


@app.command("list")
def list_weights() -> None:
    """List the networks of the manifest, and whether their weights are here."""
    entries = weights.read_manifest(load_settings().manifest)
    table = Table("network", "weights", "top-1", "licence")
    table.add_column("file", overflow="fold")  # a path that is cut off helps nobody
    for entry in entries.values():
        state = "here" if entry.path.is_file() else "missing"
        top1 = f"{entry.accuracy.top1:.1f} %" if entry.accuracy else "unknown"
        table.add_row(entry.name, state, top1, entry.license, str(entry.path))
    out.print(table)


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="Network; all whose weights are here, when left out.")] = None,
) -> None:
    """Check the size and the whole sha256 of weight files."""
    entries = weights.read_manifest(load_settings().manifest)
    chosen = [weights.choose(entries, name)] if name else [entry for entry in entries.values() if entry.path.is_file()]
    if not chosen:
        weights.choose(entries)  # says what is missing
    for entry in chosen:
        out.print(f"{entry.name}: {weights.verify(entry)} is right", markup=False, soft_wrap=True)


@app.command()
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
    config = load_settings()
    entries = weights.read_manifest(config.manifest)
    name = name or (config.model if config.model != "auto" else next(iter(entries)))
    entry = weights.choose(entries, name)
    if entry.path.is_file():
        try:
            path = weights.verify(entry)
        except WeightsCorrupt as error:
            err.print(f"{error}; fetching it anew", markup=False, soft_wrap=True)
        else:
            out.print(f"{entry.name}: {path} is here and right; nothing to fetch", markup=False, soft_wrap=True)
            return
    path = _fetch(entry, url, source_file)
    out.print(f"{entry.name}: {path} is here and right", markup=False, soft_wrap=True)


def _fetch(entry: Entry, url: str | None, source_file: Path | None) -> Path:
    from eyespot.vision import fetch as fetching  # `serve` need not load an HTTP client

    columns = (TextColumn(entry.file), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("fetch", total=entry.bytes)
        return fetching.fetch(
            entry,
            url=url,
            source_file=source_file,
            progress=lambda have, total: bar.update(task, completed=have, total=total),
        )
