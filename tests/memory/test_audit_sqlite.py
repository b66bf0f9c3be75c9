"""The audit log in SQLite when its file is deleted, moved, replaced or damaged under a running server."""

import asyncio
import os
import random
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from eyespot.errors import AuditUnavailable
from eyespot.memory.audit_table import AuditTable
from tests.memory.helpers import ADMIN, check, eventually, ids, open_log, row, serve_log
from tests.requests import image
from tests.serving import until

GARBAGE = random.Random(1).randbytes(100_000)


def audit_file(folder: Path, suffix: str = "") -> Path:
    return folder / f"audit.sqlite{suffix}"


def deleted(folder: Path) -> None:
    audit_file(folder).unlink()


def deleted_with_companions(folder: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        audit_file(folder, suffix).unlink()


def moved(folder: Path) -> None:
    audit_file(folder).rename(folder / "moved")


def without_wal(folder: Path) -> None:
    audit_file(folder, "-wal").unlink()


def overwritten(folder: Path) -> None:
    with audit_file(folder).open("r+b") as file:
        file.write(GARBAGE)


def overwritten_by_less(folder: Path) -> None:
    audit_file(folder).write_bytes(GARBAGE[:10])


def emptied(folder: Path) -> None:
    os.truncate(audit_file(folder), 0)


def halved(folder: Path) -> None:
    os.truncate(audit_file(folder), audit_file(folder).stat().st_size // 2)


def with_an_empty_wal(folder: Path) -> None:
    os.truncate(audit_file(folder, "-wal"), 0)


def replaced(folder: Path) -> None:
    (folder / "new").write_bytes(GARBAGE)
    (folder / "new").rename(audit_file(folder))


def replaced_by_a_database(folder: Path) -> None:
    sqlite3.connect(folder / "new").close()
    with sqlite3.connect(folder / "new") as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    (folder / "new").rename(audit_file(folder))


LOSSES = [
    *(deleted, deleted_with_companions, moved, without_wal, with_an_empty_wal),
    *(overwritten, overwritten_by_less, emptied, replaced, replaced_by_a_database),
]
Loss = Callable[[Path], None]


def ask(client: httpx.Client, number: int) -> str:
    """The request id of a recognition that was answered."""
    reply = client.post("/predict", content=image(number), headers=ADMIN)
    assert reply.status_code == 200, reply.text
    return reply.headers["x-request-id"]


def set_aside(folder: Path) -> list[Path]:
    return [path for path in folder.glob("audit.sqlite.2*") if not path.name.endswith("-wal")]


@pytest.mark.parametrize("lose", [*LOSSES, halved])
def test_a_lost_file_is_reported_and_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture, lose: Loss) -> None:
    with serve_log(AuditTable("sqlite", tmp_path), check_seconds=0.05) as served, served.client() as client:
        ask(client, 0)
        lose(tmp_path)
        until(lambda: "audit_reopened" in caplog.messages)  # without a request that would need a row
        until(lambda: check(served, "audit")["ok"])
        assert "reopened" in check(served, "audit")["detail"]
        new = [ask(client, number) for number in range(1, 4)]
        page = client.get("/audit", headers=ADMIN).json()
        assert [found["request_id"] for found in page["rows"]] == new[::-1]
        with sqlite3.connect(audit_file(tmp_path)) as connection:
            written = [found for (found,) in connection.execute("SELECT request_id FROM eyespot_audit")]
        connection.close()
        assert written == new


@pytest.mark.parametrize("lose", LOSSES)
def test_a_row_written_before_the_loss_is_noticed_is_in_the_new_file(tmp_path: Path, lose: Loss) -> None:
    table = AuditTable("sqlite", tmp_path)
    table.prepare()
    table.insert([row(0)])
    lose(tmp_path)
    table.insert([row(1)])
    table.close()
    again = AuditTable("sqlite", tmp_path)
    assert ids(again.rows(limit=9)) == ["r1"]
    again.close()


@pytest.mark.parametrize(
    ("lose", "left"), [(overwritten, len(GARBAGE)), (overwritten_by_less, 10), (replaced, len(GARBAGE))]
)
def test_a_damaged_file_is_kept(tmp_path: Path, lose: Loss, left: int) -> None:
    table = AuditTable("sqlite", tmp_path)
    table.prepare()
    lose(tmp_path)
    table.insert([row(1)])
    (kept,) = set_aside(tmp_path)
    assert kept.read_bytes() == GARBAGE[:left]
    table.close()


@pytest.mark.parametrize("lose", [moved, without_wal, emptied])
def test_a_sound_file_keeps_all_its_rows(tmp_path: Path, lose: Loss) -> None:
    table = AuditTable("sqlite", tmp_path)
    table.prepare()
    table.insert([row(number) for number in range(500)])
    lose(tmp_path)
    table.insert([row(500)])
    (kept,) = [*set_aside(tmp_path), *tmp_path.glob("moved")]
    with sqlite3.connect(kept) as connection:
        assert connection.execute("SELECT count(*) FROM eyespot_audit").fetchone() == (500,)
    connection.close()
    table.close()


def test_damage_that_only_sqlite_finds_is_set_aside_too(tmp_path: Path) -> None:
    table = AuditTable("sqlite", tmp_path)
    table.prepare()
    table.insert([row(number) for number in range(500)])
    table.close()
    table.prepare()  # nothing is in its memory, nor in the -wal
    with audit_file(tmp_path).open("r+b") as file:
        file.seek(4096)
        file.write(GARBAGE)
    table.insert([row(500)])
    assert ids(table.rows(limit=9)) == ["r500"]
    assert GARBAGE in set_aside(tmp_path)[0].read_bytes()
    table.close()


@pytest.mark.parametrize("lose", [deleted, overwritten, replaced])
def test_servers_that_notice_a_loss_together_share_one_new_file(tmp_path: Path, lose: Loss) -> None:
    tables = [AuditTable("sqlite", tmp_path) for _ in range(4)]
    for table in tables:
        table.prepare()
        table.insert([row(0)])
    lose(tmp_path)
    together = threading.Barrier(len(tables))

    def write(number: int) -> None:
        together.wait(30)
        for _ in range(10):
            tables[number].insert([row(number)])

    with ThreadPoolExecutor(len(tables)) as servers:
        list(servers.map(write, range(len(tables))))
    assert sorted(ids(tables[0].rows(limit=99))) == sorted(f"r{number}" for number in range(4) for _ in range(10))
    assert len(set_aside(tmp_path)) == (lose is not deleted)
    for table in tables:
        table.close()


def test_without_a_file_a_required_row_is_a_503(tmp_path: Path) -> None:
    with serve_log(AuditTable("sqlite", tmp_path), check_seconds=0.05) as served, served.client() as client:
        ask(client, 0)
        deleted(tmp_path)
        audit_file(tmp_path).mkdir()
        until(lambda: client.get("/readyz").status_code == 503)
        assert "audit.sqlite" in check(served, "audit")["detail"]
        refused = client.post("/predict", content=image(1), headers=ADMIN)
        assert (refused.status_code, refused.json()["code"]) == (503, "audit-unavailable")
        audit_file(tmp_path).rmdir()
        until(lambda: client.get("/readyz").status_code == 200)
        ask(client, 1)


def test_a_file_that_is_no_database_is_left_alone_at_start(tmp_path: Path) -> None:
    audit_file(tmp_path).write_bytes(GARBAGE)

    async def test() -> None:
        audit = open_log(AuditTable("sqlite", tmp_path))
        for _ in range(3):
            await audit.write(row(0))
        with pytest.raises(AuditUnavailable):
            await audit.rows(limit=1)
        assert "not a database" in audit.state()[1]
        await audit.close()

    asyncio.run(test())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"audit.sqlite": GARBAGE}


