"""A file of findings that another run can resume."""

import csv
import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from eyespot.cli.formats import Finding, Format, to_utf8
from eyespot.cli.output import Output
from eyespot.errors import OutputUnusable
from eyespot.types import ModelInfo


class Results(Output):
    """A file of whole lines, written by one run at a time."""

    def __init__(self, path: Path, form: Format) -> None:
        """Raises `OutputUnusable` if another run has the file open, and `OSError`."""
        self._path = path
        self._form = form
        self._file = _open(path)
        self._end = 0  # of the last complete line
        self._done: set[str] = set()

    def close(self) -> None:
        self._file.close()

    def begin(self) -> None:
        """Start a new file. Raises `OutputUnusable` if it is not empty."""
        if os.fstat(self._file.fileno()).st_size:
            raise OutputUnusable(f"{self._path} is not empty; --resume continues it")
        self._append(self._form.header)

    def resume(self, model: ModelInfo) -> None:
        """Continue the file of an interrupted run, and remove a line that was cut off.

        Raises `OutputUnusable` if the file holds anything but results of this model, format and --top-k.
        """
        start = self._form.start
        self._file.seek(0)
        if not start.startswith(self._file.read(len(start))):  # possibly not ours, so nothing of it is removed
            raise OutputUnusable(f"{self._path} is not a results file of this format and --top-k")
        for line in _complete_lines(self._file, self._form):
            if self._end or not self._form.header:
                self._note(line, model)
            self._end += len(line)
        self._file.truncate(self._end)
        if not self._end:
            self._append(self._form.header)

    def _note(self, line: bytes, model: ModelInfo) -> None:
        try:
            record = self._form.read(line)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, csv.Error) as error:
            raise OutputUnusable(f"{self._path} is not a results file of this format: {line[:60]!r}") from error
        if record.model not in ("", getattr(model, self._form.model_key)):
            raise OutputUnusable(f"{self._path} has results of another model than {model.name}")
        self._done.add(_key(record.path))
        self.failed_before += record.failed

    def has(self, path: str) -> bool:
        return _key(path) in self._done

    def write(self, finding: Finding) -> None:
        """Append a line at once. Raises `OutputUnusable` if it cannot be written whole; the file is then unchanged."""
        self._append(self._form.line(finding))

    def _append(self, line: bytes) -> None:
        rest = line
        try:
            while rest:  # a disk that is nearly full may take a part
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)
            raise OutputUnusable(f"cannot write {self._path}: {error.strerror}; --resume continues it") from error
        self._end += len(line)


def _key(path: str) -> str:
    return to_utf8(path).decode()  # as the file has it


def _open(path: Path) -> io.FileIO:
    """The file, unbuffered, locked where the file system has locks."""
    file = open(path, "a+b", buffering=0)  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise OutputUnusable(f"another run is writing to {path}") from error
    except OSError:
        pass
    return file


def _complete_lines(file: io.FileIO, form: Format) -> Iterator[bytes]:
    file.seek(0)
    line = b""
    with open(file.fileno(), "rb", closefd=False) as reader:
        for piece in reader:
            line += piece
            if form.is_complete(line):
                yield line
                line = b""
