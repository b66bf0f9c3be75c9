"""The blocking queries of the audit log, for SQLite and PostgreSQL."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from pydantic import TypeAdapter

from eyespot.errors import AuditUnusable
from eyespot.memory.audit_postgres import PostgresStore
from eyespot.memory.audit_schema import MIGRATIONS, Migrations, audit, migrate, version
from eyespot.memory.audit_sqlite import SqliteStore
from eyespot.types import AuditRow, Prediction

TIMEOUT_SECONDS = 2  # for connecting, waiting for a lock, or a statement that writes
READ_SECONDS = 3  # for one page of rows
_TOP5 = TypeAdapter(list[Prediction])
_STEPS = TypeAdapter(dict[str, float])
_CONVERTED = ["time", "label", "top5", "steps"]
_PLAIN = [column.name for column in audit.c if column.name not in ("id", *_CONVERTED)]
_plain = operator.attrgetter(*_PLAIN)


class AuditTable:
    """Rows by `id`, which only grows, even when the clock is set back. Methods raise `failures`."""

    failures = (sql.exc.SQLAlchemyError,)

    def __init__(
        self,
        url: str,
        data_dir: Path,
        *,
        read_seconds: float = READ_SECONDS,
        migrations: Migrations = MIGRATIONS,
    ) -> None:
        """Connects later to `sqlite` (in `data_dir`), `sqlite:///…` or `postgresql://…`; raises `AuditUnusable`."""
        limits: dict[str, Any] = {"wait_seconds": TIMEOUT_SECONDS, "read_seconds": read_seconds}
        path = data_dir / "audit.sqlite" if url == "sqlite" else Path(url.removeprefix("sqlite:///"))
        self.store: SqliteStore | PostgresStore
        try:
            self.store = SqliteStore(path, **limits) if url.startswith("sqlite") else PostgresStore(url, **limits)
        except ModuleNotFoundError as error:
            raise AuditUnusable(f"EYESPOT_AUDIT_URL: {error.name} is not installed; use postgresql://…") from error
        except (ValueError, sql.exc.ArgumentError):  # their messages may quote a password
            raise AuditUnusable(
                "EYESPOT_AUDIT_URL: the value is not a URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE; "
                "percent-encode special characters in the password"
            ) from None
        self._engine = self.store.writing
        self._migrations = migrations

    def prepare(self) -> None:
        """Reconnect, and create or migrate the tables; raises `AuditUnusable` if they are from a newer version."""
        with self.store.opened(), self._engine.begin() as connection:
            self.store.lock_schema(connection)  # several servers may start at once
            migrate(connection, self._migrations)

    def recover(self) -> None:
        """Prepare again, and try to write: a file on a full disk can be opened."""
        self.prepare()
        with self._engine.begin() as connection:
            connection.execute(sql.select(audit.c.id).limit(0))
            connection.execute(version.update(), {"version": len(self._migrations)})

    def insert(self, rows: Sequence[AuditRow]) -> None:
        """Write all rows or none, in one transaction; retried once on a new connection."""
        try:
            self._insert(rows)
        except _CommitUnknown:
            # The rows may be written, and a retry could not tell: the client chooses the request id. Counting them as
            # lost does less harm than logging requests twice.
            raise
        except self.failures:
            self.prepare()
            self._insert(rows)

    def _insert(self, rows: Sequence[AuditRow]) -> None:
        self.store.check()
        with self._engine.connect() as connection:
            values = chain.from_iterable(_values(row, self.store.timestamp(row.time)) for row in rows)
            connection.exec_driver_sql(_insert_statement(len(rows), self.store.placeholder), tuple(values))
            try:
                connection.commit()
            except sql.exc.DBAPIError as error:
                if error.connection_invalidated:
                    raise _CommitUnknown(self.reason(error)) from error
                raise
        self.store.check()  # the file may have been deleted just before

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
        """At most `limit` rows: newest first with ids below `before`, or oldest first with ids above `after`.

        `since` is inclusive, `until` exclusive; `label` is the top class. A `patient` caller has no time limit.
        """
        query = sql.select(audit).limit(limit).order_by(audit.c.id.desc() if after is None else audit.c.id)
        for condition, column, value in (
            (operator.lt, audit.c.id, before),
            (operator.gt, audit.c.id, after),
            (operator.ge, audit.c.time, since),
            (operator.lt, audit.c.time, until),
            (operator.eq, audit.c.sha256, sha256),
            (operator.eq, audit.c.label, label),
        ):
            if value is not None:
                query = query.where(condition(column, value))
        engine = self._engine if patient else self.store.reading
        with engine.connect() as connection:
            return [_row(found) for found in connection.execute(query).mappings()]

    def all_rows(
        self, *, since: datetime | None = None, until: datetime | None = None, page: int = 1000
    ) -> Iterator[AuditRow]:
        """All rows of that time, oldest first, read in pages."""
        last = 0
        while rows := self.rows(since=since, until=until, after=last, limit=page, patient=True):
            yield from rows
            last = rows[-1].id

    def prune(self, before: datetime, limit: int = 5000) -> int:
        """Delete at most `limit` rows from before that time, for which other writers wait; how many were deleted."""
        old = sql.select(audit.c.id).where(audit.c.time < before).limit(limit)
        with self._engine.begin() as connection:
            return connection.execute(audit.delete().where(audit.c.id.in_(old))).rowcount

    @staticmethod
    def reason(failure: Exception) -> str:
        """The message of a failure without the SQL and its values."""
        return str(getattr(failure, "orig", None) or failure).strip().partition("\n")[0]

    def unusable(self, failure: Exception) -> AuditUnusable:
        """The failure as an error that stops the program."""
        return AuditUnusable(f"cannot use the audit log: {self.reason(failure)}")

    def close(self) -> None:
        self.store.close()


class _CommitUnknown(sql.exc.SQLAlchemyError):
    """The connection broke between COMMIT and its reply."""


@lru_cache(maxsize=100)
def _insert_statement(rows: int, placeholder: str) -> str:
    """One statement for all rows: row by row, Python's SQLite releases and waits for the interpreter's lock each time.

    1000 rows of 18 columns stay below the maximum of 32,766 parameters in SQLite, and 65,535 in PostgreSQL.
    """
    columns = _PLAIN + _CONVERTED
    row = f"({', '.join([placeholder] * len(columns))})"
    return f"INSERT INTO eyespot_audit ({', '.join(columns)}) VALUES {', '.join([row] * rows)}"  # noqa: S608


def _values(row: AuditRow, time: datetime | str) -> tuple[object, ...]:
    label = row.top5[0].label if row.top5 else None
    return *_plain(row), time, label, _TOP5.dump_json(row.top5).decode(), _STEPS.dump_json(row.steps).decode()


def _row(found: Mapping[Any, Any]) -> AuditRow:
    time: datetime = found["time"]
    return AuditRow(
        **{name: found[name] for name in ("id", *_PLAIN)},
        time=time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC),  # SQLite has no time zones
        top5=_TOP5.validate_json(found["top5"]),
        steps=_STEPS.validate_json(found["steps"]),
    )
