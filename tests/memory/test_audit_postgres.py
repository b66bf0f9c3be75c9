"""The audit log in PostgreSQL: slow readers, a server process that hangs, connections that break."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sql

from eyespot.errors import AuditUnavailable
from eyespot.memory.audit_table import AuditTable
from tests.memory.helpers import ADMIN, KEYS, ids, open_log, row, serve_log
from tests.requests import image, metric
from tests.services import PostgresServer, postgres_server
from tests.serving import serve_fake, until

pytestmark = pytest.mark.needs("postgres")


class Database:
    """An empty database, for a user who is bound by row policies; `run` is not."""

    def __init__(self, server: PostgresServer) -> None:
        self.url = server.url.replace("eyespot:secret", "clerk:secret")
        self._engine = sql.create_engine(server.url.replace("postgresql", "postgresql+psycopg"))

    def run(self, *statements: str) -> list[Any]:
        """The rows of the last of them."""
        with self._engine.begin() as connection:
            for statement in statements:
                done = connection.exec_driver_sql(statement)
            return [tuple(found) for found in done] if done.returns_rows else []

    def backends(self, reading: bool) -> list[int]:
        """Process ids of the server's own side of the clerk's connections."""
        asks = "LIKE" if reading else "NOT LIKE"
        found = self.run(
            f"SELECT pid FROM pg_stat_activity WHERE usename = 'clerk' AND query {asks} 'SELECT eyespot_audit.%%'"
        )
        return [pid for (pid,) in found]

    def slow_down_readers(self, seconds: float) -> None:
        """Once the table is there: a statement that reads takes so much longer, and one that only writes does not."""
        self.run(
            "ALTER TABLE eyespot_audit ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE eyespot_audit FORCE ROW LEVEL SECURITY",
            f"CREATE POLICY r ON eyespot_audit FOR SELECT USING ((SELECT pg_sleep({seconds})) IS NOT NULL)",
            "CREATE POLICY w ON eyespot_audit FOR INSERT WITH CHECK (true)",
        )

    def end_backend_once(self, when: str) -> None:
        """End the connection in the middle of what inserts, the first time; `attempts` counts them."""
        self.run(
            "CREATE SEQUENCE attempts",
            "GRANT ALL ON SEQUENCE attempts TO clerk",
            "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN "
            "IF nextval('attempts') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(9); END IF; "
            "RETURN NEW; END $$",
            f"CREATE CONSTRAINT TRIGGER die AFTER INSERT ON eyespot_audit {when} FOR EACH ROW EXECUTE FUNCTION die()",
        )

    def attempts(self) -> int:
        return int(self.run("SELECT last_value FROM attempts")[0][0])

    def close(self) -> None:
        self._engine.dispose()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[Database]:
    database = Database(postgres)
    database.run(
        "DROP SCHEMA public CASCADE",
        "CREATE SCHEMA public",
        "DROP ROLE IF EXISTS clerk",
        "CREATE ROLE clerk LOGIN PASSWORD 'secret'",
        "GRANT ALL ON SCHEMA public TO clerk",
    )
    yield database
    database.close()


def settings(database: Database) -> dict[str, Any]:
    return {"audit_url": database.url, "audit_required": True, "api_keys": KEYS, "cache_url": "memory://"}


def write(client: httpx.Client, number: int = 0) -> int:
    return client.post("/predict", content=image(number % 10), headers=ADMIN).status_code


@pytest.mark.needs("make test-all")
def test_slow_readers_lose_no_row(database: Database) -> None:
    with serve_fake(**settings(database)) as served, served.client() as client:
        assert write(client) == 200
        database.slow_down_readers(1.7)

        def read(_: int) -> int:
            with served.client(headers=ADMIN) as admin:
                return admin.get("/audit").status_code

        with ThreadPoolExecutor(12) as admins:
            reading = [admins.submit(read, number) for number in range(12)]
            written = [200]
            while not all(one.done() for one in reading):
                written.append(write(client, len(written)))
        assert [one.result() for one in reading] == [200] * 12
        assert written == [200] * len(written)
        assert metric(served, 'eyespot_audit_rows_total{result="written"}') == len(written)
    assert database.run("SELECT count(*) FROM eyespot_audit") == [(len(written),)]


@pytest.mark.needs("make test-all")
def test_a_slow_reader_is_refused_and_the_next_is_answered(database: Database) -> None:
    table = AuditTable(database.url, Path("/nowhere"), read_seconds=0.5)
    with serve_log(table) as served, served.client(headers=ADMIN) as client:
        assert write(client) == 200
        writer = database.backends(reading=False)
        database.slow_down_readers(60)
        for _ in range(3):
            refused = client.get("/audit")
            assert (refused.status_code, refused.json()["code"]) == (503, "audit-unavailable")
            assert int(refused.headers["retry-after"]) >= 1
        database.run("DROP POLICY r ON eyespot_audit", "CREATE POLICY r ON eyespot_audit FOR SELECT USING (true)")
        assert len(client.get("/audit").json()["rows"]) == 1
        until(
            lambda: database.backends(reading=False) == writer
        )  # the last reader's ROLLBACK may be listed for a moment


@pytest.mark.needs("make test-all")
def test_a_reader_whose_backend_hangs_is_cut_and_the_writer_is_not(database: Database) -> None:
    table = AuditTable(database.url, Path("/nowhere"), read_seconds=0.5)
    with serve_log(table) as served, served.client() as client:
        assert write(client) == 200
        writer = database.backends(reading=False)
        database.slow_down_readers(60)
        with ThreadPoolExecutor(1) as admin:
            reading = admin.submit(client.get, "/audit", headers=ADMIN)
            until(lambda: bool(database.backends(reading=True)))
            (hung,) = database.backends(reading=True)
            os.kill(hung, signal.SIGSTOP)  # PostgreSQL's own limit does not end it
            try:
                while not reading.done():
                    assert write(client) == 200
                assert reading.result().json()["code"] == "audit-unavailable"
            finally:
                os.kill(hung, signal.SIGCONT)
        until(lambda: database.backends(reading=False) == writer)


@pytest.mark.needs("make test-all")
def test_a_writer_whose_backend_hangs_is_cut_and_a_reader_is_not(database: Database) -> None:
    with serve_fake(**settings(database)) as served, served.client() as client:
        assert write(client) == 200
        (hung,) = database.backends(reading=False)
        database.slow_down_readers(1.7)
        with ThreadPoolExecutor(1) as admin:
            os.kill(hung, signal.SIGSTOP)
            try:
                late = admin.submit(write, client)
                while not late.done():
                    assert client.get("/audit", headers=ADMIN).status_code == 200
                assert late.result() == 503
            finally:
                os.kill(hung, signal.SIGCONT)
        until(lambda: client.get("/readyz").status_code == 200)
        assert write(client) == 200


def test_a_connection_lost_between_two_rows_loses_none(database: Database) -> None:
    with serve_fake(**settings(database)) as served, served.client() as client:
        for number in range(5):
            assert write(client, number) == 200
            (idle,) = database.backends(reading=False)
            assert database.run(f"SELECT pg_terminate_backend({idle}, 9000)") == [(True,)]


def test_a_row_whose_connection_breaks_is_retried(database: Database) -> None:
    with serve_fake(**settings(database)) as served, served.client() as client:
        assert write(client) == 200
        database.end_backend_once("")
        assert [write(client, number) for number in range(3)] == [200] * 3
    assert database.attempts() == 4
    assert database.run("SELECT count(*) FROM eyespot_audit") == [(4,)]


def test_a_row_whose_commit_had_no_reply_is_not_retried(database: Database) -> None:
    with serve_fake(**settings(database)) as served, served.client() as client:
        assert write(client) == 200
        database.end_backend_once("DEFERRABLE INITIALLY DEFERRED")  # with COMMIT
        assert [write(client, number) for number in range(3)] == [503, 200, 200]
    assert database.attempts() == 3


def test_a_rejected_row_loses_no_other(database: Database) -> None:
    async def test() -> None:
        table = AuditTable(database.url, Path("/nowhere"))
        audit = open_log(table, required=True)
        await audit.write(row(0))
        database.run("ALTER TABLE eyespot_audit ADD CHECK (request_id <> 'r1')")
        with pytest.raises(AuditUnavailable):
            await audit.write(row(1))
        await audit.write(row(2))
        assert ids(table.rows(limit=9)) == ["r2", "r0"]
        await audit.close()

    asyncio.run(test())


def test_replies_do_not_wait_for_attempts_to_reconnect(database: Database) -> None:
    table = AuditTable(database.url, Path("/nowhere"))
    prepare, looked, held = table.prepare, threading.Semaphore(0), threading.Event()

    def slow() -> None:
        looked.release()
        assert held.wait(60)
        prepare()

    async def test() -> None:
        audit = open_log(table, timeout=3600)
        await audit.write(row(0))
        database.run("ALTER TABLE eyespot_audit RENAME TO away")
        await audit.write(row(1))
        assert not audit.state()[0]
        table.prepare = slow  # type: ignore[method-assign]
        await asyncio.to_thread(looked.acquire)
        async with asyncio.timeout(30):
            for number in range(2, 100):
                await audit.write(row(number))
        held.set()
        await audit.close()

    asyncio.run(test())


def test_one_reader_too_many_is_refused_at_once(database: Database) -> None:
    with serve_fake(**settings(database)) as served, served.client() as client:
        assert write(client) == 200
        assert served.recognizer
        assert served.recognizer.audit
        table = served.recognizer.audit.table
        rows, held, entered = table.rows, threading.Event(), threading.Semaphore(0)

        def slow(**question: Any) -> Any:
            entered.release()
            assert held.wait(60)
            return rows(**question)

        table.rows = slow  # type: ignore[method-assign]

        def read(_: int) -> httpx.Response:
            with served.client(headers=ADMIN) as admin:
                return admin.get("/audit")

        with ThreadPoolExecutor(20) as admins:
            reading = [admins.submit(read, number) for number in range(20)]
            until(lambda: sum(one.done() for one in reading) == 8)
            refused = [one.result() for one in reading if one.done()]
            held.set()
        assert {one.json()["code"] for one in refused} == {"audit-unavailable"}
        assert all("busy" in one.json()["detail"] and int(one.headers["retry-after"]) >= 1 for one in refused)
        assert sorted(one.result().status_code for one in reading) == [200] * 12 + [503] * 8
