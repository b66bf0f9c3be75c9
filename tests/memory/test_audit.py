"""The audit log: a row for every recognition, in SQLite and in PostgreSQL, whatever happens to the database."""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from eyespot.errors import AuditUnavailable, AuditUnusable
from eyespot.memory.audit import AuditLog
from eyespot.memory.audit_schema import MIGRATIONS
from eyespot.memory.audit_table import AuditTable
from eyespot.memory.clock import SteadyClock
from tests import makers
from tests.memory.helpers import (
    ROW,
    START,
    Clock,
    check,
    eventually,
    fill,
    ids,
    open_log,
    row,
    serve_log,
    small_disk,
    spoil,
)
from tests.requests import IMAGE, image, metric, predict
from tests.services import PostgresServer, postgres_server
from tests.serving import FakeEngine, Served, serve_fake, serve_process, until


def test_rows_that_arrive_during_a_write_are_written_together(tmp_path: Path) -> None:
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
        await eventually(lambda: bool(batches))
        writes += [asyncio.create_task(audit.write(row(number))) for number in range(1, 50)]
        await asyncio.sleep(0.01)
        held.set()
        await asyncio.gather(*writes)
        assert batches == [1, 49]
        assert ids(table.rows(limit=99)) == [f"r{number}" for number in range(49, -1, -1)]
        await audit.close()

    asyncio.run(test())


def test_close_writes_the_pending_rows(tmp_path: Path) -> None:
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


def test_a_hung_database_delays_one_reply(tmp_path: Path) -> None:
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
        await eventually(lambda: not audit.state()[0])
        assert audit.state() == (False, "sqlite, lost: it does not answer; 1 rows could not be written")
        for _ in range(500):
            await audit.write(ROW)  # each at once, or this would take a minute
        assert audit._pending.empty()
        held.set()
        await eventually(lambda: audit.state()[0])
        await audit.write(row(1))
        assert ids(table.rows(limit=9)) == ["r1", "r0"]  # what was handed over is written late, and not lost
        await audit.close()

    asyncio.run(test())


def test_a_clock_set_forward_deletes_nothing(tmp_path: Path) -> None:
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


def test_old_rows_are_pruned_at_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = AuditTable("sqlite", tmp_path)
    table.prepare()
    table.insert([row(0), replace(ROW, time=datetime.now(UTC), request_id="young")])
    with caplog.at_level(logging.INFO), serve_fake(audit_url="sqlite", data_dir=tmp_path) as served:
        predict(served)
        until(lambda: "audit_pruned" in caplog.messages)
    assert ids(table.rows(limit=9))[1:] == ["young"]
    table.close()


def test_every_recognition_is_in_the_log_when_its_reply_arrives(tmp_path: Path) -> None:
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
    assert list(answered.steps) == ["admit", "read", "cache", "queue", "decode", "infer"]
    assert list(hit.steps) == ["admit", "read", "cache"]
    assert (broken.status, broken.code, broken.top5, broken.format) == (422, "broken-image", [], None)
    assert (none.status, none.code) == (415, "unsupported-format")
    assert abs(answered.time - datetime.now(UTC)) < timedelta(hours=1)
    table.close()


def test_an_internal_error_is_logged_too(tmp_path: Path) -> None:
    table = AuditTable("sqlite", tmp_path)
    with serve_fake(audit_url="sqlite", data_dir=tmp_path, raises=ZeroDivisionError("bug")) as served:
        assert predict(served).status_code == 500
    assert [(found.status, found.code) for found in table.rows(limit=9)] == [(500, "internal")]
    table.close()


def test_a_lost_row_is_counted_and_reported(tmp_path: Path) -> None:
    table = AuditTable("sqlite", tmp_path)
    log = serve_log(table, required=False, check_seconds=0.05, api_keys="", cache_url="off")
    with log as served, served.client() as client:
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


def test_a_required_row_that_is_lost_is_a_503_until_the_database_is_back(tmp_path: Path) -> None:
    log = serve_log(AuditTable("sqlite", tmp_path), check_seconds=0.05, api_keys="")
    with log as served, served.client() as client:
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


def test_a_missing_database_at_start() -> None:
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


@pytest.mark.needs("make test-all")
@pytest.mark.needs("postgres")
def test_killing_postgresql_loses_no_acknowledged_row() -> None:
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


@pytest.mark.needs("make test-all")
@pytest.mark.needs("postgres")
def test_restarting_an_idle_postgresql_loses_no_row() -> None:
    with postgres_server() as postgres, serve_fake(audit_url=postgres.url, audit_required=True) as served:
        assert predict(served).status_code == 200
        postgres.stop()
        postgres.start()
        assert predict(served).status_code == 200


@pytest.mark.needs("make test-all")
@pytest.mark.needs("postgres")
def test_a_hung_postgresql_does_not_delay_everybody() -> None:
    with postgres_server() as postgres, serve_fake(audit_url=postgres.url) as served:
        assert predict(served).status_code == 200
        postgres.pause()
        assert [predict(served).status_code for _ in range(20)] == [200] * 20
        assert check(served, "audit")["ok"] is False
        postgres.resume()
        until(lambda: check(served, "audit")["ok"])
        assert predict(served).status_code == 200


@pytest.mark.needs("make test-all")
@pytest.mark.needs("postgres")
def test_a_hung_postgresql_does_not_block_shutdown() -> None:
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


def test_a_table_migrated_by_a_newer_version_is_lost_and_found_again(tmp_path: Path) -> None:
    def version(number: int) -> None:
        with sqlite3.connect(tmp_path / "audit.sqlite") as connection:
            connection.execute("UPDATE eyespot_audit_schema SET version = ?", (number,))
        connection.close()

    with serve_log(AuditTable("sqlite", tmp_path), required=False, check_seconds=0.05, api_keys="") as served:
        back = spoil(tmp_path)
        assert predict(served).status_code == 200
        version(99)
        back()
        until(lambda: "schema version 99" in check(served, "audit")["detail"])
        version(len(MIGRATIONS))
        until(lambda: check(served, "audit")["ok"])


def test_a_kill_loses_no_acknowledged_row(packaged: dict[str, str], tmp_path: Path) -> None:
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


def test_without_a_log_there_is_no_audit_step() -> None:
    engine = FakeEngine()
    with serve_fake(engine) as served:
        assert predict(served).status_code == 200
        assert "audit" not in predict(served).headers["server-timing"]
