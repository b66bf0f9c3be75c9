"""`eyespot`: all commands, and how their errors are shown."""

import io
import logging
import os
import shlex
import sys
from collections import deque
from typing import Annotated

import typer

from eyespot import settings, telemetry
from eyespot._version import __version__
from eyespot.choices import SUFFIXES
from eyespot.cli import audit, info, weights
from eyespot.cli.bench import bench
from eyespot.cli.calibrate import calibrate
from eyespot.cli.classify import classify
from eyespot.cli.evaluate import evaluate
from eyespot.cli.finetune import finetune
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
_COMMANDS = {"serve", "weights", "audit"}
app.command(epilog="Settings:\n\n" + "\n".join(_SETTINGS))(serve)
for command in (classify, info.health, info.model, info.labels, finetune, evaluate, calibrate, quantize, bench):
    app.command()(command)
    _COMMANDS.add(command.__name__)
app.add_typer(weights.app, name="weights", no_args_is_help=True)
app.add_typer(audit.app, name="audit", no_args_is_help=True)


# What newcomers type first, and what they mean.
_MEANT = {
    **dict.fromkeys(("run", "start", "server", "--serve"), "serve"),
    **dict.fromkeys(("predict", "recognize", "recognise"), "classify"),
    **dict.fromkeys(("download", "fetch"), "weights fetch"),
    **dict.fromkeys(("version", "-v", "-V"), "--version"),
    "benchmark": "bench",
}
_MODEL_SETTINGS = {"model", "engine", "precision"}


def main() -> None:
    """Run a command; an error is a line for each thing that is wrong, and exit code 2."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - None if it is closed
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that this terminal cannot show
    try:
        _refuse_likely_mistakes(sys.argv[1:])
        app()
    except (EyespotError, OSError) as error:  # OSError: a file without permission
        reason = f"{error} Set EYESPOT_API_KEY." if isinstance(error, Unauthorized) else str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            reason = f"{error.filename}: {error.strerror}"
        for note in getattr(error, "__notes__", ()):
            reason = f"{reason.rstrip('.')}; {note}"
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
    meant = words
    if first == "help":
        meant = [*rest, "--help"]
    elif first in _MEANT:
        meant = [*_MEANT[first].split(), *rest]
    elif _is_path(first):
        meant = ["classify", *words]
    settings_given, command = _settings_apart(meant)
    if settings_given or meant != words:
        right = " ".join([*settings_given, "eyespot", *map(shlex.quote, command)])
        if meant == words:
            raise EyespotError(f"settings are environment variables: {right}")
        raise EyespotError(f"{first} is not a command; did you mean `{right}`?")


def _is_path(word: str) -> bool:
    if word in _COMMANDS or word.startswith("-"):
        return False
    return "/" in word or word.lower().endswith(SUFFIXES) or os.path.exists(word)


def _settings_apart(words: list[str]) -> tuple[list[str], list[str]]:
    """`serve --port 9000` as `EYESPOT_PORT=9000` and `serve`."""
    default = "serve" if words and words[0].startswith("-") else ""
    name = next((word for word in words if word in _COMMANDS), default)
    own = dict.fromkeys(("classify", "evaluate"), _MODEL_SETTINGS)
    fields = {"serve": Settings.model_fields.keys(), **own}.get(name, ())
    found, rest, queue = list[str](), list[str](), deque(words)
    while queue:
        option, _, value = (word := queue.popleft()).partition("=")
        if name == "serve" and (option == "-p" or (option.isdecimal() and rest == ["serve"])):
            option, value = "--port", option.strip("-p")
        field = option.removeprefix("--").replace("-", "_")
        if option.startswith("--") and field in fields:
            if not value and queue and not queue[0].startswith("-"):
                value = queue.popleft()
            found.append(f"{settings.variable(field)}={shlex.quote(value or 'VALUE')}")
        else:
            rest.append(word)
    return found, rest or ["serve"]


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
