"""What every command speaks through: two consoles, a progress bar, and the settings."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from eyespot import settings, telemetry
from eyespot.settings import Settings

err = Console(stderr=True, highlight=False, emoji=False)
out = Console(highlight=False, emoji=False)


@contextmanager
def bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar, and what is to be told: what is being done, how much is done, and of how much."""
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=err) as progress:
        task = progress.add_task("")
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


def load_settings() -> Settings:
    """The settings of the environment; events go to standard error as these say.

    Raises:
        InvalidSetting: one is unknown, or has a value that it cannot have.
    """
    config = settings.load()
    telemetry.configure_logging(config.log_format, config.log_level)
    return config
