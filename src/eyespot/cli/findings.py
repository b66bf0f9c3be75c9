"""What was found in each file: as a table, as JSON lines or as CSV."""

import csv
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from pydantic import TypeAdapter
from rich.cells import cell_len, set_cell_size

from eyespot.errors import EyespotError, Refusal
from eyespot.types import ImageInfo, ModelInfo, Prediction


@dataclass(frozen=True, slots=True)
class FileProblem:
    """Why there is nothing to say about a file."""

    code: str
    detail: str

    @classmethod
    def of(cls, error: EyespotError | OSError) -> Self:
        if isinstance(error, Refusal):
            return cls(error.code, error.detail)
        detail = (error.strerror or str(error)) if isinstance(error, OSError) else error.detail
        return cls("unreadable", detail)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is in one file, or why that cannot be said: one line of the output."""

    path: str
    predictions: list[Prediction] | None = None
    image: ImageInfo | None = None
    model: ModelInfo | None = None
    problem: FileProblem | None = None


_FINDING = TypeAdapter(Finding)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Written:
    """What an earlier run wrote of a file."""

    path: str
    is_of: bool  # of the network that is asked about; also where the line names none
    is_problem: bool


class Format(ABC):
    """A way to write findings to a file, each as a whole line, and to read again what they are about."""

    def head(self) -> str:
        """The line before the first; empty if there is none."""
        return ""

    @abstractmethod
    def begins(self) -> bytes:
        """How every such file begins."""

    @abstractmethod
    def line(self, finding: Finding) -> str:
        """The finding with its line end."""

    @abstractmethod
    def is_whole(self, line: bytes) -> bool:
        """Whether this, of a file that may have been cut off, is all of a line."""

    @abstractmethod
    def read(self, line: bytes, model: ModelInfo) -> Written:
        """What the line is about. Raises `ValueError`, `csv.Error` and others when it is none of this format."""


class Table:
    """For people: columns, cut to `width` cells if that is given. Problems are told elsewhere."""

    def __init__(self, width: int | None, top_k: int) -> None:
        self._width = width
        self._cell = 26 if width is None else max(16, min(26, (width * 3 // 4) // min(top_k, 3) - 2))

    def line(self, finding: Finding) -> str:
        """The finding with its line end; empty when nothing was recognised."""
        if finding.predictions is None:
            return ""
        said = [self._said(found) for found in finding.predictions] or ["nothing above the least confidence"]
        path = shown(finding.path)
        if self._width is None:
            return "  ".join((path, *said)).rstrip() + "\n"
        said = said[: max(1, (self._width - 8) // (self._cell + 2))]  # whole, or a number would be cut in two
        room = max(8, self._width - sum(cell_len(cell) + 2 for cell in said))
        return set_cell_size("  ".join((_cut_left(path, room), *said)), self._width).rstrip() + "\n"

    def _said(self, found: Prediction) -> str:
        share = f" {found.confidence:.1%}"
        return set_cell_size(set_cell_size(found.label, self._cell - len(share)).rstrip() + share, self._cell)


def shown(path: str) -> str:
    """A path for the terminal, which control characters in it would paint or clear."""
    return _CONTROL.sub("?", path)


def _cut_left(text: str, cells: int) -> str:
    """The end of a path says more than its beginning."""
    if cell_len(text) > cells:
        while cell_len(text) > cells - 1:
            text = text[1:]
        text = f"…{text}"
    return set_cell_size(text, cells)


class JsonLines(Format):
    """A JSON object for each file."""

    def begins(self) -> bytes:
        return b'{"path": '

    def is_whole(self, line: bytes) -> bool:
        return line.endswith(b"\n")

    def read(self, line: bytes, model: ModelInfo) -> Written:
        fields = json.loads(line)
        told = fields.get("model", {}).get("digest")
        return Written(str(fields["path"]), told in (None, model.digest), "problem" in fields)

    def line(self, finding: Finding) -> str:
        fields = _FINDING.dump_python(finding, mode="json", exclude_none=True)
        return json.dumps(fields, ensure_ascii=False) + "\n"


class Csv(Format):
    """A row for each file (RFC 4180), with the likeliest classes in columns."""

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k
        likeliest = [f"{part}{place}" for place in range(1, top_k + 1) for part in ("label", "confidence")]
        self._columns = ["path", *likeliest, "problem", "detail", "sha256", "format", "width", "height", "model"]

    def head(self) -> str:
        return _row(self._columns)

    def begins(self) -> bytes:
        return encoded(self.head())

    def read(self, line: bytes, model: ModelInfo) -> Written:
        (row,) = csv.reader([line.decode("utf-8")])
        told = dict(zip(self._columns, row, strict=True))
        return Written(told["path"], told["model"] in ("", model.name), bool(told["problem"]))

    def is_whole(self, line: bytes) -> bool:
        return line.endswith(b"\n") and line.count(b'"') % 2 == 0  # else the end of the line is within quotes

    def line(self, finding: Finding) -> str:
        likeliest: list[object] = [
            value for found in finding.predictions or () for value in (found.label, found.confidence)
        ]
        likeliest += [None] * (2 * self._top_k - len(likeliest))
        problem, image, model = finding.problem, finding.image, finding.model
        return _row(
            [
                finding.path,
                *likeliest,
                *((problem.code, problem.detail) if problem else (None, None)),
                *((image.sha256, image.format, image.width, image.height) if image else (None,) * 4),
                model and model.name,
            ]
        )


def _row(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue()


def encoded(line: str) -> bytes:
    """UTF-8; what of a file's name is none becomes the escape that JSON has for it."""
    return line.encode("utf-8", "backslashreplace")
