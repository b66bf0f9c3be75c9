"""`eyespot bench`."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter

from eyespot.cli.terminal import err, load_settings, out


def bench(
    url: Annotated[str | None, typer.Option(metavar="URL", help="Measure the server at this address.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, metavar="FOLDER", help="Measure with images of this folder, at most 100."
        ),
    ] = None,
    engine: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this engine; may be repeated.")] = None,
    connections: Annotated[
        list[int] | None,
        typer.Option(metavar="N", min=1, help="Number of connections; may be repeated; by default 1, 8 and 32."),
    ] = None,
    seconds: Annotated[float, typer.Option(metavar="SECONDS", min=0.05, max=600, help="Length of a measurement.")] = 3,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, max=100, help="Rounds with --url; the report has the medians.")
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a chart of the engines into this PNG file.")
    ] = None,
) -> None:
    """Measure how fast this machine is, or a running server.

    Without `--url`: each installed engine and precision, in a process of its own, and decoding by image size. With it:
    images per second over HTTP, and the fraction of this machine's upper bound, measured alternately.
    `EYESPOT_MODEL` and the other settings choose the model. Ctrl-C stops and shows what has been measured.

    Examples: `eyespot bench --images photos/`, `eyespot bench --engine openvino --plot speed.png`,
    `eyespot bench --url http://localhost:8000 --connections 8 --json`
    """
    from eyespot.bench import figures, machine, report, server  # 25 ms that `serve` need not spend

    config, task = load_settings(quiet=True), figures.Task(seconds, images)
    found = figures.Report(seconds, url, rounds if url else 1)
    if plot:
        report.check_chart(plot)
    steps = machine.measure(found, config, task, engine or ())
    if url:
        steps = server.measure(found, config, task, connections or (1, 8, 32))
    with err.status("") as status:
        try:
            for step in steps:
                status.update(step)
        except KeyboardInterrupt:
            found.interrupted = True
    if as_json:
        typer.echo(TypeAdapter(figures.Report).dump_json(found, indent=1))
    else:
        report.show(found, out)
    if plot and found.engines:
        report.draw(found, plot)
    if not found.engines and not any(row.images_per_s for row in found.loads):
        raise typer.Exit(1)
