"""`eyespot`: all commands, and how their errors are shown."""

import io
import logging
import os
import shlex
import sys
from typing import Annotated

import typer

from eyespot import settings, telemetry
from eyespot._version import __version__
from eyespot.choices import SUFFIXES
from eyespot.cli import audit, info, weights
from eyespot.cli.bench import bench
from eyespot.cli.classify import classify
from eyespot.cli.quantize import quantize
from eyespot.cli.serve import serve
from eyespot.cli.terminal import err, say
from eyespot.errors import EyespotError, Unauthorized
from eyespot.settings import Settings

app = typer.Typer(
    help="What is in this image? Offline, on a CPU.",
    epilog="Settings are environment variables EYESPOT_*; `eyespot serve --help` lists them.",
    context_settings={"help_option_names": ["--help", "-h"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
_SETTINGS = (f"* `{settings.variable(name)}`: {field.description}" for name, field in Settings.model_fields.items())
app.command(epilog="Settings:\n\n" + "\n".join(_SETTINGS))(serve)
for command in (classify, info.health, info.model, info.labels, quantize, bench):
    app.command()(command)
app.add_typer(weights.app, name="weights", no_args_is_help=True)
app.add_typer(audit.app, name="audit", no_args_is_help=True)


# What newcomers type first, and what they mean.
_MEANT = {
    **dict.fromkeys(("run", "start", "server", "--serve"), "serve"),
    **dict.fromkeys(("predict", "recognize", "recognise"), "classify"),
    **dict.fromkeys(("download", "fetch"), "weights fetch"),
    **dict.fromkeys(("version", "-v", "-V"), "--version"),
    "benchmark": "bench",
    "help": "--help",
}


def main() -> None:
    """Run a command; an error is a line for each thing that is wrong, and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # None when it is closed
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that this terminal cannot show
    try:
        _refuse_likely_mistakes(sys.argv[1:])
        app()
    except (EyespotError, OSError) as error:  # OSError: a file without permission
        reason = f"{error} Set EYESPOT_API_KEY." if isinstance(error, Unauthorized) else str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            reason = f"{error.filename}: {error.strerror}"
        if os.environ.get(settings.variable("log_format"), "").lower() == "json":  # the settings may not load
            telemetry.configure_logging("json", "error")
            telemetry.event("start_failed", logging.ERROR, reason="; ".join(reason.splitlines()))
        else:
            for line in reason.splitlines():
                say(f"eyespot: {line}", err)
        sys.exit(2)


def _refuse_likely_mistakes(words: list[str]) -> None:
    """Raise an error that names the right command."""
    first, *rest = words or [""]
    if first in _MEANT or "/" in first or first.lower().endswith(SUFFIXES):
        meant = [_MEANT[first], *map(shlex.quote, rest)] if first in _MEANT else ["classify", *map(shlex.quote, words)]
        raise EyespotError(f"{first} is not a command; did you mean `eyespot {' '.join(meant)}`?")
    if settings_given := first.startswith(("serve", "--")) and _as_settings(words):
        raise EyespotError(f"settings are environment variables: {settings_given} eyespot serve")


def _as_settings(words: list[str]) -> str:
    """`--port 9000` as `EYESPOT_PORT=9000`."""
    found = []
    for option, following in zip(words, [*words[1:], "VALUE"], strict=True):
        name, _, value = option.partition("=")
        field = name.removeprefix("--").replace("-", "_")
        if field in Settings.model_fields and name.startswith("--"):
            found.append(f"{settings.variable(field)}={shlex.quote(value or following)}")
    return " ".join(found)


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
