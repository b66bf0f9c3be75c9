"""Connections to the SQLite file of an audit log, and what happens when that file is lost."""

import contextlib
import fcntl
import logging
import math
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sql
from sqlalchemy import NullPool, QueuePool
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import SQLAlchemyError

from eyespot.telemetry import event

_MAGIC = b"SQLite format 3\0"  # the first bytes of every database
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_WAL, _SHM = "-wal", "-shm"  # what is not in the database yet; an index of it, which SQLite makes again
_HEADER_BYTES = 100
_SHORT_SECONDS = 1  # that a file may be shorter than it says; another server that extends it writes the header first
_INSTRUCTIONS = 10_000  # of SQLite's machine between two looks at the clock

_Identity = tuple[int, int] | None  # device and inode; None where there is no file


class FileLost(SQLAlchemyError):
    """The database that was opened is not at its path any more, or is damaged; or there is none to open."""


class SqliteStore:
    """SQLite goes on writing to a file that was deleted or moved, without an error, so the path is watched.

    What a lost log has left there is renamed, never deleted, and a new file takes its place. Several servers may share
    the file, and notice at the same moment.
    """

    kind = "sqlite"

    def __init__(self, path: Path, *, wait_seconds: float, read_seconds: float) -> None:
        """Opens nothing yet. `wait_seconds` limits waiting for a lock, `read_seconds` a reader's connection."""
        self.detail = self.kind
        self._path = path.resolve()  # as SQLite does, which puts the -wal beside what a link leads to
        self._paths = {suffix: self._path.with_name(self._path.name + suffix) for suffix in ("", _WAL, _SHM)}
        self._wait_seconds = wait_seconds
        self._read_seconds = read_seconds
        # Open for as long as the writer's connection. Closing any descriptor of a file drops all locks that the process
        # has on it, SQLite's too (sqlite.org/howtocorrupt.html, 2.2); and an inode in use is given to no other file.
        self._held: int | None = None
        self._ours: dict[str, _Identity] = {}  # by suffix
        self._opened = False  # ever; until then, a file that is no database may be somebody else's
        self._damaged = False
        self._wal_bytes = 0  # SQLite starts a -wal over from its beginning, and never makes it shorter
        self._short_since = math.inf  # as time.monotonic() has it
        self._writer: sqlite3.Connection | None = None
        self.writing = sql.create_engine("sqlite://", creator=self._connect_to_write, poolclass=QueuePool)
        self.reading = sql.create_engine("sqlite://", creator=self._connect_to_read, poolclass=NullPool)
        sql.event.listen(self.writing, "handle_error", self._note_damage)

    def check(self) -> None:
        """Compare what is at the path with what was opened.

        Raises:
            FileLost: it was deleted, moved, replaced or damaged.
        """
        if reason := self._reason():
            raise FileLost(reason)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The schema is made within; over a fresh connection, to a new file if the old one is lost.

        Raises:
            FileLost: it cannot be opened.
        """
        lost = self._reason()
        with self._locked():
            if lost:
                self._set_aside()
                self._hold()
                if self._head() not in (_MAGIC, b""):  # what replaced it is no database either
                    self._set_aside()
            self.writing.dispose()
            self._hold()
            yield
            there = {suffix: _identity(path) for suffix, path in self._paths.items()}
            if there[""] != self._ours[""]:
                raise FileLost(f"{self._path.name} was replaced while it was opened")
            self._ours, self._opened = there, True
        if lost:
            self.detail = f"{self.kind}, reopened at {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}: {lost}"
            event("audit_reopened", logging.ERROR, reason=lost)

    def interrupt(self) -> None:
        """Nothing to do: SQLite waits only for locks, and gives up by itself."""

    def close(self) -> None:
        self.writing.dispose()
        self.reading.dispose()
        self._let_go()

    def _connect_to_write(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=self._wait_seconds, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait for each other
            # Safe when the process is killed. A machine that loses power may lose the last moments, but no earlier row;
            # FULL would wait for the disk, 2 to 4 ms, before every answer.
            connection.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error:
            connection.close()
            raise
        self._writer = connection
        return connection

    def _connect_to_read(self) -> sqlite3.Connection:
        if not _size(self._path):  # SQLite would create it, or delete the -wal beside an empty one
            raise FileLost(f"{self._path.name} is missing or empty")
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw", uri=True, timeout=self._wait_seconds, check_same_thread=False
        )
        end = time.monotonic() + self._read_seconds
        connection.set_progress_handler(lambda: time.monotonic() > end, _INSTRUCTIONS)
        return connection

    def _note_damage(self, context: ExceptionContext) -> None:
        code = getattr(context.original_exception, "sqlite_errorcode", 0)
        self._damaged |= code & 0xFF in _DAMAGE  # the low byte of an extended code

    def _reason(self) -> str | None:
        """Why the file is lost, if it is."""
        if not self._opened:
            return None
        for suffix, ours in self._ours.items():
            if _identity(self._paths[suffix]) != ours:
                return f"{self._path.name}{suffix} was deleted, moved or replaced"
        if self._held is None:
            return f"{self._path.name} could not be opened"
        self._damaged |= self._is_truncated()
        if self._damaged or self._head() != _MAGIC:
            return f"{self._path.name} is damaged"
        return None

    def _is_truncated(self) -> bool:
        """Whether the file has lost its end, or its -wal has."""
        wal_bytes, before = _size(self._paths[_WAL]), self._wal_bytes
        self._wal_bytes = max(wal_bytes, before)
        if not self._is_short():
            self._short_since = math.inf
        else:
            self._short_since = min(self._short_since, time.monotonic())
        return wal_bytes < before or time.monotonic() - self._short_since > _SHORT_SECONDS

    def _is_short(self) -> bool:
        """Whether the file has fewer pages than its header counts (sqlite.org/fileformat2.html, 1.3)."""
        header = os.pread(self._held, _HEADER_BYTES, 0) if self._held is not None else b""
        page_size, pages = int.from_bytes(header[16:18]), int.from_bytes(header[28:32])
        counted = header.startswith(_MAGIC) and header[24:28] == header[92:96]
        return counted and _size(self._path) < pages * (65536 if page_size == 1 else page_size)

    def _head(self) -> bytes:
        return os.pread(self._held, len(_MAGIC), 0) if self._held is not None else b""

    def _set_aside(self) -> None:
        """Rename what is left of the lost file at its path."""
        if not self._damaged and self._head() in (_MAGIC, b""):
            self._checkpoint()
        aside = f"{self._path.name}.{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        kept = []
        for suffix, ours in self._ours.items():
            path = self._paths[suffix]
            if ours is None or _identity(path) != ours:
                continue  # gone, or part of another server's new file
            if suffix == _SHM or (suffix == _WAL and not _size(path)):
                path.unlink()
            else:
                path.rename(path.with_name(aside + suffix))
                kept.append(aside + suffix)
        if kept:
            event("audit_set_aside", logging.ERROR, kept=kept)

    def _checkpoint(self) -> None:
        """Move the rows in the -wal into the file, wherever that is now."""
        if self._writer:
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _hold(self) -> None:
        """Open what is at the path, and create it if there is nothing."""
        if self._held is None or _identity(self._held) != _identity(self._path):
            self._let_go()
            self._held = _open(self._path, os.O_RDONLY | os.O_CREAT)
        self._ours, self._damaged = {"": _identity(self._held)}, False
        self._wal_bytes, self._short_since = 0, math.inf

    def _let_go(self) -> None:
        if self._held is not None:
            os.close(self._held)
        self._held, self._ours = None, {}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Meanwhile no other server creates this file or sets it aside."""
        folder = _open(self._path.parent, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a file system without such locks
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags, 0o644)
    except OSError as error:
        raise FileLost(f"unable to open {path}: {os.strerror(error.errno or 0)}") from error


def _identity(file: Path | int) -> _Identity:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
