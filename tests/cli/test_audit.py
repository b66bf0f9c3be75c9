"""`eyespot audit`: exporting and pruning the audit log."""

import csv
import io
import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from eyespot.memory.audit_table import AuditTable
from tests.memory.helpers import ROW, ids, row
from tests.serving import EYESPOT, environment, run


def audit(tmp_path: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return run("audit", *words, cwd=tmp_path, EYESPOT_DATA_DIR=str(tmp_path), **settings)


def test_export_and_prune(tmp_path: Path) -> None:
    table = AuditTable("sqlite", tmp_path)
    table.prepare()
    young = replace(ROW, time=datetime.now(UTC), request_id="young")
    table.insert([row(0), row(1, top5=[], status=422, code="broken-image"), young])
    lines = [json.loads(line) for line in audit(tmp_path, "export").stdout.splitlines()]
    assert [line["request_id"] for line in lines] == ["r0", "r1", "young"]
    assert lines[0]["top5"][1]["label"] == 'a "quoted" 名'
    exported = audit(tmp_path, "export", "--csv", "--until", "2026-03-02").stdout
    first, second = csv.DictReader(io.StringIO(exported))
    assert (first["request_id"], first["label1"], first["confidence1"]) == ("r0", "tabby", "0.871234")
    assert first["time"] == "2026-03-01T12:00:00+00:00"
    assert (second["code"], second["label1"]) == ("broken-image", "")
    pruned = audit(tmp_path, "prune", "--days", "7")
    assert (pruned.returncode, pruned.stdout) == (0, "2 rows deleted\n")
    assert audit(tmp_path, "prune", "--days", "999999").returncode == 2
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
def test_a_missing_log_is_one_line_of_error(tmp_path: Path, settings: dict[str, str], told: str) -> None:
    done = audit(tmp_path, "export", **settings)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.stderr


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
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
