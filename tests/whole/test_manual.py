"""The manual beyond its examples: nothing is missing, every name exists, and its ways to delete something delete it."""

import os
import pty
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest

from eyespot.errors import REFUSALS
from eyespot.settings import Settings, variable
from eyespot.telemetry import Metrics
from tests import makers
from tests.serving import EYESPOT, ROOT, Served, environment, serve_fake

MANUAL = (ROOT / "openapi.md").read_text()
PROSE = re.sub(r"<!-- begin .*?<!-- end \w+ -->", "", MANUAL, flags=re.DOTALL)
ADMIN = {"X-API-Key": "open-sesame"}


def test_every_problem_code_has_a_cause_and_a_remedy_and_no_other() -> None:
    _, _, section = MANUAL.partition("\n## Problem codes\n")
    rows = re.findall(r"^\| (\d+) \| `(\S+)` \| (.+) \| (.+) \|$", section.partition("\n## ")[0], re.MULTILINE)
    assert sorted((code, int(status)) for status, code, *_ in rows) == sorted(
        (code, kind.status) for code, kind in REFUSALS.items()
    )
    assert rows == sorted(rows, key=lambda row: row[0])


def test_every_section_is_in_the_contents() -> None:
    contents, _, sections = re.sub(r"```.*?```", "", MANUAL, flags=re.DOTALL).partition("\n## ")
    assert re.findall(r"\[([^\]]+)\]\(#", contents) == re.findall(r"^## (.+)$", f"## {sections}", re.MULTILINE)


def test_every_setting_and_metric_that_is_named_exists() -> None:
    known = {variable(name) for name in Settings.model_fields} | {"EYESPOT_URL", "EYESPOT_API_KEY"}
    assert set(re.findall(r"EYESPOT_[A-Z]\w+", PROSE)) <= known
    metrics = [metric.name for metric in Metrics().registry.collect()]
    names = {f"{metric}{end}" for metric in metrics for end in ("", "_total", "_count", "_bucket")}
    assert set(re.findall(r"\beyespot_[a-z_]+", PROSE)) - {"eyespot_audit"} <= names


@pytest.mark.needs("make test-all")
def test_storing_nothing_leaves_neither_a_file_nor_a_line(packaged: dict[str, str], tmp_path: Path) -> None:
    _, _, section = MANUAL.partition("\n## Store nothing\n")
    settings = dict(re.findall(r"(EYESPOT_\w+)=(\S+)", section.partition("\n## ")[0]))
    (tmp_path / "exports").symlink_to(Path(packaged["EYESPOT_DATA_DIR"]) / "exports")
    all_of_it = environment(**{**packaged, **settings, "EYESPOT_DATA_DIR": str(tmp_path), "EYESPOT_PORT": "0"})
    main, side = pty.openpty()
    with (
        open(main) as terminal,
        open(side, "w") as stdout,
        subprocess.Popen(
            [EYESPOT, "serve"], env=all_of_it, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        try:
            url = re.search("http://[^/]+", "".join(terminal.readline() for _ in range(4)))
            assert url
            with Served(url[0]).client() as client:
                answers = [client.post("/predict", content=data) for data in (makers.jpeg(), b"no image")]
        finally:
            process.terminate()
            _, log = process.communicate(timeout=60)
    assert [answer.status_code for answer in answers] == [200, 415]
    assert [path.name for path in tmp_path.iterdir()] == ["exports"]
    assert log == ""


@pytest.mark.needs("curl")
def test_an_image_is_deleted_by_the_command_of_the_manual(tmp_path: Path) -> None:
    (command,) = re.findall(r"^curl -X DELETE .*$", MANUAL, re.MULTILINE)
    (tmp_path / "cat.jpg").write_bytes(makers.jpeg())
    settings = {"api_keys": "boss:open-sesame:admin", "cache_url": "memory://", "uploads": "on"}
    with serve_fake(**settings, data_dir=tmp_path) as served, served.client(headers=ADMIN) as client:
        sha256 = client.post("/predict", content=makers.jpeg()).json()["image"]["sha256"]
        assert client.get(f"/uploads/{sha256}").content == makers.jpeg()
        command = command.replace("localhost:8000", served.url).replace("curl ", "curl --silent --fail ")
        environment = {**os.environ, "ADMIN_KEY": "open-sesame"}
        subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, check=True)
        for path in ("uploads", "results"):
            assert client.get(f"/{path}/{sha256}").status_code == 404


def test_a_persons_rows_are_deleted_by_the_sql_of_the_manual_while_the_server_runs(tmp_path: Path) -> None:
    (statements,) = re.findall(r'^  "(PRAGMA .*)"$', MANUAL, re.MULTILINE)
    database = tmp_path / "audit.sqlite"
    keys, theirs = {"api_keys": "boss:open-sesame:admin"}, {**ADMIN, "X-Request-ID": "theirs"}
    with (
        serve_fake(**keys, audit_url="sqlite", data_dir=tmp_path) as served,
        served.client(headers=theirs) as client,
    ):
        for number in range(20):
            client.post("/predict", content=makers.jpeg() + bytes([number]))
        assert len(client.get("/audit").json()["rows"]) == 20
        connection = sqlite3.connect(database, timeout=30)
        connection.executescript(statements.replace("203.0.113.7", "127.0.0.1"))
        connection.close()
        client.post("/predict", content=makers.jpeg(), headers={"X-Request-ID": "later"})
        assert [row["request_id"] for row in client.get("/audit").json()["rows"]] == ["later"]
        checks = client.get("/readyz?verbose").json()["checks"]
    assert next(check["detail"] for check in checks if check["name"] == "audit") == "sqlite"
    assert {path.name for path in tmp_path.iterdir()} == {"audit.sqlite"}
    assert b"later" in database.read_bytes()
    assert b"theirs" not in database.read_bytes()
