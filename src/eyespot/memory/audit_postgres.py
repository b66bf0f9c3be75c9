"""The audit log's PostgreSQL connections, which can be cut when PostgreSQL hangs."""

import os
import socket
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import sqlalchemy as sql

_GRACE_SECONDS = 1  # for PostgreSQL to end a statement by itself


class PostgresStore:
    """The writer and the readers share no connection, so that one can be cut without the others."""

    detail = "postgresql"
    placeholder = "%s"

    def __init__(self, url: str, *, wait_seconds: int, read_seconds: float) -> None:
        """Connects later. `wait_seconds` limits connecting, waiting for a lock, and writing."""
        self._writers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._readers: weakref.WeakSet[Any] = weakref.WeakSet()
        self.writing = _engine(url, wait_seconds, wait_seconds, pool_pre_ping=True)
        self.reading = _engine(url, wait_seconds, read_seconds, poolclass=sql.NullPool)
        sql.event.listen(self.writing, "connect", lambda connection, _: self._writers.add(connection))

        # Before SQLAlchemy's own listener, whose queries may hang too.
        @sql.event.listens_for(self.reading, "connect", insert=True)
        def connected(connection: Any, record: Any) -> None:
            self._readers.add(connection)
            timer = threading.Timer(read_seconds + _GRACE_SECONDS, _cut, [[connection]])
            timer.daemon = True
            timer.start()
            record.info["timer"] = timer

        @sql.event.listens_for(self.reading, "close")
        def closed(_: Any, record: Any) -> None:
            record.info["timer"].cancel()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Drop the writer's connection; the caller prepares the tables inside the block."""
        self.writing.dispose()
        yield

    def check(self) -> None:
        """Do nothing: without the database, a statement fails."""

    def lock_schema(self, connection: sql.Connection) -> None:
        connection.execute(sql.select(sql.func.pg_advisory_xact_lock(0x65796573)))  # "eyes"

    def timestamp(self, time: datetime) -> datetime:
        return time

    def interrupt(self) -> None:
        """Make the writer's statement fail, even when PostgreSQL hangs and its own timeouts do not work."""
        _cut(self._writers)

    def close(self) -> None:
        _cut(self._readers)
        self.writing.dispose()
        self.reading.dispose()


def _engine(url: str, wait_seconds: int, statement_seconds: float, **pool: Any) -> sql.Engine:
    if "@" in (sql.make_url(url).host or ""):  # the rest of a password, which every error would show
        raise ValueError
    limits = f"-c statement_timeout={round(statement_seconds * 1000)} -c lock_timeout={wait_seconds * 1000}"
    return sql.create_engine(
        url.replace("postgresql://", "postgresql+psycopg://", 1),
        connect_args={"connect_timeout": wait_seconds, "options": limits},
        **pool,
    )


def _cut(connections: Iterable[Any]) -> None:
    for connection in list(connections):
        # A closed connection raises an error of psycopg, which is not worth importing for this.
        with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