def test_a_query_without_end_does_not_keep_a_thread(tmp_path: Path) -> None:
    def run(*statements: str) -> None:
        with sqlite3.connect(audit_file(tmp_path)) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    with serve_log(AuditTable("sqlite", tmp_path, read_seconds=0.2)) as served, served.client(headers=ADMIN) as client:
        ask(client, 0)
        run(
            "ALTER TABLE eyespot_audit RENAME TO finite",
            "CREATE VIEW eyespot_audit AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
            "SELECT finite.* FROM finite, n",
        )
        for _ in range(3):  # more than there are threads
            refused = client.get("/audit")
            assert (refused.status_code, refused.json()["code"]) == (503, "audit-unavailable")
        run("DROP VIEW eyespot_audit", "ALTER TABLE finite RENAME TO eyespot_audit")
        assert len(client.get("/audit").json()["rows"]) == 1


def test_a_log_that_cannot_be_pruned_is_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def locked(_: object) -> int:
        raise AuditTable.failures[0]("locked")

    table = AuditTable("sqlite", tmp_path)
    monkeypatch.setattr(table, "prune", locked)

    async def test() -> None:
        audit = open_log(table, required=True)
        await eventually(lambda: "audit_not_pruned" in caplog.messages)
        await audit.write(row(0))
        assert audit.state() == (True, "sqlite")
        await audit.close()

    asyncio.run(test())
