"""The audit log: a row for every recognition, in SQLite and in PostgreSQL, whatever happens to the database."""

import asyncio
import csv
import io
import json
import logging
import re
import sqlite3
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sql
from hypothesis import given
from hypothesis import strategies as st

from eyespot.errors import AuditUnavailable, AuditUnusable
from eyespot.memory.audit import AuditLog
from eyespot.memory.audit_address import anonymizer
from eyespot.memory.audit_schema import MIGRATIONS
from eyespot.memory.audit_table import AuditTable
from eyespot.memory.clock import SteadyClock
from eyespot.types import Prediction
from tests import makers
from tests.memory.helpers import ADMIN, KEYS, ROW, START, Clock, check, fill, ids, open_log, row, small_disk
from tests.requests import IMAGE, image, metric, predict
from tests.services import PostgresServer, postgres_server
from tests.serving import EYESPOT, FakeEngine, Served, environment, serve_fake, serve_process, until
from tests.test_pool import until as until_so


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("postgres"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/audit.sqlite"
    server: PostgresServer = request.getfixturevalue("postgres")
    engine = sql.create_engine(server.url.replace("postgresql", "postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execute(sql.text("DROP TABLE IF EXISTS eyespot_audit, eyespot_audit_schema"))
    engine.dispose()
    return server.url


@pytest.fixture
def table(url: str) -> Iterator[AuditTable]:
    table = AuditTable(url, Path("/nowhere"))
    table.prepare()
    yield table
    table.close()


def test_rows_come_back_as_they_were_written(table: AuditTable) -> None:
    refused = row(
        1, format=None, width=None, height=None, top5=[], status=422, code="broken-image", address=None, key=None
    )
    table.insert([ROW, refused])
    table.insert([refused, refused])  # columns of nulls alone
    rows = table.rows(limit=10)
    assert [replace(found, id=0) for found in rows] == [refused, refused, refused, ROW]
    assert rows[0].id > rows[1].id > rows[2].id > rows[3].id > 0


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_text_comes_back(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = AuditTable("sqlite", Path(folder))
        table.prepare()
        table.insert([replace(ROW, key=text, top5=[Prediction(1, "n1", text, 0.5)])])
        (found,) = table.rows(limit=1, label=text)
        assert (found.key, found.top5[0].label) == (text, text)
        table.close()


def test_pages_follow_each_other_while_rows_come_and_go(table: AuditTable) -> None:
    table.insert([row(number) for number in range(25)])
    seen: list[str] = []
    before = None
    while page := table.rows(before=before, limit=4):
        seen += ids(page)
        before = page[-1].id
        table.insert([row(100)])
        table.prune(START + timedelta(minutes=1))
    assert seen == [f"r{number}" for number in range(24, 0, -1)]


def test_rows_are_found_by_what_they_hold(table: AuditTable) -> None:
    table.insert([row(0), row(1, sha256="b" * 64), row(2, top5=[Prediction(2, "n2", "beagle", 0.9)])])
    assert ids(table.rows(limit=9, sha256="b" * 64)) == ["r1"]
    assert ids(table.rows(limit=9, label="beagle")) == ["r2"]
    assert ids(table.rows(limit=9, since=START + timedelta(minutes=1))) == ["r2", "r1"]
    assert ids(table.rows(limit=9, until=START + timedelta(minutes=1))) == ["r0"]
    assert ids(table.rows(limit=9, label="beagle", until=START)) == []


def test_all_rows_are_read_in_pages_oldest_first(table: AuditTable) -> None:
    table.insert([row(number) for number in range(9)])
    assert ids(list(table.all_rows(page=4))) == [f"r{number}" for number in range(9)]
    since, until = START + timedelta(minutes=3), START + timedelta(minutes=5)
    assert ids(list(table.all_rows(since=since, until=until))) == ["r3", "r4"]


def test_old_rows_are_deleted_a_few_at_a_time_and_ids_are_not_given_again(table: AuditTable) -> None:
    table.insert([row(number) for number in range(10)])
    last = table.rows(limit=1)[0].id
    assert [table.prune(START + timedelta(days=1), limit=4) for _ in range(4)] == [4, 4, 2, 0]
    table.insert([ROW])
    assert table.rows(limit=1)[0].id > last


def test_an_older_table_is_brought_forward_with_its_rows(url: str) -> None:
    older = AuditTable(url, Path("/nowhere"), migrations=MIGRATIONS[:1])
    older.prepare()
    older.insert([ROW])
    assert indexes(older) == set()
    older.close()
    table = AuditTable(url, Path("/nowhere"))
    table.prepare()
    table.prepare()
    assert indexes(table) == {f"eyespot_audit_{column}" for column in ("time", "sha256", "label")}
    assert ids(table.rows(limit=9)) == ["r0"]
    table.close()


def indexes(table: AuditTable) -> set[str | None]:
    return {found["name"] for found in sql.inspect(table._engine).get_indexes("eyespot_audit")}


def test_a_newer_table_is_refused_and_left_alone(table: AuditTable) -> None:
    with table._engine.begin() as connection:
        connection.execute(sql.text(f"UPDATE eyespot_audit_schema SET version = {len(MIGRATIONS) + 1}"))
    for _ in range(2):
        with pytest.raises(AuditUnusable, match=f"schema version {len(MIGRATIONS) + 1}"):
            table.prepare()


def test_several_servers_may_start_at_once(url: str) -> None:
    tables = [AuditTable(url, Path("/nowhere")) for _ in range(4)]
    with ThreadPoolExecutor(4) as servers:
        list(servers.map(lambda table: table.prepare(), tables))
    for table in tables:
        table.insert([ROW])
    assert len(tables[0].rows(limit=9)) == 4
    for table in tables:
        table.close()


@pytest.mark.parametrize("url", ["postgresql+nothing://me:hunter2@host/db", "postgresql://me:hunter2@host:port/db"])
def test_an_address_that_is_none_is_told_without_its_password(url: str) -> None:
    with pytest.raises(AuditUnusable) as caught:
        AuditTable(url, Path("/nowhere"))
    assert "hunter2" not in str(caught.value)


def test_rows_that_come_while_one_is_written_are_written_together(tmp_path: Path) -> None:
    table = AuditTable("sqlite", tmp_path)
    batches: list[int] = []
    insert = table.insert
    held = threading.Event()

    def counted(rows: Any) -> None:
        batches.append(len(rows))
        assert held.wait(30)
        insert(rows)

    table.insert = counted  # type: ignore[method-assign]

    async def test() -> None:
        audit = open_log(table)
        writes = [asyncio.create_task(audit.write(row(0)))]
        await until_so(lambda: bool(batches))
        writes += [asyncio.create_task(audit.write(row(number))) for number in range(1, 50)]
        await asyncio.sleep(0.01)
        held.set()
        await asyncio.gather(*writes)
        assert batches == [1, 49]
        assert ids(table.rows(limit=99)) == [f"r{number}" for number in range(49, -1, -1)]
        await audit.close()

    asyncio.run(test())


def test_a_stop_writes_what_has_been_gathered(tmp_path: Path) -> None:
    async def test() -> None:
        audit = open_log(AuditTable("sqlite", tmp_path))
        writes = [asyncio.create_task(audit.write(row(number))) for number in range(2500)]
        await asyncio.sleep(0)  # each has put its row down, and the thread has none yet
        await audit.close()
        await asyncio.gather(*writes)

    asyncio.run(test())
    table = AuditTable("sqlite", tmp_path)
    assert len(table.rows(limit=9999)) == 2500
    table.close()


def test_a_database_that_hangs_costs_a_moment_and_then_nothing(tmp_path: Path) -> None:
    table = AuditTable("sqlite", tmp_path)
    insert, held, entered = table.insert, threading.Event(), threading.Semaphore(0)

    def hanging(rows: Any) -> None:
        entered.release()
        assert held.wait(30)
        insert(rows)

    table.insert = hanging  # type: ignore[method-assign]

    async def test() -> None:
        audit = open_log(table, timeout=0.1)
        await audit.write(ROW)
        assert entered.acquire(timeout=30)
        await until_so(lambda: not audit.state()[0])
        assert audit.state() == (False, "sqlite, lost: it does not answer; 1 rows could not be written")
        for _ in range(500):
            await audit.write(ROW)  # each at once, or this would take a minute
        assert audit._pending.empty()
        held.set()
        await until_so(lambda: audit.state()[0])
        await audit.write(row(1))
        assert ids(table.rows(limit=9)) == ["r1", "r0"]  # what was handed over is written late, and not lost
        await audit.close()

    asyncio.run(test())


def test_a_clock_that_is_set_forward_deletes_nothing(tmp_path: Path) -> None:
    wall, elapsed = Clock(START.timestamp()), Clock()
    table = AuditTable("sqlite", tmp_path)

    async def test() -> None:
        audit = open_log(table, days=30, now=SteadyClock(wall, elapsed))
        await audit.write(ROW)

        def pruned_after(wall_days: float, steady_days: float) -> int:
            wall.advance(wall_days * 86400)
            elapsed.advance(steady_days * 86400)
            audit._prune()
            return 1 - len(table.rows(limit=9))

        assert pruned_after(400, 0) == 0  # set forward by more than a year
        assert pruned_after(-800, 0) == 0  # and back
        assert pruned_after(400, 29) == 0
        assert pruned_after(31, 2) == 1
        await audit.close()

    asyncio.run(test())


def test_old_rows_are_deleted_at_start_and_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = AuditTable("sqlite", tmp_path)
    table.prepare()
    table.insert([row(0), replace(ROW, time=datetime.now(UTC), request_id="young")])
    with caplog.at_level(logging.INFO), serve_fake(audit_url="sqlite", data_dir=tmp_path) as served:
        predict(served)
        until(lambda: "audit_pruned" in caplog.messages)
    assert ids(table.rows(limit=9))[1:] == ["young"]
    table.close()


@pytest.mark.parametrize(
    ("how", "address", "written"),
    [
        ("full", "192.0.2.77", "192.0.2.77"),
        ("none", "192.0.2.77", None),
        ("truncated", "192.0.2.77", "192.0.2.0/24"),
        ("truncated", "2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("truncated", None, None),
        ("truncated", "testclient", None),
        ("hashed", None, None),
    ],
)
def test_what_is_written_of_an_address(tmp_path: Path, how: str, address: str | None, written: str | None) -> None:
    assert anonymizer(how, tmp_path)(address) == written


def test_a_hashed_address_is_the_same_as_long_as_the_secret_is(tmp_path: Path) -> None:
    one, again = anonymizer("hashed", tmp_path), anonymizer("hashed", tmp_path)
    hashed = one("192.0.2.77")
    assert re.fullmatch("[0-9a-f]{16}", hashed or "")
    assert again("192.0.2.77") == hashed != one("192.0.2.78")
    secret = tmp_path / "audit.secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    secret.write_bytes(b"short")
    with pytest.raises(AuditUnusable, match="delete it"):
        anonymizer("hashed", tmp_path)
    secret.unlink()
    assert anonymizer("hashed", tmp_path)("192.0.2.77") != hashed
    assert [path.name for path in tmp_path.iterdir()] == ["audit.secret"]


def test_every_recognition_leaves_a_row_that_is_there_with_the_reply(tmp_path: Path) -> None:
    table = AuditTable("sqlite", tmp_path)
    with serve_fake(audit_url="sqlite", data_dir=tmp_path, cache_url="memory://") as served:
        for data in (IMAGE, IMAGE, makers.jpeg()[:5000], b"no image"):
            reply = predict(served, data)
            (found,) = table.rows(limit=1)
            assert found.request_id == reply.headers["x-request-id"]
            assert (found.status, found.cache) == (reply.status_code, reply.headers["x-cache"])
        assert predict(served, IMAGE, top_k=99).status_code == 422  # not a recognition
        answered, hit, broken, none = table.rows(limit=9)[::-1]
        assert metric(served, 'eyespot_audit_rows_total{result="written"}') == 4
    assert (answered.address, answered.key, answered.bytes, answered.code) == ("127.0.0.1", None, len(IMAGE), None)
    assert (answered.format, answered.width, answered.height) == ("PNG", 300, 200)
    assert (answered.model_digest, answered.engine, answered.precision) == ("0" * 64, "fake", "f32")
    assert len(answered.top5) == 5
    assert answered.top5 == hit.top5
    assert list(answered.steps) == ["admit", "read", "cache", "queue", "infer"]
    assert list(hit.steps) == ["admit", "read", "cache"]
    assert (broken.status, broken.code, broken.top5, broken.format) == (422, "broken-image", [], None)
    assert (none.status, none.code) == (415, "unsupported-format")
    assert abs(answered.time - datetime.now(UTC)) < timedelta(hours=1)
    table.close()


def test_an_error_of_ours_leaves_a_row_too(tmp_path: Path) -> None:
    table = AuditTable("sqlite", tmp_path)
    with serve_fake(audit_url="sqlite", data_dir=tmp_path, raises=ZeroDivisionError("bug")) as served:
        assert predict(served).status_code == 500
    assert [(found.status, found.code) for found in table.rows(limit=9)] == [(500, "internal")]
    table.close()


def spoil(tmp_path: Path) -> Callable[[], None]:
    """Make the table unusable for everybody; what puts it back."""
    with sqlite3.connect(tmp_path / "audit.sqlite") as connection:
        connection.execute("ALTER TABLE eyespot_audit RENAME TO away")
    connection.close()

    def back() -> None:
        with sqlite3.connect(tmp_path / "audit.sqlite") as connection:
            connection.execute("ALTER TABLE away RENAME TO eyespot_audit")
        connection.close()

    return back


def test_a_row_that_cannot_be_written_is_counted_and_shown(tmp_path: Path) -> None:
    with serve_fake(audit_url="sqlite", data_dir=tmp_path) as served, served.client() as client:
        assert predict(served).status_code == 200
        assert check(served, "audit")["ok"] is True
        back = spoil(tmp_path)
        assert [predict(served).status_code for _ in range(3)] == [200] * 3
        assert metric(served, 'eyespot_audit_rows_total{result="lost"}') == 3
        found = check(served, "audit")
        assert found["ok"] is False
        assert "3 rows could not be written" in found["detail"]
        assert client.get("/readyz").status_code == 200
        back()
        until(lambda: check(served, "audit")["ok"])
        assert predict(served).status_code == 200
        assert metric(served, 'eyespot_audit_rows_total{result="written"}') == 2


def test_a_required_row_that_cannot_be_written_is_a_503_until_the_database_is_back(tmp_path: Path) -> None:
    with (
        serve_fake(audit_url="sqlite", data_dir=tmp_path, audit_required=True, cache_url="memory://") as served,
        served.client() as client,
    ):
        assert predict(served).status_code == 200
        back = spoil(tmp_path)
        for data in (IMAGE, image(1), b"no image"):  # a hit, a miss and a refusal
            refused = predict(served, data)
            assert (refused.status_code, refused.json()["code"]) == (503, "audit-unavailable")
            assert int(refused.headers["retry-after"]) >= 1
        ready = client.get("/readyz?verbose")
        assert (ready.status_code, ready.json()["code"]) == (503, "audit-unavailable")
        back()
        until(lambda: client.get("/readyz").status_code == 200)  # without a request that would need a row
        assert predict(served).status_code == 200


def test_a_database_that_is_not_there_at_start() -> None:
    url = "postgresql://eyespot:hunter2@127.0.0.1:9/eyespot"
    table = AuditTable(url, Path("/nowhere"))
    with pytest.raises(AuditUnusable) as caught:
        open_log(table, required=True)
    assert "hunter2" not in str(caught.value)
    with serve_fake(audit_url=url) as served:
        assert predict(served).status_code == 200
        assert "refused" in check(served, "audit")["detail"]
        assert "hunter2" not in check(served, "audit")["detail"]


def acknowledged(served: Served, requests: int, callers: int, during: Callable[[int], None]) -> set[str]:
    """Send so many requests, and say which were answered 200. `during` is called with the number of answers so far."""
    told: set[str] = set()
    failures: list[int] = []
    lock = threading.Lock()

    def ask(number: int) -> None:
        try:
            reply = predict(served, image(number % 10))
        except httpx.TransportError:  # the server was killed
            return
        with lock:
            if reply.status_code == 200:
                told.add(reply.headers["x-request-id"])
            else:
                assert reply.json()["code"] == "audit-unavailable", reply.text
                failures.append(number)
            done = len(told) + len(failures)
        during(done)

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(ask, range(requests)))
    return told


@pytest.mark.needs("postgres")
def test_postgresql_may_be_killed_and_restarted_and_no_acknowledged_row_is_lost() -> None:
    with postgres_server() as postgres:
        settings = {"audit_url": postgres.url, "audit_required": True, "queue": 64, "cache_url": "memory://"}
        with serve_fake(**settings) as served, served.client() as client:
            told = acknowledged(served, 50, 8, lambda done: None)
            killer = threading.Thread(target=postgres.kill)
            told |= acknowledged(served, 150, 8, lambda done: killer.start() if done == 50 else None)
            killer.join()
            assert predict(served).json()["code"] == "audit-unavailable"
            postgres.start()
            until(lambda: client.get("/readyz").status_code == 200)
            after = acknowledged(served, 50, 8, lambda done: None)
        table = AuditTable(postgres.url, Path("/nowhere"))
        rows = {found.request_id for found in table.all_rows()}
        table.close()
        assert len(after) == 50
        assert 100 <= len(told) < 200
        assert told | after <= rows


@pytest.mark.needs("postgres")
def test_a_postgresql_that_was_restarted_while_nobody_asked_loses_no_row() -> None:
    with postgres_server() as postgres, serve_fake(audit_url=postgres.url, audit_required=True) as served:
        assert predict(served).status_code == 200
        postgres.stop()
        postgres.start()
        assert predict(served).status_code == 200


@pytest.mark.needs("postgres")
def test_a_postgresql_that_hangs_is_not_waited_for_by_everybody() -> None:
    with postgres_server() as postgres, serve_fake(audit_url=postgres.url) as served:
        assert predict(served).status_code == 200
        postgres.pause()
        assert [predict(served).status_code for _ in range(20)] == [200] * 20
        assert check(served, "audit")["ok"] is False
        postgres.resume()
        until(lambda: check(served, "audit")["ok"])
        assert predict(served).status_code == 200


@pytest.mark.needs("postgres")
def test_a_postgresql_that_hangs_keeps_nobody_from_ending() -> None:
    async def test(postgres: PostgresServer) -> None:
        audit = open_log(AuditTable(postgres.url, Path("/nowhere")))
        await audit.write(ROW)
        postgres.pause()
        await asyncio.gather(audit.write(ROW), *(unavailable(audit) for _ in range(5)))
        async with asyncio.timeout(20):
            await audit.close()
        assert not audit._thread.is_alive()

    async def unavailable(audit: AuditLog) -> None:
        with pytest.raises(AuditUnavailable):
            await audit.rows(limit=1)

    with postgres_server() as postgres:
        asyncio.run(test(postgres))
        postgres.kill()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("eyespot-audit")])


def test_a_table_that_a_newer_program_changes_is_lost_and_found_again(tmp_path: Path) -> None:
    def version(number: int) -> None:
        with sqlite3.connect(tmp_path / "audit.sqlite") as connection:
            connection.execute("UPDATE eyespot_audit_schema SET version = ?", (number,))
        connection.close()

    with serve_fake(audit_url="sqlite", data_dir=tmp_path) as served:
        back = spoil(tmp_path)
        assert predict(served).status_code == 200
        version(99)
        back()
        until(lambda: "schema version 99" in check(served, "audit")["detail"])
        version(len(MIGRATIONS))
        until(lambda: check(served, "audit")["ok"])


def test_after_a_kill_every_acknowledged_row_is_there(packaged: dict[str, str], tmp_path: Path) -> None:
    exports = {**packaged, "EYESPOT_AUDIT_URL": f"sqlite:///{tmp_path}/audit.sqlite", "EYESPOT_AUDIT_REQUIRED": "true"}
    with serve_process(**exports) as served:
        assert served.process
        process = served.process
        sample = makers.jpeg()

        def ask(number: int) -> str | None:
            try:
                with served.client() as client:
                    reply = client.post("/predict", content=sample + bytes([number % 5]))
            except httpx.TransportError:
                return None
            if number == 150:
                process.kill()
            return reply.headers["x-request-id"] if reply.status_code == 200 else None

        with ThreadPoolExecutor(8) as callers:
            told = {answer for answer in callers.map(ask, range(400)) if answer}
    assert len(told) > 100
    with sqlite3.connect(tmp_path / "audit.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = {found for (found,) in connection.execute("SELECT request_id FROM eyespot_audit")}
    connection.close()
    assert told <= rows


@pytest.mark.needs("make test-all")
def test_a_full_disk_loses_rows_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        with serve_fake(audit_url="sqlite", data_dir=disk) as served:
            assert predict(served).status_code == 200
            ballast = fill(disk)
            until(lambda: predict(served).status_code == 200 and not check(served, "audit")["ok"])
            assert "full" in check(served, "audit")["detail"]
            ballast.unlink()
            until(lambda: check(served, "audit")["ok"])
            reply = predict(served)
        table = AuditTable("sqlite", disk)
        rows = ids(table.rows(limit=1000))
        assert rows[0] == reply.headers["x-request-id"]
        table.close()


def test_admins_read_the_log(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"audit_url": "sqlite", "data_dir": tmp_path, "api_keys": KEYS}
    with serve_fake(**settings) as served, served.client() as client:
        for number in range(5):
            reply = client.post("/predict", content=image(number), headers={"X-API-Key": "click-clack"})
            assert reply.status_code == 200
        first = client.get("/audit", params={"limit": 3}, headers=ADMIN).json()
        second = client.get("/audit", params={"limit": 3, "cursor": first["cursor"]}, headers=ADMIN).json()
        assert [len(page["rows"]) for page in (first, second)] == [3, 2]
        assert second["cursor"] is None
        rows = first["rows"] + second["rows"]
        assert rows[0]["request_id"] == reply.headers["x-request-id"]
        assert {found["key"] for found in rows} == {"camera"}
        sha256, label, time = rows[2]["sha256"], rows[2]["top5"][0]["label"], rows[2]["time"]
        for params, number in [
            ({"sha256": sha256}, 1),
            ({"label": label}, 5),
            ({"label": "no such thing"}, 0),
            ({"since": time}, 3),
            ({"until": time}, 2),
            ({"since": "2100-01-01"}, 0),
        ]:
            found = client.get("/audit", params=params, headers=ADMIN)
            assert (found.status_code, len(found.json()["rows"])) == (200, number), params
        assert client.get("/audit", headers={"X-API-Key": "click-clack"}).json()["code"] == "forbidden"
        assert client.get("/audit").json()["code"] == "unauthorized"


@pytest.mark.parametrize(
    "params",
    [
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "x"},
        {"cursor": "0"},
        {"cursor": str(2**63)},
        {"since": "yesterday"},
        {"since": "0001-01-01T00:00:00+14:00"},
        {"until": "9999-12-31T23:59:59-14:00"},
        {"sha256": "ABC"},
        {"label": ""},
        {"label": "a\0b"},
        {"label": "x" * 201},
    ],
)
def test_a_wrong_question_is_told(asked: httpx.Client, params: dict[str, str]) -> None:
    refused = asked.get("/audit", params=params)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-parameter")
    assert next(iter(params)) in refused.json()["detail"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    settings: dict[str, Any] = {"audit_url": "sqlite", "data_dir": tmp_path_factory.mktemp("audit"), "api_keys": KEYS}
    with serve_fake(**settings) as served, served.client(headers=ADMIN) as client:
        yield client


def test_without_a_log_there_is_none_to_read() -> None:
    with serve_fake(api_keys=KEYS) as served, served.client(headers=ADMIN) as client:
        assert client.get("/audit").json()["code"] == "not-found"


def test_a_log_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"audit_url": "sqlite", "data_dir": tmp_path, "api_keys": KEYS}
    with serve_fake(**settings) as served, served.client(headers=ADMIN) as client:
        spoil(tmp_path)
        assert client.get("/audit").json()["code"] == "audit-unavailable"


def eyespot(tmp_path: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EYESPOT, *arguments],
        env=environment(EYESPOT_DATA_DIR=str(tmp_path), **settings),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_log_is_exported_and_pruned_from_the_command_line(tmp_path: Path) -> None:
    table = AuditTable("sqlite", tmp_path)
    table.prepare()
    young = replace(ROW, time=datetime.now(UTC), request_id="young")
    table.insert([row(0), row(1, top5=[], status=422, code="broken-image"), young])
    lines = [json.loads(line) for line in eyespot(tmp_path, "audit", "export").stdout.splitlines()]
    assert [line["request_id"] for line in lines] == ["r0", "r1", "young"]
    assert lines[0]["top5"][1]["label"] == 'a "quoted" 名'
    exported = eyespot(tmp_path, "audit", "export", "--csv", "--until", "2026-03-02").stdout
    first, second = csv.DictReader(io.StringIO(exported))
    assert (first["request_id"], first["label1"], first["confidence1"]) == ("r0", "tabby", "0.871234")
    assert first["time"] == "2026-03-01T12:00:00+00:00"
    assert (second["code"], second["label1"]) == ("broken-image", "")
    pruned = eyespot(tmp_path, "audit", "prune", "--days", "7")
    assert (pruned.returncode, pruned.stdout) == (0, "2 rows deleted\n")
    assert eyespot(tmp_path, "audit", "prune", "--days", "999999").returncode == 2
    assert ids(table.rows(limit=9)) == ["young"]
    table.close()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"EYESPOT_AUDIT_URL": "off"}, "is off"),
        ({"EYESPOT_AUDIT_URL": "sqlite:////nowhere/at/all"}, "unable to open"),
        ({"EYESPOT_AUDIT_URL": "postgresql://me:hunter2@127.0.0.1:9/db"}, "refused"),
    ],
)
def test_a_log_that_is_not_there_is_told_in_one_line(tmp_path: Path, settings: dict[str, str], told: str) -> None:
    done = eyespot(tmp_path, "audit", "export", **settings)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.stderr


def test_a_reader_who_has_read_enough_is_no_error(tmp_path: Path) -> None:
    table = AuditTable("sqlite", tmp_path)
    table.prepare()
    table.insert([row(number) for number in range(2000)])
    table.close()
    script = f"{EYESPOT} audit export | head -n 1"
    done = subprocess.run(
        ["sh", "-c", script],
        env=environment(EYESPOT_DATA_DIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["request_id"] == "r0"


def test_nobody_waits_for_a_log_that_is_off() -> None:
    engine = FakeEngine()
    with serve_fake(engine) as served:
        assert predict(served).status_code == 200
        assert "audit" not in predict(served).headers["server-timing"]
