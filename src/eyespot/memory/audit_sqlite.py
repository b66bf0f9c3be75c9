"""The SQLite file of the audit log, and a new one when that is lost."""

import fcntl
import logging
import math
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sql

from eyespot.telemetry import event

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_WAL, _SHM = "-wal", "-shm"  # SQLite can rebuild the latter
_SHORT_SECONDS = 1  # that a file may be shorter than its header says: another server extends it, header first
_INSTRUCTIONS = 10_000  # of SQLite's virtual machine between two looks at the clock

_Identity = tuple[int, int] | None  # device and inode; None if there is no file


class FileLost(sql.exc.SQLAlchemyError):
    """The database file was deleted, moved, replaced or damaged, or cannot be opened."""


class SqliteStore:
    """Watches the path, because SQLite goes on writing to a file that was deleted or moved.

    What is left of a lost file is renamed, never deleted, and a new file is created. Several servers may share the
    file, and notice a loss at the same moment.
    """

    detail = "sqlite"
    placeholder = "?"

    def __init__(self, path: Path, *, wait_seconds: float, read_seconds: float) -> None:
        """Connects later. `wait_seconds` limits waiting for a lock, `read_seconds` a reader's connection."""
        self._path = path.resolve()  # as SQLite does: the -wal lies beside the target of a link
        self._paths = {suffix: self._path.with_name(self._path.name + suffix) for suffix in ("", _WAL, _SHM)}
        self._wait_seconds = wait_seconds
        self._read_seconds = read_seconds
        # Open as long as the writer's connection: closing any descriptor of a file drops all locks of the process on
        # it, SQLite's too (sqlite.org/howtocorrupt.html, 2.2), and the inode of an open file is not reused.
        self._held: int | None = None
        self._identities: dict[str, _Identity] = {}  # of what was opened, by suffix
        self._opened = False  # ever; before, a file that is not a database may belong to somebody else
        self._damaged = False
        self._wal_bytes = 0  # SQLite reuses a -wal from its start, and never shortens it
        self._short_since = math.inf  # time.monotonic()
        self._writer: sqlite3.Connection | None = None
        self.writing = sql.create_engine("sqlite://", creator=self._connect_to_write, poolclass=sql.QueuePool)
        self.reading = sql.create_engine("sqlite://", creator=self._connect_to_read, poolclass=sql.NullPool)
        sql.event.listen(self.writing, "handle_error", self._note_damage)

    def check(self) -> None:
        """Raise `FileLost` if the files at the path are not those that were opened, or are damaged."""
        if reason := self._loss():
            raise FileLost(reason)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Reconnect, to a new file if the old one is lost; the caller prepares the tables inside the block."""
        loss = self._loss()
        with self._locked():
            if loss:
                self._set_aside()
                self._hold()
                if self._header()[: len(_MAGIC)] not in (_MAGIC, b""):  # what replaced it is not a database either
                    self._set_aside()
            self.writing.dispose()
            self._hold()
            yield
            identities = {suffix: _identity(path) for suffix, path in self._paths.items()}
            if identities[""] != self._identities[""]:
                raise FileLost(f"{self._path.name} was replaced while it was opened")
            self._identities, self._opened = identities, True
        if loss:
            self.detail = f"sqlite, reopened at {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}: {loss}"
            event("audit_reopened", logging.ERROR, reason=loss)

    def lock_schema(self, connection: sql.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def timestamp(self, time: datetime) -> str:
        """As SQLAlchemy writes it."""
        return time.strftime("%Y-%m-%d %H:%M:%S.%f")

    def interrupt(self) -> None:
        """Do nothing: SQLite waits only for locks, and stops by itself."""

    def close(self) -> None:
        self.writing.dispose()
        self.reading.dispose()
        self._release()

    def _connect_to_write(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=self._wait_seconds, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not block each other
            # Safe when the process is killed. After a power failure, the last moments may be missing; FULL would wait
            # 2 to 4 ms for the disk before every reply.
            connection.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error:
            connection.close()
            raise
        self._writer = connection
        return connection

    def _connect_to_read(self) -> sqlite3.Connection:
        if not _size(self._path):  # SQLite would create the file, or delete the -wal of an empty one
            raise FileLost(f"{self._path.name} is missing or empty")
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw", uri=True, timeout=self._wait_seconds, check_same_thread=False
        )
        end = time.monotonic() + self._read_seconds
        connection.set_progress_handler(lambda: time.monotonic() > end, _INSTRUCTIONS)
        return connection

    def _note_damage(self, context: sql.engine.ExceptionContext) -> None:
        code = getattr(context.original_exception, "sqlite_errorcode", 0)
        self._damaged |= code & 0xFF in _DAMAGE  # the low byte of an extended code

    def _loss(self) -> str | None:
        if not self._opened:
            return None
        for suffix, identity in self._identities.items():
            if _identity(self._paths[suffix]) != identity:
                return f"{self._path.name}{suffix} was deleted, moved or replaced"
        if self._held is None:
            return f"{self._path.name} could not be opened"
        header = self._header()
        self._damaged |= self._is_truncated(header)
        return f"{self._path.name} is damaged" if self._damaged or not header.startswith(_MAGIC) else None

    def _is_truncated(self, header: bytes) -> bool:
        """Whether the end of the file or of its -wal is missing."""
        wal_bytes, before = _size(self._paths[_WAL]), self._wal_bytes
        self._wal_bytes = max(wal_bytes, before)
        # The header counts the pages, unless an old SQLite wrote last (sqlite.org/fileformat2.html, 1.3).
        page_size, pages = int.from_bytes(header[16:18]), int.from_bytes(header[28:32])
        counted = header.startswith(_MAGIC) and header[24:28] == header[92:96]
        short = counted and _size(self._path) < pages * (65536 if page_size == 1 else page_size)
        self._short_since = min(self._short_since, time.monotonic()) if short else math.inf
        return wal_bytes < before or time.monotonic() - self._short_since > _SHORT_SECONDS

    def _header(self) -> bytes:
        return os.pread(self._held, _HEADER_BYTES, 0) if self._held is not None else b""

    def _set_aside(self) -> None:
        """Rename what is left of the lost file at its path."""
        if self._writer and not self._damaged and self._header()[: len(_MAGIC)] in (_MAGIC, b""):
            with suppress(sqlite3.Error):  # move the rows from the -wal to the file, wherever that is now
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        aside = f"{self._path.name}.{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        kept = []
        for suffix, identity in self._identities.items():
            path = self._paths[suffix]
            if identity is None or _identity(path) != identity:
                continue  # gone, or part of another server's new file
            if suffix == _SHM or (suffix == _WAL and not _size(path)):
                path.unlink()
            else:
                path.rename(path.with_name(aside + suffix))
                kept.append(aside + suffix)
        if kept:
            event("audit_set_aside", logging.ERROR, kept=kept)

    def _hold(self) -> None:
        if self._held is None or _identity(self._held) != _identity(self._path):
            self._release()
            self._held = _open(self._path, os.O_RDONLY | os.O_CREAT)
        self._identities, self._damaged = {"": _identity(self._held)}, False
        self._wal_bytes, self._short_since = 0, math.inf

    def _release(self) -> None:
        if self._held is not None:
            os.close(self._held)
        self._held, self._identities = None, {}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other servers from creating the file or setting it aside meanwhile."""
        folder = _open(self._path.parent, os.O_RDONLY)
        try:
            with suppress(OSError):  # the file system may not support locks
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
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
