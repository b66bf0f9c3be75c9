"""Rows in SQLite and in PostgreSQL: what is written is found, in pages, after migrations."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sql
from hypothesis import given
from hypothesis import strategies as st

from eyespot.errors import AuditUnusable
from eyespot.memory.audit_schema import MIGRATIONS
from eyespot.memory.audit_table import AuditTable
from eyespot.types import Prediction
from tests.memory.helpers import ROW, START, ids, row
from tests.services import PostgresServer, postgres_server


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


def test_rows_are_read_as_they_were_written(table: AuditTable) -> None:
    refused = row(
        1, format=None, width=None, height=None, top5=[], status=422, code="broken-image", address=None, key=None
    )
    table.insert([ROW, refused])
    table.insert([refused, refused])  # columns of nulls alone
    rows = table.rows(limit=10)
    assert [replace(found, id=0) for found in rows] == [refused, refused, refused, ROW]
    assert rows[0].id > rows[1].id > rows[2].id > rows[3].id > 0


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_text_is_read_as_it_was_written(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = AuditTable("sqlite", Path(folder))
        table.prepare()
        table.insert([replace(ROW, key=text, top5=[Prediction(1, "n1", text, 0.5)])])
        (found,) = table.rows(limit=1, label=text)
        assert (found.key, found.top5[0].label) == (text, text)
        table.close()


def test_pages_stay_consistent_while_rows_are_added_and_pruned(table: AuditTable) -> None:
    table.insert([row(number) for number in range(25)])
    seen: list[str] = []
    before = None
    while page := table.rows(before=before, limit=4):
        seen += ids(page)
        before = page[-1].id
        table.insert([row(100)])
        table.prune(START + timedelta(minutes=1))
    assert seen == [f"r{number}" for number in range(24, 0, -1)]


def test_rows_can_be_filtered(table: AuditTable) -> None:
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


def test_old_rows_are_deleted_a_few_at_a_time_and_ids_are_not_reused(table: AuditTable) -> None:
    table.insert([row(number) for number in range(10)])
    last = table.rows(limit=1)[0].id
    assert [table.prune(START + timedelta(days=1), limit=4) for _ in range(4)] == [4, 4, 2, 0]
    table.insert([ROW])
    assert table.rows(limit=1)[0].id > last


def test_an_older_table_is_migrated_with_its_rows(url: str) -> None:
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


def test_a_newer_table_is_refused(table: AuditTable) -> None:
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


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+nothing://me:hunter2@host/db",
        "postgresql://me:hunter2@host:port/db",
        "postgresql://me:first@hunter2@host/db",  # a connection that fails would name the host `hunter2@host`
    ],
)
def test_an_invalid_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(AuditUnusable) as caught:
        AuditTable(url, Path("/nowhere"))
    assert "hunter2" not in str(caught.value)
