"""A file of findings that another run can resume."""

import csv
import fcntl
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from eyespot.cli.formats import OLDER, Finding, Format, Record, reason, to_utf8
from eyespot.cli.output import Output
from eyespot.cli.replacing import replacing
from eyespot.errors import REFUSALS, OutputUnusable
from eyespot.types import ModelInfo

_TRANSIENT = {"unreadable", "not-sorted", *(code for code, kind in REFUSALS.items() if kind.status >= 500)}


class Results(Output):
    """A file of whole lines, written by one run at a time."""

    resumable = True

    def __init__(self, path: Path, form: Format) -> None:
        """Raises `OutputUnusable` if the file cannot be opened, or another run has it open."""
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

    def resume(self, model: ModelInfo, again: Callable[[Record], bool]) -> None:
        """Continue the file of an earlier run, dropping a truncated last line and the records that `again` selects.

        Raises `OutputUnusable` if the file holds anything but results of this model, format and --top-k.
        """
        start = self._form.start
        self._file.seek(0)
        if not start.startswith(self._file.read(len(start))):  # possibly not ours, so nothing of it is removed
            self._file.seek(0)
            raise OutputUnusable(f"{self._path} {self._form.complaint(self._file.readline(100_000))}")
        self._end, dropped = 0, False
        for line, record in self._records(model):
            self._end += len(line)
            if record and again(record):
                dropped = True
            elif record:
                self._done.add(_key(record.path))
                self.failed_before += bool(record.problem)
        self._file.truncate(self._end)
        if dropped:
            self.replace(line for line, record in self._records(model) if not (record and again(record)))
        if not self._end:
            self._append(self._form.header)

    def _records(self, model: ModelInfo) -> Iterator[tuple[bytes, Record | None]]:
        """The complete lines, and what they record; the header records nothing."""
        for number, line in enumerate(_complete_lines(self._file, self._form)):
            yield line, self._read(line, model) if number or not self._form.header else None

    def _read(self, line: bytes, model: ModelInfo) -> Record:
        try:
            record = self._form.read(line)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, csv.Error) as error:
            raise OutputUnusable(f"{self._path} is not a results file of this format: {line[:60]!r}") from error
        if record.older:
            raise OutputUnusable(f"{self._path} {OLDER}")
        if record.model not in ("", getattr(model, self._form.model_key)):
            raise OutputUnusable(f"{self._path} has results of another model; this is {model.name}")
        return record

    def replace(self, lines: Iterable[bytes]) -> None:
        """Write the file anew. Raises `OutputUnusable`; the file is then unchanged."""
        try:
            with replacing(self._path, self._path.name) as file:
                file.writelines(lines)
                file.flush()
                new = _open(Path(file.name))  # locked before another run can find it at the path
        except OSError as error:
            raise OutputUnusable(f"cannot write {self._path}: {reason(error)}") from error
        self._file.close()
        self._file = new
        self._end = self._file.seek(0, os.SEEK_END)

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
            raise OutputUnusable(f"cannot write {self._path}: {reason(error)}; --resume continues it") from error
        self._end += len(line)


def tried_again(paths: Sequence[str], *, every: bool) -> Callable[[Record], bool]:
    """A test of records: should a run over these paths retry the file?

    With `every`, after any failure; otherwise only after a transient one.
    """
    named = {_key(path) for path in paths}
    folders = tuple(os.path.join(path, "") for path in named)

    def again(record: Record) -> bool:
        path = _key(record.path)
        failed = bool(record.problem) if every else record.problem in _TRANSIENT
        here = "." in named and not path.startswith(("/", ".."))
        return failed and (here or path in named or path.startswith(folders))

    return again


def _key(path: str) -> str:
    """The path as the file has it, without `./` and doubled slashes; `..` stays, as it may follow a link."""
    return to_utf8(path if ".." in path else os.path.normpath(path)).decode()


def _open(path: Path) -> io.FileIO:
    """The file, unbuffered, locked where the file system has locks."""
    try:
        file = open(path, "a+b", buffering=0)  # noqa: SIM115
    except FileNotFoundError as error:
        why = "it is a broken link" if path.is_symlink() else f"there is no folder {path.parent}"
        raise OutputUnusable(f"cannot write {path}: {why}") from error
    except OSError as error:
        raise OutputUnusable(f"cannot write {path}: {reason(error)}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise OutputUnusable(f"another run is writing to {path}") from error
    except OSError:
        pass
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            return file
    file.close()  # another run replaced it or removed it before it was locked
    return _open(path)


def _complete_lines(file: io.FileIO, form: Format) -> Iterator[bytes]:
    file.seek(0)
    line = b""
    with open(file.fileno(), "rb", closefd=False) as reader:
        for piece in reader:
            line += piece
            if form.is_complete(line):
                yield line
                line = b""
