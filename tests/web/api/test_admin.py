"""`GET /audit`: who may read the audit log, and what can be asked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.memory.helpers import ADMIN, KEYS, spoil
from tests.requests import image
from tests.serving import serve_fake


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
    ("params", "told"),
    [
        ({"limit": "0"}, "'0' is not a whole number from 1 to 1000."),
        ({"limit": "1001"}, "'1001' is not a whole number from 1 to 1000."),
        ({"limit": "x"}, "'x' is not a whole number from 1 to 1000."),
        ({"limit": "9" * 5000}, f"'{'9' * 40}…' is not a whole number from 1 to 1000."),
        ({"cursor": "0"}, f"'0' is not a whole number from 1 to {2**63 - 1}."),
        ({"cursor": str(2**63)}, f"'{2**63}' is not a whole number from 1 to {2**63 - 1}."),
        ({"since": "yesterday"}, "'yesterday' is not a time such as 2026-01-31T12:00:00Z."),
        ({"since": "2026"}, "'2026' is not a time such as 2026-01-31T12:00:00Z."),
        ({"until": "0.5"}, "'0.5' is not a time such as 2026-01-31T12:00:00Z."),
        (
            {"since": "0001-01-01T00:00:00+14:00"},
            "'0001-01-01 00:00:00+14:00' is not within the years 1 to 9999 in UTC.",
        ),
        (
            {"until": "9999-12-31T23:59:59-14:00"},
            "'9999-12-31 23:59:59-14:00' is not within the years 1 to 9999 in UTC.",
        ),
        ({"sha256": "ABC"}, "'ABC' is not 64 hexadecimal digits in lower case."),
        ({"label": ""}, "'' is not text of 1 to 200 characters without NUL."),
        ({"label": "a\0b"}, r"'a\x00b' is not text of 1 to 200 characters without NUL."),
        ({"label": "x" * 201}, f"'{'x' * 40}…' is not text of 1 to 200 characters without NUL."),
        (
            {"sha256": "ABC", "limit": "0"},
            "'ABC' is not 64 hexadecimal digits in lower case; limit: '0' is not a whole number from 1 to 1000.",
        ),
    ],
)
def test_an_invalid_query_is_refused(asked: httpx.Client, params: dict[str, str], told: str) -> None:
    refused = asked.get("/audit", params=params)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-parameter")
    assert refused.json()["detail"] == f"{next(iter(params))}: {told}"


def test_an_invalid_hash_in_a_path_is_refused(asked: httpx.Client) -> None:
    for path in ("/uploads/ABC", "/results/ABC"):
        refused = asked.get(path)
        assert refused.json()["detail"] == "sha256: 'ABC' is not 64 hexadecimal digits in lower case."
    assert asked.head("/uploads/ABC").status_code == asked.delete("/uploads/ABC").status_code == 422


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    settings: dict[str, Any] = {"audit_url": "sqlite", "data_dir": tmp_path_factory.mktemp("audit"), "api_keys": KEYS}
    with serve_fake(**settings) as served, served.client(headers=ADMIN) as client:
        yield client


def test_without_a_log_audit_is_not_found() -> None:
    with serve_fake(api_keys=KEYS) as served, served.client(headers=ADMIN) as client:
        assert client.get("/audit").json()["code"] == "not-found"


def test_a_log_that_cannot_be_read_is_a_503(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"audit_url": "sqlite", "data_dir": tmp_path, "api_keys": KEYS}
    with serve_fake(**settings) as served, served.client(headers=ADMIN) as client:
        spoil(tmp_path)
        assert client.get("/audit").json()["code"] == "audit-unavailable"
