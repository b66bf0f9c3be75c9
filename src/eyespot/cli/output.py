"""Where the findings of `eyespot classify` go: a table on the terminal, or standard output."""

import re
import time

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from eyespot.cli.formats import Finding, Format
from eyespot.cli.terminal import closed_pipe_ends_it
from eyespot.types import Prediction, Says

_PRINT_SECONDS = 0.1
_STYLES = {"class": "bold", "group": "bold cyan", "unsure": "dim"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Output:
    """Takes one finding after the other."""

    resumable = False  # whether another run can continue it
    failed_before = 0  # files that an earlier run wrote as failed

    def write(self, finding: Finding) -> None:
        raise NotImplementedError

    def has(self, path: str) -> bool:  # noqa: ARG002
        """Whether an earlier run wrote this file's finding."""
        return False

    def close(self) -> None:
        """Write what is still due."""


class Stdout(Output):
    """Lines on standard output."""

    def __init__(self, form: Format) -> None:
        self._form, self._header = form, form.header

    def write(self, finding: Finding) -> None:
        header, self._header = self._header, b""
        typer.echo(header + self._form.line(finding), nl=False)

    def close(self) -> None:
        with closed_pipe_ends_it():
            typer.echo(self._header, nl=False)


class Table(Output):
    """Columns for people, cut to the width of a terminal: the path, the answer, and other classes.

    Failed files have no row.
    """

    def __init__(self, console: Console, top_k: int) -> None:
        self._console = console
        self._width = console.width if console.is_terminal else None
        self._cell = max(16, min(26, console.width * 3 // 4 // min(top_k + 1, 3) - 2)) if self._width else 26
        # Whole cells, or a number would be cut in two.
        self._cells = max(1, min(top_k + 1, (console.width - 8) // (self._cell + 2))) if self._width else top_k + 1
        self._rows: list[Text] = []
        self._printed = 0.0

    def write(self, finding: Finding) -> None:
        self._rows.append(self.row(finding))
        if time.monotonic() - self._printed > _PRINT_SECONDS:  # each print redraws the progress bar
            self.close()

    def close(self) -> None:
        self._console.print(Text().join(self._rows), end="", soft_wrap=True)
        self._rows, self._printed = [], time.monotonic()

    def row(self, finding: Finding) -> Text:
        """The finding's line; empty for a failed file."""
        if not (says := finding.says):
            return Text()
        others = list(finding.predictions or ())
        if says.kind == "class" and others and others[0].label == says.label:
            del others[0]
        path = printable(finding.path)
        if self._width is not None:
            path = _shortened(path, max(8, self._width - self._cells * (self._cell + 2)))
        row = Text(f"{path}  ").append(self._cell_of(says), _STYLES[says.kind])
        for found in others[: self._cells - 1]:
            row.append(f"  {self._cell_of(found)}")
        row.rstrip()
        return row.append("\n")

    def _cell_of(self, found: Prediction | Says) -> str:
        share = "" if isinstance(found, Says) and found.kind == "unsure" else f" {found.confidence:.1%}"
        room = self._cell - len(share)
        fits = cell_len(found.label) <= room
        label = found.label if fits else set_cell_size(found.label, room - 1).rstrip() + "…"
        return set_cell_size(label + share, self._cell)


class Moves(Table):
    """A line for each image that says where it is sorted."""

    def row(self, finding: Finding) -> Text:
        return Text(printable(f"{finding.path} → {finding.sorted_to}") + "\n" if finding.sorted_to else "")


def printable(path: str) -> str:
    """A path without the control characters that would repaint or clear a terminal."""
    return _CONTROL.sub("?", path)


def _shortened(path: str, cells: int) -> str:
    """The path in exactly that many cells, without its middle: names differ at their ends, and most in a number."""
    if cell_len(path) <= cells:
        return set_cell_size(path, cells)
    tail = cells * 3 // 5
    return f"{set_cell_size(path, cells - 1 - tail)}…{set_cell_size(path[::-1], tail)[::-1]}"
