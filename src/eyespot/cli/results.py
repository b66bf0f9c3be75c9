"""A file of findings, which one run writes, and the next can go on with."""

import csv
import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

from eyespot.cli.findings import Finding, Format, Written, encoded
from eyespot.errors import OutputUnusable
from eyespot.types import ModelInfo


class Results:
    """A file of findings, which another run can go on with."""

    def __init__(self, path: Path, form: Format) -> None:
        """Raises `OutputUnusable` when another run has it, and `OSError`."""
        self._path = path
        self._form = form
        self._file = _open(path)
        self._end = 0  # of the last whole line
        self._done: set[str] = set()
        self.problems = 0  # among what the run before has done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def begin(self) -> None:
        """Begin a new file.

        Raises:
            OutputUnusable: it holds something already.
        """
        if os.fstat(self._file.fileno()).st_size:
            raise OutputUnusable(f"{self._path} holds something already: --resume goes on with it")
        self._write(self._form.head())

    def resume(self, model: ModelInfo) -> None:
        """Go on with the file of a run that did not come to its end; a line that was cut off is removed.

        Raises:
            OutputUnusable: it is none, was begun with another network, or with other columns.
        """
        begins = self._form.begins()
        self._file.seek(0)
        if not begins.startswith(self._file.read(len(begins))):  # perhaps somebody else's, and then not to be cut
            why = "has other columns, of another --top-k or format, or is no file of results"
            raise OutputUnusable(f"{self._path} {why}")
        for line in _whole_lines(self._file, self._form):
            if self._end or not self._form.head():
                written = self._read(line, model)
                self._done.add(_key(written.path))
                self.problems += written.is_problem
            self._end += len(line)
        self._file.truncate(self._end)
        if not self._end:
            self._write(self._form.head())

    def _read(self, line: bytes, model: ModelInfo) -> Written:
        try:
            written = self._form.read(line, model)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, csv.Error) as error:
            reason = f"{self._path} is no file of results, or not of this format: {line[:60]!r}"
            raise OutputUnusable(reason) from error
        if not written.is_of:
            raise OutputUnusable(f"{self._path} was begun with another network; {model.name} would answer differently")
        return written

    def has(self, path: str) -> bool:
        """Whether the run before has done that file."""
        return _key(path) in self._done

    def write(self, finding: Finding) -> None:
        """Add a line, at once and whole.

        Raises:
            OutputUnusable: it cannot be written; the file then ends with the line before.
        """
        self._write(self._form.line(finding))

    def _write(self, line: str) -> None:
        data = encoded(line)
        try:
            written = 0
            while written < len(data):  # on a disk that is nearly full, it may be less than all
                written += self._file.write(data[written:])
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)
            reason = f"{self._path} cannot be written: {error.strerror}; --resume goes on with what is there"
            raise OutputUnusable(reason) from error
        self._end += len(data)


def _key(path: str) -> str:
    return encoded(path).decode()


def _open(path: Path) -> io.FileIO:
    """The file, unbuffered and this run's alone."""
    file = open(path, "a+b", buffering=0)  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise OutputUnusable(f"another run is writing to {path}") from error
    except OSError:
        pass  # a file system without locks
    return file


def _whole_lines(file: io.FileIO, form: Format) -> Iterator[bytes]:
    file.seek(0)
    line = b""
    with io.FileIO(file.fileno(), closefd=False) as unbuffered, io.BufferedReader(unbuffered) as reader:
        for piece in reader:
            line += piece
            if form.is_whole(line):
                yield line
                line = b""
