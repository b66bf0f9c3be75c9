"""What commands share: two consoles, a progress bar, the option --url, and the settings."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from eyespot import settings, telemetry
from eyespot.settings import Settings

err = Console(stderr=True, highlight=False, emoji=False)
out = Console(highlight=False, emoji=False)

Url = Annotated[str | None, typer.Option(envvar="EYESPOT_URL", help="Ask this server.", show_default=False)]


@contextmanager
def bar(
    *columns: ProgressColumn, console: Console = err, hidden: bool = False
) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal, as a function of a description, how much is done, and of how much."""
    columns = columns or (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    hidden = hidden or not console.is_terminal
    with Progress(*columns, console=console, disable=hidden, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task("")
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


@contextmanager
def closed_pipe_ends_it() -> Iterator[None]:
    """End the block without an error when the reader of standard output has gone, as `head` does."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str, console: Console = out) -> None:
    """Print a line as it is: not wrapped, and without markup."""
    console.print(text, markup=False, soft_wrap=True)


def load_settings() -> Settings:
    """The settings of the environment; they say how events are logged. Raises `InvalidSetting`."""
    config = settings.load()
    telemetry.configure_logging(config.log_format, config.log_level)
    return config
