"""A run over many files: several at once, in order, until it is done or stopped."""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from eyespot.cli import files
from eyespot.cli.findings import FileProblem, Finding, Table, shown
from eyespot.cli.looking import Looker, find
from eyespot.cli.terminal import err
from eyespot.ordered import in_order

_AHEAD = 16  # images for each thread that may be done before a slow one
_ROWS_SECONDS = 0.1
_LOOK_UP_SECONDS = 0.2


@dataclass(slots=True)
class Run:
    """A run over the images in files and folders, and what it has come to."""

    paths: Sequence[str]
    screen: Console  # which the bar is drawn on
    total: int = 0
    before: int = 0  # done by an earlier run
    problems_before: int = 0
    recognized: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    seconds: float = 0
    signals: list[int] = field(default_factory=list)

    def go(self, looker: Looker, is_done: Callable[[str], bool], write: Callable[[Finding], None]) -> None:
        """Write what is in each file that is not done; a signal ends the run after the image at hand.

        Raises:
            EyespotError, OSError: the run cannot go on.
        """
        self.total = sum(1 for _ in files.find(self.paths, lambda _: None))
        begun = time.monotonic()
        with self._bar() as bar, self._stopping(looker.stop):
            left = self._left(is_done, bar)
            try:
                with closing(in_order(partial(find, looker), left, looker.threads, _AHEAD * looker.threads)) as answers:
                    for _, future in answers:
                        while not self.signals and not future.done():
                            wait((future,), timeout=_LOOK_UP_SECONDS)  # a server may hang, and a signal not wake this
                        if self.signals:
                            break
                        self._add(future.result(), write)
                        bar()
            except BrokenPipeError:  # whoever reads has read enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            except Exception:
                if not self.signals:  # under which the client was closed
                    raise
            finally:
                self.seconds = time.monotonic() - begun

    def _left(self, is_done: Callable[[str], bool], bar: Callable[[], None]) -> Iterator[str]:
        for path in files.find(self.paths, self._unreadable):
            if is_done(path):
                self.before += 1
                bar()
            else:
                yield path

    def _unreadable(self, error: OSError) -> None:
        self._tell(str(error.filename), FileProblem.of(error))

    def _add(self, finding: Finding, write: Callable[[Finding], None]) -> None:
        write(finding)
        if finding.problem:
            self._tell(finding.path, finding.problem)
        else:
            self.recognized += 1

    def _tell(self, path: str, problem: FileProblem) -> None:
        self.problems[problem.code] += 1
        # What is written past the bar, to the same terminal, would stand in its line.
        console = self.screen if err.is_terminal and self.screen.is_terminal else err
        console.print(Text(shown(f"{path}: {problem.detail}"), style="red"), soft_wrap=True)

    def report(self) -> int:
        """Say what it has come to, unless it was not begun, and return the exit code: 1 if there were problems."""
        if not self.seconds:
            return 1
        failed = sum(self.problems.values())
        done = self.before + self.recognized + failed
        said = []
        if self.total > 1 and (self.recognized or failed):
            rate = self.recognized / self.seconds
            said.append(f"{_images(self.recognized)} recognised in {self.seconds:.1f} s, {rate:.0f} a second")
        if self.before:
            bad = f", of which {self.problems_before:,} could not be recognised" if self.problems_before else ""
            said.append(f"{_images(self.before)} done before{bad}")
        if not self.total:
            said.append(f"no images in {', '.join(self.paths)}; JPEG, PNG and WebP are looked for")
        if failed and self.total > 1:
            kinds = ", ".join(f"{count:,} {code}" for code, count in self.problems.most_common())
            said.append(f"{failed:,} could not be: {kinds}")
        if self.signals:
            said.append(f"stopped after {done:,} of {self.total:,}")
        if said:
            err.print("; ".join(said), markup=False, soft_wrap=True)
        return 1 if failed or self.problems_before or not self.total else 0

    @contextmanager
    def _stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """SIGINT and SIGTERM are noted; the second ends the process at once, which harms no file."""

        def note(number: int, _: FrameType | None) -> None:
            if self.signals:
                self.screen.show_cursor()
                os._exit(128 + number)
            self.signals.append(number)
            stop()

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def _bar(self) -> Iterator[Callable[[], None]]:
        columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        hidden = not self.screen.is_terminal or self.total <= 1
        with Progress(
            *columns,
            console=self.screen,
            disable=hidden,
            transient=True,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as progress:
            task = progress.add_task("", total=self.total)
            yield lambda: progress.advance(task)


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} images/s")


class Rows:
    """Rows of a table on a screen, several at a time, since with each time the bar is drawn anew."""

    def __init__(self, screen: Console, table: Table) -> None:
        self._screen = screen
        self._table = table
        self._rows: list[str] = []
        self._shown = 0.0

    def write(self, finding: Finding) -> None:
        """Add a row, to be seen within a moment."""
        self._rows.append(self._table.line(finding))
        if time.monotonic() - self._shown > _ROWS_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Show what has not been shown."""
        self._screen.print("".join(self._rows), end="", markup=False, soft_wrap=True)
        self._rows, self._shown = [], time.monotonic()
