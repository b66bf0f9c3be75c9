"""A clock that is set forward and back while the server runs changes nothing but the times that are written."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import makers
from tests.serving import serve_process

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
KEYS = "boss:open-sesame:admin"


@pytest.mark.needs("make test-all")
@pytest.mark.needs("faketime")
def test_the_clock_may_jump(packaged: dict[str, str], tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    settings = {
        **packaged,
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # as the kernel has it
        "EYESPOT_AUDIT_URL": f"sqlite:///{tmp_path}/audit.sqlite",
        "EYESPOT_AUDIT_REQUIRED": "true",
        "EYESPOT_API_KEYS": KEYS,
        "EYESPOT_RATE_LIMIT": "1000/day",
        "EYESPOT_UPLOADS": "on",
        "EYESPOT_DATA_DIR": str(tmp_path),
    }
    (tmp_path / "exports").symlink_to(Path(packaged["EYESPOT_DATA_DIR"]) / "exports")
    headers = {"X-API-Key": "open-sesame"}
    with serve_process(**settings) as served, served.client(headers=headers) as client:
        for number, jump in enumerate(["+0", "+400d", "-400d", "+0"]):
            clock.write_text(jump)
            for state in ("miss", "hit"):
                reply = client.post("/predict", content=makers.jpeg() + bytes([number]))
                assert (reply.status_code, reply.headers["x-cache"]) == (200, state)
            assert client.get("/readyz").status_code == 200
        rows = client.get("/audit", headers=headers).json()["rows"]
        assert [row["cache"] for row in rows] == ["hit", "miss"] * 4
        days = [(datetime.fromisoformat(row["time"]) - datetime.now(UTC)).days for row in rows[::-2]]
        assert [round((day + 1) / 400) for day in days] == [0, 1, -1, 0]  # the jumps were real
        assert [row["id"] for row in rows] == list(range(8, 0, -1))
        assert all(0 <= sum(row["steps"].values()) < 60_000 for row in rows)
    assert len(os.listdir(tmp_path / "uploads")) > 0
