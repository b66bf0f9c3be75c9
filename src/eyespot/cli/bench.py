"""`eyespot bench`."""

from pathlib import Path
from typing import Annotated

import typer

from eyespot import pool
from eyespot.cli.terminal import bar, load_settings, out


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

    config = load_settings()
    if plot_file:
        plot.check(plot_file)
    planned = pool.plan(config.workers, config.threads)
    places = (config.manifest, config.model, config.labels_dir, config.data_dir)
    setup = Setup(*places, planned, seconds, images, config.max_bytes)
    found: report.Report
    with bar() as progress:
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
