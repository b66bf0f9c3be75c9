"""What several tests of the memory share."""

import asyncio
import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from eyespot.memory.audit import AuditLog
from eyespot.memory.audit_table import AuditTable
from eyespot.memory.upload_folder import UploadFolder
from eyespot.memory.uploads import Uploads
from eyespot.telemetry import Metrics
from eyespot.types import AuditRow, Prediction
from tests.serving import Served, serve_fake

ADMIN = {"Authorization": "Bearer open-sesame"}
KEYS = "camera:click-clack,boss:open-sesame:admin"
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROW = AuditRow(
    time=START,
    request_id="r0",
    address="192.0.2.1",
    key="camera",
    sha256="a" * 64,
    bytes=1234,
    format="JPEG",
    width=500,
    height=375,
    model_digest="0" * 64,
    engine="openvino",
    precision="f32",
    top5=[Prediction(281, "n02123045", "tabby", 0.871234), Prediction(1, "n1", 'a "quoted" 名', 0.1)],
    status=200,
    code=None,
    cache="miss",
    steps={"read": 0.2, "infer": 12.3},
)


class Clock:
    """A clock that the test moves, in seconds."""

    def __init__(self, seconds: float = 1000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


async def eventually(true: Callable[[], bool]) -> None:
    """Wait for that, half a minute at most."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "eyespot"]


def name(data: bytes) -> str:
    return sha256(data).hexdigest()


# The audit log


def row(number: int, **changes: Any) -> AuditRow:
    """Another row for every number, a minute later."""
    return replace(ROW, request_id=f"r{number}", time=START + timedelta(minutes=number), **changes)


def ids(rows: list[AuditRow]) -> list[str]:
    return [found.request_id for found in rows]


def open_log(table: AuditTable, **options: Any) -> AuditLog:
    return AuditLog(table, Metrics(), **{"days": 30, **options})


@contextmanager
def serve_log(
    table: AuditTable, *, required: bool = True, check_seconds: float = 1, **settings: Any
) -> Iterator[Served]:
    """A server that writes to that table."""
    with serve_fake(**{"api_keys": KEYS, "cache_url": "memory://", **settings}) as served:
        assert served.recognizer
        log = AuditLog(table, served.recognizer.metrics, days=30, required=required, check_seconds=check_seconds)
        served.recognizer.audit = log
        yield served
    asyncio.run(log.close())


def check(served: Served, name: str) -> dict[str, Any]:
    """One of the checks of /readyz."""
    with served.client() as client:
        (found,) = [check for check in client.get("/readyz?verbose").json()["checks"] if check["name"] == name]
    return found


def spoil(tmp_path: Path) -> Callable[[], None]:
    """Rename the table; the result renames it back."""
    with sqlite3.connect(tmp_path / "audit.sqlite") as connection:
        connection.execute("ALTER TABLE eyespot_audit RENAME TO away")
    connection.close()

    def back() -> None:
        with sqlite3.connect(tmp_path / "audit.sqlite") as connection:
            connection.execute("ALTER TABLE away RENAME TO eyespot_audit")
        connection.close()

    return back


# Disks


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A folder on a file system of 2 MB; only root can make one."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    folder = folder / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that uses up all space."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


class Disk:
    """A disk on which a number of writes hang until they may go on."""

    def __init__(self, hanging: int) -> None:
        self.writes = 0
        self.syncing = threading.Semaphore(0)
        self.go_on = threading.Event()
        self._hanging = iter(range(hanging))

    def fsync(self, _: int) -> None:
        self.writes += 1
        if next(self._hanging, None) is not None:
            self.syncing.release()
            assert self.go_on.wait(60)


def kept(folder: Path) -> set[str]:
    """Names of the files of an `UploadFolder`."""
    return {path.name for path in folder.glob("*/*")}


# Servers that keep images


def serve_uploads(folder: Path, **settings: Any) -> AbstractContextManager[Served]:
    usual = {"uploads": "on", "data_dir": folder, "api_keys": KEYS, "cache_url": "memory://", "audit_url": "sqlite"}
    return serve_fake(**{**usual, **settings})


@contextmanager
def serve_uploads_from(disk: Disk, folder: Path, seconds: float = 60) -> Iterator[tuple[Served, Uploads]]:
    """A server that keeps images on that disk, and waits for it that long."""
    with serve_uploads(folder, audit_url="off") as served:
        assert served.recognizer
        on_disk = UploadFolder(folder / "uploads", 30, 10**9, fsync=disk.fsync)
        served.recognizer.uploads = uploads = Uploads(on_disk, served.recognizer.metrics, timeout=seconds)
        try:
            yield served, uploads
        finally:
            disk.go_on.set()
            uploads.close()


def ask(served: Served, method: str, path: str, data: bytes | None = None, **headers: str) -> httpx.Response:
    """A request of an admin."""
    with served.client() as client:
        return client.request(method, path, content=data, headers={**ADMIN, **headers})
