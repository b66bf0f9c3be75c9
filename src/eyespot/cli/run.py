"""A run over many files: several at once, in order, until all are done or a signal stops it."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from eyespot import files
from eyespot.choices import titles
from eyespot.cli.backend import Backend
from eyespot.cli.formats import FileProblem
from eyespot.cli.output import Output, printable
from eyespot.cli.sorting import Sorter
from eyespot.cli.terminal import bar, closed_pipe_ends_it, err, say, waiting
from eyespot.errors import EyespotError
from eyespot.ordered import in_order

_POLL_SECONDS = 0.2


@dataclass(slots=True)
class Run:
    """A run over the images in files and folders, and its counts."""

    paths: Sequence[str]
    backend: Backend
    output: Output
    screen: Console  # of the progress bar
    sorter: Sorter | None = None
    total: int = 0
    done_before: int = 0
    recognised: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    signals: list[int] = field(default_factory=list)

    def go(self) -> int:
        """Write a finding for each file that `output` lacks, close it, print the counts, and return the exit code.

        It is 1 if a file failed or there was none, and 128 + n if signal n ended the run, after the finding in hand.
        Raises `EyespotError` or `OSError` if the run cannot continue.
        """
        self.total = sum(1 for _ in self._found())
        started = time.monotonic()
        try:
            with self._noting_signals(), closed_pipe_ends_it():
                self._write_findings()
        finally:
            self.output.close()
            if counts := list(self._counts(time.monotonic() - started)):
                say("; ".join(counts), err)
        if self.signals:
            return 128 + self.signals[0]
        return 1 if self.failed or self.output.failed_before or not self.total else 0

    def _write_findings(self) -> None:
        threads = self.backend.threads
        columns = BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn()
        answered = time.monotonic()
        with (
            bar(
                *columns,
                console=self.screen,
                hidden=self.total <= 1,
                note=lambda: waiting(self.backend.url, answered),
            ) as progress,
            closing(in_order(self.backend.find, self._remaining(), threads)) as findings,
        ):
            progress("", 0, self.total)
            for _, future in findings:
                while not self.signals and not future.done():  # a signal does not end the wait for a server that hangs
                    wait((future,), timeout=_POLL_SECONDS)
                if self.signals:
                    break
                try:
                    finding = future.result()
                except EyespotError as error:
                    if self.output.resumable:
                        error.add_note("--resume continues")
                    raise
                answered = time.monotonic()
                if self.sorter:
                    finding = self.sorter.place(finding)
                self.output.write(finding)
                if finding.problem:
                    self._report(finding.path, finding.problem)
                else:
                    self.recognised += 1
                progress("", self.done, self.total)

    @property
    def done(self) -> int:
        return self.done_before + self.recognised + self.failed.total()

    def _found(self) -> Iterator[str | OSError]:
        return files.find(self.paths, str(self.sorter.folder) if self.sorter else "")

    def _remaining(self) -> Iterator[str | OSError]:
        for found in self._found():
            if self.output.has(found if isinstance(found, str) else str(found.filename)):
                self.done_before += 1
            else:
                yield found

    def _report(self, path: str, problem: FileProblem) -> None:
        self.failed[problem.code] += 1
        # On the terminal that shows the bar, text that bypasses its console would land in the bar's line.
        console = self.screen if err.is_terminal and self.screen.is_terminal else err
        console.print(Text(printable(f"{path}: {problem.detail}"), style="red"), soft_wrap=True)

    def _counts(self, seconds: float) -> Iterator[str]:
        failed = self.failed.total()
        if self.total > 1 and (self.recognised or failed):
            codes = ", ".join(f"{count:,} {code}" for code, count in self.failed.most_common())
            counts = f"{self.recognised:,} recognised" + (f", {failed:,} failed ({codes})" if failed else "")
            yield f"{counts} in {seconds:.1f} s, {self.recognised / seconds:,.0f} images/s"
        if self.done_before:
            earlier = f" ({self.output.failed_before:,} failed)" if self.output.failed_before else ""
            unsorted = ", not sorted again" if self.sorter else ""
            yield f"{self.done_before:,} done before{earlier}{unsorted}"
        if not self.total:
            yield f"no {titles()} images in {', '.join(self.paths)}"
        if self.signals:
            remedy = "; --resume continues" if self.output.resumable else ""
            yield f"stopped after {self.done:,} of {self.total:,}{remedy}"

    @contextmanager
    def _noting_signals(self) -> Iterator[None]:
        """Note SIGINT and SIGTERM; a second one ends the process at once, which harms no file."""

        def note(number: int, _: FrameType | None) -> None:
            if self.signals:
                self.screen.show_cursor()
                os._exit(128 + number)
            self.signals.append(number)

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} images/s")
