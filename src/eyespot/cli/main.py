"""`eyespot`: all commands, and how their errors are shown."""

import io
import logging
import os
import sys
from typing import Annotated

import typer

from eyespot import settings, telemetry
from eyespot._version import __version__
from eyespot.cli import audit, info, weights
from eyespot.cli.bench import bench
from eyespot.cli.classify import classify
from eyespot.cli.quantize import quantize
from eyespot.cli.serve import serve
from eyespot.cli.terminal import err
from eyespot.errors import EyespotError

app = typer.Typer(
    help="What is in this image? Offline, on a CPU.",
    epilog="Settings are environment variables EYESPOT_*; openapi.md lists them all.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for command in (serve, classify, info.health, info.model, info.labels, quantize, bench):
    app.command()(command)
app.add_typer(weights.app, name="weights", no_args_is_help=True)
app.add_typer(audit.app, name="audit", no_args_is_help=True)


def main() -> None:
    """Run a command; an error is one line and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # None when it is closed
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that this terminal cannot show
    try:
        app()
    except (EyespotError, OSError) as error:  # OSError: a file without permission
        if os.environ.get(settings.variable("log_format"), "").lower() == "json":  # the settings may not load
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
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What is in this image? Offline, on a CPU."""
