"""The table of the audit log, in SQLite or PostgreSQL: its schema and its queries, none of which is asynchronous."""

import contextlib
import operator
import os
import socket
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from eyespot.errors import AuditUnusable
from eyespot.types import AuditRow, Prediction

PATIENCE_SECONDS = 2  # for a connection, a lock or a statement

_PRUNED_AT_ONCE = 5000  # rows, so that whoever writes meanwhile waits for milliseconds
_READ_AT_ONCE = 1000
_LOCK = 0x65796573  # "eyes", for PostgreSQL's advisory locks
_PREDICTIONS = TypeAdapter(list[Prediction])
_STEPS = TypeAdapter(dict[str, float])

_metadata = sql.MetaData()
_version = sql.Table("eyespot_audit_schema", _metadata, sql.Column("version", sql.Integer, nullable=False))
_audit = sql.Table(
    "eyespot_audit",
    _metadata,
    sql.Column("id", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True),
    sql.Column("time", sql.DateTime(timezone=True), nullable=False),
    sql.Column("request_id", sql.Text, nullable=False),
    sql.Column("address", sql.Text),
    sql.Column("key", sql.Text),
    sql.Column("sha256", sql.Text, nullable=False),
    sql.Column("bytes", sql.Integer, nullable=False),
    sql.Column("format", sql.Text),
    sql.Column("width", sql.Integer),
    sql.Column("height", sql.Integer),
    sql.Column("model_digest", sql.Text, nullable=False),
    sql.Column("engine", sql.Text, nullable=False),
    sql.Column("precision", sql.Text, nullable=False),
    sql.Column("label", sql.Text),  # the likeliest, to search by
    sql.Column("top5", sql.Text, nullable=False),  # JSON
    sql.Column("status", sql.Integer, nullable=False),
    sql.Column("code", sql.Text),
    sql.Column("cache", sql.Text, nullable=False),
    sql.Column("steps", sql.Text, nullable=False),  # JSON
    sqlite_autoincrement=True,  # an id is never given again, so that a cursor stays right when rows are pruned
)
_MADE = ["time", "label", "top5", "steps"]
_PLAIN = [column.name for column in _audit.c if column.name not in ("id", *_MADE)]


@lru_cache(maxsize=100)
def _insert_into_sqlite(rows: int) -> str:
    """One statement for so many rows.

    Row by row, Python's SQLite gives up the interpreter's lock, and waits for it, each time. 18 columns of 1,000 rows
    are within SQLite's 32,766 parameters.
    """
    names = _PLAIN + _MADE
    one = f"({', '.join('?' * len(names))})"
    return f"INSERT INTO eyespot_audit ({', '.join(names)}) VALUES {', '.join([one] * rows)}"  # noqa: S608


def _make_table(connection: Connection) -> None:
    _audit.create(connection)


def _make_indexes(connection: Connection) -> None:
    for column in ("time", "sha256", "label"):
        connection.exec_driver_sql(f"CREATE INDEX eyespot_audit_{column} ON eyespot_audit ({column})")


# What brings a schema from the version of its index here to the next one. Only ever add to it.
_FORWARD: tuple[Callable[[Connection], None], ...] = (_make_table, _make_indexes)
SCHEMA_VERSION = len(_FORWARD)


