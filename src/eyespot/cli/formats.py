"""The findings of `eyespot classify`, as JSON lines and as CSV, and what a line read back says."""

import csv
import io
import json
from dataclasses import asdict, dataclass
from itertools import dropwhile
from typing import NamedTuple, Self, TypeAlias

from pydantic import TypeAdapter

from eyespot.errors import EyespotError, Refusal
from eyespot.types import GroupScore, ImageInfo, ModelInfo, Prediction, Says

OLDER = "was written by an older version of eyespot; choose another --output"


@dataclass(frozen=True, slots=True)
class FileProblem:
    """Why a file was not recognised."""

    code: str
    detail: str

    @classmethod
    def of(cls, error: EyespotError | OSError) -> Self:
        detail = reason(error) if isinstance(error, OSError) else error.detail
        return cls(error.code if isinstance(error, Refusal) else "unreadable", detail)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is in one file, or why that is unknown: one line of the output."""

    path: str
    says: Says | None = None
    groups: list[GroupScore] | None = None
    predictions: list[Prediction] | None = None
    image: ImageInfo | None = None
    model: ModelInfo | None = None
    problem: FileProblem | None = None
    sorted_to: str | None = None  # the path that --sort-into gave it

    @property
    def said_groups(self) -> list[GroupScore]:
        """The groups that are said, or hold the class that is; most specific first."""
        says = self.says
        if says is None or says.kind == "unsure":
            return []
        return list(dropwhile(lambda group: says.kind == "group" and group.id != says.id, self.groups or ()))

    @property
    def said(self) -> list[str]:
        """The label of the answer, then those of the groups it is in; empty if unsure."""
        labels = [self.says.label] if self.says and self.says.kind == "class" else []
        return labels + [group.label for group in self.said_groups]


class Record(NamedTuple):
    """A line of an earlier run."""

    path: str
    model: str  # the `model_key` of its `ModelInfo`; empty for a problem
    problem: str  # its code, or empty
    older: bool = False  # whether a version wrote it that did not have `says`


class JsonLines:
    """One JSON object per file."""

    header = b""
    start = b'{"path": '  # of every such file
    model_key = "digest"
    _finding = TypeAdapter(Finding)

    def complaint(self, first_line: bytes) -> str:  # noqa: ARG002
        return "is not a results file in JSON lines"

    def line(self, finding: Finding) -> bytes:
        fields = self._finding.dump_python(finding, mode="json", exclude_none=True)
        return to_utf8(json.dumps(fields, ensure_ascii=False) + "\n")

    def is_complete(self, line: bytes) -> bool:
        return line.endswith(b"\n")

    def read(self, line: bytes) -> Record:
        fields = json.loads(line)
        return Record(
            str(fields["path"]),
            fields.get("model", {}).get("digest", ""),
            fields.get("problem", {}).get("code", ""),
            older="predictions" in fields and "says" not in fields,
        )


class Csv:
    """One row per file (RFC 4180): the answer, and the `top_k` likeliest classes in columns."""

    model_key = "name"

    def __init__(self, top_k: int) -> None:
        classes = [f"{part}{place}" for place in range(1, top_k + 1) for part in ("label", "confidence")]
        said = ["says", "kind", "confidence", "group"]
        self._columns = ["path", *said, *classes, "problem", "detail", "sha256", "format", "width", "height", "model"]
        self.header = self.start = self._row(dict(zip(self._columns, self._columns, strict=True)))

    def complaint(self, first_line: bytes) -> str:
        """What a file that begins with another line is."""
        top_k = first_line.count(b"label")
        if first_line == Csv(top_k).header:
            return f"was written with --top-k {top_k}"
        if first_line.startswith(b"path,label1,"):
            return OLDER
        return "is not a results file in CSV"

    def _row(self, values: dict[str, object]) -> bytes:
        text = io.StringIO()
        csv.DictWriter(text, self._columns).writerow(values)
        return to_utf8(text.getvalue())

    def line(self, finding: Finding) -> bytes:
        row: dict[str, object] = {"path": finding.path}
        if says := finding.says:
            row |= {"says": says.label, "kind": says.kind, "confidence": says.confidence}
        for group in finding.said_groups[:1]:
            row["group"] = group.id  # a path, which names those above it
        for place, found in enumerate(finding.predictions or (), 1):
            row |= {f"label{place}": found.label, f"confidence{place}": found.confidence}
        if finding.problem:
            row |= {"problem": finding.problem.code, "detail": finding.problem.detail}
        if finding.image and finding.model:
            row |= {**asdict(finding.image), "model": finding.model.name}
        return self._row(row)

    def is_complete(self, line: bytes) -> bool:
        return line.endswith(b"\n") and line.count(b'"') % 2 == 0  # otherwise the line break is quoted

    def read(self, line: bytes) -> Record:
        (values,) = csv.reader([line.decode("utf-8")])
        row = dict(zip(self._columns, values, strict=True))
        return Record(row["path"], row["model"], row["problem"])


Format: TypeAlias = JsonLines | Csv


def reason(error: OSError) -> str:
    """The system's message, without the file name."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    words = error.strerror or str(error)
    return words[:1].lower() + words[1:]


def to_utf8(text: str) -> bytes:
    """UTF-8, with a JSON escape for each byte of a file name that is not."""
    return text.encode("utf-8", "backslashreplace")
