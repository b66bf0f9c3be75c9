"""`eyespot weights …`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from eyespot.cli.terminal import bar, err, load_settings, out, say
from eyespot.errors import WeightsCorrupt
from eyespot.settings import Settings
from eyespot.vision import weights

app = typer.Typer(help="The weight files: list, verify and download them.")


def _entries(config: Settings) -> dict[str, weights.Entry]:
    return weights.read_manifest(config.manifest, config.data_dir)


@app.command("list")
def list_weights() -> None:
    """List the models of the manifest, and whether their weights are here."""
    entries = _entries(load_settings()).values()
    here = [entry for entry in entries if entry.path.is_file()]
    table = Table("model", "size", "top-1", "licence", "weights", box=None, pad_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    for entry in entries:
        top1 = f"{entry.accuracy.top1:.1f} %" if entry.accuracy else "unknown"
        size = f"{entry.mib or entry.bytes / 2**20:.1f} MiB"
        table.add_row(entry.name, size, top1, entry.license, "present" if entry in here else "missing")
    out.print(table)
    say("")
    for entry in here:  # a path in a table would be cut or folded
        say(f"{entry.name}: {entry.path}")
    if len(here) < len(entries):
        say("`eyespot weights fetch MODEL` downloads missing ones.")


@app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="By default every model whose weights are here.")
    ] = None,
) -> None:
    """Check the size and the sha256 of weight files."""
    entries = _entries(load_settings())
    here = [entry for entry in entries.values() if entry.path.is_file()]
    chosen = [weights.choose(entries, name)] if name else here
    for entry in chosen or [weights.choose(entries)]:  # which raises what is missing
        say(f"{entry.name}: {weights.verify(entry).path} is correct")


@app.command()
def fetch(
    name: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="By default EYESPOT_MODEL, or the first of the manifest.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Download from this address, such as a mirror.")
    ] = None,
    source_file: Annotated[Path | None, typer.Option("--from", metavar="FILE", help="Copy this file instead.")] = None,
) -> None:
    """Download a model's weights, verify them, and put them beside the manifest.

    An interrupted download continues when the command is run again. No other command uses the internet; HTTPS_PROXY is
    respected.

    Examples: `eyespot weights fetch resnet18`, `eyespot weights fetch --from /media/usb/resnet18-f37072fd.pth`
    """
    from eyespot.vision import fetch as fetching  # `serve` need not load an HTTP client

    config = load_settings()
    entries = _entries(config)
    model = config.model if config.model != "auto" else next(iter(entries))
    entry = weights.choose(entries, name) if name else weights.choose(entries, model)
    if entry.path.is_file():
        try:
            say(f"{entry.name}: {weights.verify(entry).path} is correct; nothing to fetch")
            return
        except WeightsCorrupt as error:
            say(f"{error}; fetching it again", err)
    columns = TextColumn(entry.file), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with bar(*columns) as progress:
        path = fetching.fetch(entry, url=url, source_file=source_file, progress=partial(progress, ""))
    say(f"{entry.name}: {path} is correct")