class AuditTable:
    """Rows by `id`, which only grows, whatever the clock does to `time`. Methods may raise one of `failures`."""

    failures = (SQLAlchemyError,)

    def __init__(self, url: str, data_dir: Path) -> None:
        """Connects to nothing yet. `url` is `sqlite` (a file in `data_dir`), `sqlite:///…` or `postgresql://…`.

        Raises:
            AuditUnusable: this is no such address, or there is no driver for it.
        """
        try:
            self._engine = _sqlite(url, data_dir) if url.startswith("sqlite") else _postgresql(url)
        except ModuleNotFoundError as error:
            raise AuditUnusable(f"EYESPOT_AUDIT_URL: {error}") from error
        except (ValueError, sql.exc.ArgumentError):  # whose words may repeat a part of a password
            raise AuditUnusable(
                "EYESPOT_AUDIT_URL: this is no address such as postgresql://user:password@host:5432/database; "
                "what is neither letter nor digit in a password is written as %XX"
            ) from None
        self.kind = self._engine.dialect.name
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        if self.kind == "postgresql":
            sql.event.listen(self._engine, "connect", lambda connection, _: self._connections.add(connection))

    def prepare(self) -> None:
        """Make the table, or bring an older one forward.

        Raises:
            AuditUnusable: a newer version of this program made it.
        """
        with self._engine.begin() as connection:
            if self.kind == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # two servers may start at once
            else:
                connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_LOCK)))
            _version.create(connection, checkfirst=True)
            found = connection.scalar(sql.select(_version.c.version)) or 0
            if found > SCHEMA_VERSION:
                raise AuditUnusable(
                    f"the audit log has the schema version {found}, made by a newer eyespot; this one knows up to "
                    f"{SCHEMA_VERSION}"
                )
            for forward in _FORWARD[found:]:
                forward(connection)
            if found < SCHEMA_VERSION:
                connection.execute(_version.delete())
                connection.execute(_version.insert(), {"version": SCHEMA_VERSION})

    def insert(self, rows: Sequence[AuditRow]) -> None:
        """All of these in one transaction, or none; each gets an id."""
        with self._engine.begin() as connection:
            if self.kind == "sqlite":
                values = [value for row in rows for value in _columns(row, _as_sqlalchemy_writes(row.time)).values()]
                connection.exec_driver_sql(_insert_into_sqlite(len(rows)), tuple(values))
            else:
                connection.execute(_audit.insert(), [_columns(row, row.time) for row in rows])

    def rows(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        sha256: str | None = None,
        label: str | None = None,
        before: int | None = None,
        after: int | None = None,
        limit: int,
    ) -> list[AuditRow]:
        """At most `limit` rows: newest first and with ids below `before`, or oldest first and above `after`.

        `since` is inclusive and `until` is not; `label` is that of the likeliest class.
        """
        column = _audit.c
        wanted = sql.select(_audit).limit(limit).order_by(column.id.desc() if after is None else column.id)
        for is_so, place, given in (
            (operator.lt, column.id, before),
            (operator.gt, column.id, after),
            (operator.ge, column.time, since),
            (operator.lt, column.time, until),
            (operator.eq, column.sha256, sha256),
            (operator.eq, column.label, label),
        ):
            if given is not None:
                wanted = wanted.where(is_so(place, given))
        with self._engine.connect() as connection:
            return [_row(dict(found)) for found in connection.execute(wanted).mappings()]

    def all_rows(self, since: datetime | None = None, until: datetime | None = None) -> Iterator[AuditRow]:
        """Every row of that time, oldest first; memory does not grow with their number."""
        last = 0
        while found := self.rows(since=since, until=until, after=last, limit=_READ_AT_ONCE):
            yield from found
            last = found[-1].id

    def prune(self, before: datetime) -> int:
        """Delete some of the rows from before that time, and say how many; 0 when there are none left."""
        old = sql.select(_audit.c.id).where(_audit.c.time < before).limit(_PRUNED_AT_ONCE)
        with self._engine.begin() as connection:
            return connection.execute(_audit.delete().where(_audit.c.id.in_(old))).rowcount

    def interrupt(self) -> None:
        """Make whatever waits for PostgreSQL fail: its own time limits do not help when it hangs itself."""
        for connection in list(self._connections):
            # Unless it is closed already; psycopg has an error of its own for that, and is not to be imported for it.
            with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as held:
                held.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def reason(failure: Exception) -> str:
        """What a failure says, without the SQL and its values."""
        return str(getattr(failure, "orig", None) or failure).strip().partition("\n")[0]

    def unusable(self, failure: Exception) -> AuditUnusable:
        """What a program says that cannot do without it."""
        return AuditUnusable(f"the audit log cannot be had: {self.reason(failure)}")

    def close(self) -> None:
        self._engine.dispose()


def _sqlite(url: str, data_dir: Path) -> Engine:
    path = data_dir / "audit.sqlite" if url == "sqlite" else Path(url.removeprefix("sqlite:///"))
    engine = sql.create_engine(f"sqlite:///{path}", connect_args={"timeout": PATIENCE_SECONDS})

    @sql.event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait for each other
        # Safe when the process is killed. A machine that loses power may lose the last moments, but no earlier row;
        # FULL would wait for the disk, 2 to 4 ms, before every answer.
        connection.execute("PRAGMA synchronous = NORMAL")

    return engine


def _postgresql(url: str) -> Engine:
    limit = PATIENCE_SECONDS * 1000
    return sql.create_engine(
        url.replace("postgresql://", "postgresql+psycopg://", 1),
        pool_pre_ping=True,  # or the first row after a restart of the server would be lost
        connect_args={
            "connect_timeout": PATIENCE_SECONDS,
            "options": f"-c statement_timeout={limit} -c lock_timeout={limit}",
        },
    )


def _columns(row: AuditRow, time: datetime | str) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in _PLAIN},
        "time": time,
        "label": row.top5[0].label if row.top5 else None,
        "top5": _PREDICTIONS.dump_json(row.top5).decode(),
        "steps": _STEPS.dump_json(row.steps).decode(),
    }


def _as_sqlalchemy_writes(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S.%f")


def _row(found: Mapping[str, Any]) -> AuditRow:
    time: datetime = found["time"]
    return AuditRow(
        **{name: found[name] for name in ("id", *_PLAIN)},
        time=time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC),  # SQLite has no time zones
        top5=_PREDICTIONS.validate_json(found["top5"]),
        steps=_STEPS.validate_json(found["steps"]),
    )
