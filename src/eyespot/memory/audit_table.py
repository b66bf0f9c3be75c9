"""The table of the audit log, in SQLite or PostgreSQL: its schema and its queries, none of which is asynchronous."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from pydantic import TypeAdapter
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from eyespot.errors import AuditUnusable
from eyespot.memory.audit_postgres import PostgresStore
from eyespot.memory.audit_sqlite import SqliteStore
from eyespot.types import AuditRow, Prediction

TIMEOUT_SECONDS = 2  # for a connection, a lock, or a statement that writes
READ_SECONDS = 3  # for one page of rows, from when there is a connection

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
_INSERT = _audit.insert().inline()  # without asking for the ids, which would be reading
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
            self._store = _store(url, data_dir)
        except ModuleNotFoundError as error:
            raise AuditUnusable(f"EYESPOT_AUDIT_URL: {error}") from error
        except (ValueError, sql.exc.ArgumentError):  # whose words may repeat a part of a password
            raise AuditUnusable(
                "EYESPOT_AUDIT_URL: this is no address such as postgresql://user:password@host:5432/database; "
                "what is neither letter nor digit in a password is written as %XX"
            ) from None
        self._engine = self._store.writing
        self._sqlite = isinstance(self._store, SqliteStore)

    @property
    def detail(self) -> str:
        """Which database it is, and what has happened to its file."""
        return self._store.detail

    def prepare(self) -> None:
        """On a fresh connection, make the table, or bring an older one forward.

        Raises:
            AuditUnusable: a newer version of this program made it.
        """
        with self._store.opened(), self._engine.begin() as connection:
            if self._sqlite:
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

    def recover(self) -> None:
        """Prepare it again, and write to it: on a full disk a file can still be opened."""
        self.prepare()
        with self._engine.begin() as connection:
            connection.execute(sql.select(_audit.c.id).limit(0))
            connection.execute(_version.update(), {"version": SCHEMA_VERSION})

    def check(self) -> None:
        """See whether the file is still the one that was prepared. Takes microseconds, and asks PostgreSQL nothing."""
        self._store.check()

    def insert(self, rows: Sequence[AuditRow]) -> None:
        """All of these in one transaction, or none; each gets an id. Tried again, once, on a fresh connection."""
        try:
            self._insert(rows)
        except _Unanswered:
            # They may be written, and nothing in a row tells it from its copy: the request id is the client's choice.
            # So they count as lost, which does less harm than an audit log that has requests twice.
            raise
        except self.failures:
            self.prepare()
            self._insert(rows)

    def _insert(self, rows: Sequence[AuditRow]) -> None:
        self.check()
        with self._engine.connect() as connection:
            if self._sqlite:
                values = [value for row in rows for value in _columns(row, _as_sqlalchemy_writes(row.time)).values()]
                connection.exec_driver_sql(_insert_into_sqlite(len(rows)), tuple(values))
            else:
                connection.execute(_INSERT, [_columns(row, row.time) for row in rows])
            try:
                connection.commit()
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise _Unanswered(self.reason(error)) from error
                raise
        self.check()  # the file may have been deleted just before

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
        patient: bool = False,
    ) -> list[AuditRow]:
        """At most `limit` rows: newest first and with ids below `before`, or oldest first and above `after`.

        `since` is inclusive and `until` is not; `label` is that of the likeliest class. Fails after READ_SECONDS,
        unless `patient`.
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
        engine = self._engine if patient else self._store.reading
        with engine.connect() as connection:
            return [_row(dict(found)) for found in connection.execute(wanted).mappings()]

    def all_rows(self, since: datetime | None = None, until: datetime | None = None) -> Iterator[AuditRow]:
        """Every row of that time, oldest first; memory does not grow with their number."""
        last = 0
        while found := self.rows(since=since, until=until, after=last, limit=_READ_AT_ONCE, patient=True):
            yield from found
            last = found[-1].id

    def prune(self, before: datetime) -> int:
        """Delete some of the rows from before that time, and say how many; 0 when there are none left."""
        old = sql.select(_audit.c.id).where(_audit.c.time < before).limit(_PRUNED_AT_ONCE)
        with self._engine.begin() as connection:
            return connection.execute(_audit.delete().where(_audit.c.id.in_(old))).rowcount

    def interrupt(self) -> None:
        """Make whatever the writer waits for fail. Readers do not notice."""
        self._store.interrupt()

    @staticmethod
    def reason(failure: Exception) -> str:
        """What a failure says, without the SQL and its values."""
        return str(getattr(failure, "orig", None) or failure).strip().partition("\n")[0]

    def unusable(self, failure: Exception) -> AuditUnusable:
        """What a program says that cannot do without it."""
        return AuditUnusable(f"the audit log cannot be had: {self.reason(failure)}")

    def close(self) -> None:
        self._store.close()


class _Unanswered(SQLAlchemyError):
    """COMMIT was sent, and the connection broke before its answer came."""


def _store(url: str, data_dir: Path) -> SqliteStore | PostgresStore:
    if not url.startswith("sqlite"):
        return PostgresStore(url, wait_seconds=TIMEOUT_SECONDS, read_seconds=READ_SECONDS)
    path = data_dir / "audit.sqlite" if url == "sqlite" else Path(url.removeprefix("sqlite:///"))
    return SqliteStore(path, wait_seconds=TIMEOUT_SECONDS, read_seconds=READ_SECONDS)


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
