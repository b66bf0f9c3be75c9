"""Connections to the PostgreSQL of an audit log, and how to end one when PostgreSQL hangs."""

import contextlib
import os
import socket
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Engine, NullPool

_GRACE_SECONDS = 1  # for PostgreSQL to end a statement by itself, before its connection is cut


class PostgresStore:
    """Readers and the writer share no connection, so that one can be cut without the others."""

    kind = "postgresql"

    def __init__(self, url: str, *, wait_seconds: int, read_seconds: float) -> None:
        """Connects to nothing yet. `wait_seconds` limits connecting, waiting for a lock, and writing."""
        self._writers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._readers: weakref.WeakSet[Any] = weakref.WeakSet()
        self.writing = _engine(url, wait_seconds, wait_seconds, pool_pre_ping=True)
        self.reading = _engine(url, wait_seconds, read_seconds, poolclass=NullPool)
        sql.event.listen(self.writing, "connect", lambda connection, _: self._writers.add(connection))

        # First of all listeners: SQLAlchemy's own asks questions, and PostgreSQL may hang on those too.
        @sql.event.listens_for(self.reading, "connect", insert=True)
        def begin(connection: Any, record: Any) -> None:
            self._readers.add(connection)
            timer = threading.Timer(read_seconds + _GRACE_SECONDS, _cut, [[connection]])
            timer.daemon = True
            timer.start()
            record.info["timer"] = timer

        @sql.event.listens_for(self.reading, "close")
        def end(_: Any, record: Any) -> None:
            record.info["timer"].cancel()

    @property
    def detail(self) -> str:
        return self.kind

    @contextmanager
    def opened(self) -> Iterator[None]:
        """The schema is made within; over a fresh connection."""
        self.writing.dispose()
        yield

    def check(self) -> None:
        """Nothing to see: a statement fails when the database is gone."""

    def interrupt(self) -> None:
        """Make the writer's statement fail. PostgreSQL's own time limits do not, when it hangs itself."""
        _cut(self._writers)

    def close(self) -> None:
        _cut(self._readers)
        self.writing.dispose()
        self.reading.dispose()


def _engine(url: str, wait_seconds: int, statement_seconds: float, **pool: Any) -> Engine:
    limits = f"-c statement_timeout={round(statement_seconds * 1000)} -c lock_timeout={wait_seconds * 1000}"
    return sql.create_engine(
        url.replace("postgresql://", "postgresql+psycopg://", 1),
        connect_args={"connect_timeout": wait_seconds, "options": limits},
        **pool,
    )


def _cut(connections: Iterable[Any]) -> None:
    for connection in list(connections):
        # Unless it is closed already; psycopg has an error of its own for that, and is not to be imported for it.
        with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as held:
            held.shutdown(socket.SHUT_RDWR)
