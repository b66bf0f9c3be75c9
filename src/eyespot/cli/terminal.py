"""What commands share: two consoles, a progress bar, the wait for a server, and the settings."""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from eyespot import settings, telemetry
from eyespot.errors import OutputUnusable
from eyespot.settings import Settings

err = Console(stderr=True, highlight=False, emoji=False)
out = Console(highlight=False, emoji=False)


class _Progress(Progress):
    note: Callable[[], str] = str

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if note := self.note():
            yield Text(note)


@contextmanager
def bar(
    *columns: ProgressColumn, console: Console = err, hidden: bool = False, note: Callable[[], str] = str
) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal, as a function of a description, how much is done, and of how much.

    `note()` is shown below it.
    """
    columns = columns or (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    hidden = hidden or not console.is_terminal
    with _Progress(*columns, console=console, disable=hidden, transient=True, redirect_stdout=False) as progress:
        progress.note = note
        task = progress.add_task("")
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


def waiting(url: str | None, since: float) -> str:
    """The line to show once the server has been silent for two seconds; `since` is a time of `time.monotonic`."""
    seconds = int(time.monotonic() - since)
    return f"waiting for {url} ({seconds} s)" if url and seconds >= 2 else ""


@contextmanager
def shown_waiting(url: str) -> Iterator[None]:
    """Show that line, on a terminal, while the block waits for the server's first answer."""
    since = time.monotonic()
    with Live(get_renderable=lambda: Text(waiting(url, since)), console=err, transient=True):
        yield


@contextmanager
def closed_pipe_ends_it() -> Iterator[None]:
    """End the block without an error when the reader of standard output has gone, as `head` does.

    Raises `OutputUnusable` if its disk is full.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.ENOSPC:
            raise OutputUnusable("cannot write to standard output: no space left on device") from error


def say(text: str, console: Console = out) -> None:
    """Print a line as it is: not wrapped, and without markup."""
    console.print(text, markup=False, soft_wrap=True)


def load_settings(*, quiet: bool = False, checks: Mapping[str, Callable[[str | None], object]] = {}) -> Settings:
    """The settings of the environment; they say how events are logged. Raises `InvalidSetting`.

    `quiet` is for commands with an output of their own: only errors are logged, unless EYESPOT_LOG_LEVEL is set.
    """
    config = settings.load(checks)
    level = "error" if quiet and "log_level" not in config.model_fields_set else config.log_level
    telemetry.configure_logging(config.log_format, level)
    return config
