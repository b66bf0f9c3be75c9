"""Images are kept once, for as long and as many as was set, and only admins see them."""

import asyncio
import base64
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eyespot.memory.upload_folder import UploadFolder
from eyespot.memory.uploads import Uploads
from eyespot.telemetry import Metrics
from tests import makers
from tests.memory.helpers import (
    Disk,
    ask,
    check,
    eventually,
    fill,
    kept,
    name,
    serve_uploads,
    serve_uploads_from,
    small_disk,
)
from tests.requests import IMAGE, image, metric, predict
from tests.services import redis_server
from tests.serving import until


def test_recognised_images_are_kept_and_shown_to_admins(tmp_path: Path) -> None:
    photograph = makers.jpeg("coffee")
    with serve_uploads(tmp_path) as served:
        for data in (IMAGE, IMAGE, photograph, b"no image", photograph[:5000]):
            ask(served, "POST", "/predict", data)
        assert kept(tmp_path / "uploads") == {name(IMAGE), name(photograph)}
        for data, kind in ((IMAGE, "image/png"), (photograph, "image/jpeg")):
            shown = ask(served, "GET", f"/uploads/{name(data)}")
            assert (shown.status_code, shown.content, shown.headers["content-type"]) == (200, data, kind)
            assert shown.headers["x-content-type-options"] == "nosniff"
            assert "sandbox" in shown.headers["content-security-policy"]
        path = f"/uploads/{name(IMAGE)}"
        with served.client() as client:
            for method in ("GET", "DELETE"):
                assert client.request(method, path).json()["code"] == "unauthorized"
                assert client.request(method, path, headers={"X-API-Key": "click-clack"}).json()["code"] == "forbidden"


def test_a_deleted_image_leaves_only_its_audit_rows(tmp_path: Path) -> None:
    with serve_uploads(tmp_path) as served:
        ask(served, "POST", "/predict", IMAGE)
        path = f"/uploads/{name(IMAGE)}"
        assert ask(served, "DELETE", path).status_code == 204
        for method in ("GET", "DELETE"):
            assert ask(served, method, path).json()["code"] == "not-found"
        assert ask(served, "GET", f"/audit?sha256={name(IMAGE)}").json()["rows"][0]["status"] == 200
        assert ask(served, "POST", "/predict", IMAGE).headers["x-cache"] == "miss"
        assert ask(served, "GET", path).status_code == 200  # it was sent again


@pytest.mark.needs("redis-server")
def test_a_deletion_that_cannot_reach_the_cache_is_a_503(tmp_path: Path) -> None:
    with redis_server() as redis, serve_uploads(tmp_path, cache_url=redis.url) as served:
        ask(served, "POST", "/predict", IMAGE)
        until(lambda: ask(served, "POST", "/predict", IMAGE).headers["x-cache"] == "hit")
        redis.pause()
        path = f"/uploads/{name(IMAGE)}"
        refused = ask(served, "DELETE", path)
        assert (refused.status_code, refused.json()["code"]) == (503, "cache-unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        redis.resume()
        until(lambda: ask(served, "DELETE", path).status_code == 204)
        assert ask(served, "POST", "/predict", IMAGE).headers["x-cache"] == "miss"


def test_a_broken_folder_is_a_503(tmp_path: Path) -> None:
    with serve_uploads(tmp_path) as served:
        (tmp_path / "uploads").write_text("a file where a folder belongs")
        for method, path in (("POST", "/predict"), ("GET", f"/uploads/{name(IMAGE)}")):
            refused = ask(served, method, path, IMAGE)
            assert (refused.status_code, refused.json()["code"]) == (503, "storage-full")
        (tmp_path / "uploads").unlink()
        (tmp_path / "uploads" / name(IMAGE)[:2] / name(IMAGE)).mkdir(parents=True)
        refused = ask(served, "DELETE", f"/uploads/{name(IMAGE)}")
        assert (refused.status_code, refused.json()["code"]) == (503, "storage-full")


@pytest.mark.parametrize("path", ["..%2f..%2faudit.sqlite", "ABC", "a" * 63, "a" * 65, "A" * 64, f"{'a' * 63}%0a"])
def test_only_a_sha256_is_a_path(tmp_path: Path, path: str) -> None:
    with serve_uploads(tmp_path) as served:
        for method in ("GET", "DELETE"):
            assert ask(served, method, f"/uploads/{path}").status_code in (404, 422)


def test_nothing_is_kept_unless_uploads_are_on(tmp_path: Path) -> None:
    with serve_uploads(tmp_path, uploads="off") as served:
        ask(served, "POST", "/predict", IMAGE)
        refused = ask(served, "GET", f"/uploads/{name(IMAGE)}")
        assert "EYESPOT_UPLOADS is off" in refused.json()["detail"]
        assert [ask(served, "DELETE", f"/uploads/{name(IMAGE)}").status_code for _ in range(2)] == [204, 404]
    assert not (tmp_path / "uploads").exists()


def test_without_keys_nobody_is_an_admin(tmp_path: Path) -> None:
    with serve_uploads(tmp_path, api_keys=None) as served:
        assert predict(served).status_code == 200
        for method in ("GET", "DELETE"):
            refused = ask(served, method, f"/uploads/{name(IMAGE)}")
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


@pytest.mark.needs("make test-all")
def test_a_full_disk_is_a_503_and_loses_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk, serve_uploads(disk, audit_url="off") as served:
        assert ask(served, "POST", "/predict", IMAGE).status_code == 200
        ballast = fill(disk)
        refused = ask(served, "POST", "/predict", image(1))
        assert (refused.status_code, refused.json()["code"]) == (503, "storage-full")
        assert int(refused.headers["retry-after"]) >= 1
        assert kept(disk / "uploads") == {name(IMAGE)}
        assert ask(served, "GET", f"/uploads/{name(IMAGE)}").content == IMAGE
        assert ask(served, "POST", "/predict", IMAGE).status_code == 200  # it is kept already
        ballast.unlink()
        assert ask(served, "POST", "/predict", image(1)).status_code == 200


class Swept(UploadFolder):
    """A folder that counts its sweeps; the second one fails."""

    sweeps = 0

    def sweep(self) -> None:
        self.sweeps += 1
        if self.sweeps == 2:
            raise PermissionError("no entry")


def test_the_folder_is_swept_in_the_background(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        folder = Swept(tmp_path, 30, 1000)
        uploads = Uploads(folder, Metrics(), sweep_seconds=0.001)
        sweeping = asyncio.create_task(uploads.keep_sweeping())
        await eventually(lambda: folder.sweeps > 3)
        sweeping.cancel()
        uploads.close()

    asyncio.run(test())
    assert "uploads_not_swept" in caplog.messages


def test_a_hung_write_delays_only_its_own_answer(tmp_path: Path) -> None:
    disk = Disk(hanging=1)
    with serve_uploads_from(disk, tmp_path) as (served, uploads), ThreadPoolExecutor(1) as callers:
        sent = callers.submit(ask, served, "POST", "/predict", IMAGE)
        assert disk.syncing.acquire(timeout=30)
        others = [image(number) for number in range(20)]
        for data in others:
            assert ask(served, "POST", "/predict", data).status_code == 200
        uploads.folder.sweep()
        assert {name(data) for data in others} < kept(tmp_path / "uploads")
        large = json.dumps({"image": base64.b64encode(IMAGE + bytes(10**6)).decode()}).encode()  # parsed in a thread
        assert ask(served, "POST", "/predict", large, **{"Content-Type": "application/json"}).status_code == 200
        assert ask(served, "GET", "/livez").status_code == 200
        assert ask(served, "GET", f"/uploads/{name(others[0])}").content == others[0]
        assert ask(served, "DELETE", f"/uploads/{name(others[0])}").status_code == 204
        assert not sent.done()
        disk.go_on.set()
        assert sent.result().status_code == 200
        assert ask(served, "GET", f"/uploads/{name(IMAGE)}").content == IMAGE
        assert check(served, "uploads")["ok"]


def test_an_image_deleted_while_it_is_written_is_not_kept(tmp_path: Path) -> None:
    disk = Disk(hanging=1)
    with serve_uploads_from(disk, tmp_path) as (served, _), ThreadPoolExecutor(1) as callers:
        sent = callers.submit(ask, served, "POST", "/predict", IMAGE)
        assert disk.syncing.acquire(timeout=30)
        assert ask(served, "DELETE", f"/uploads/{name(IMAGE)}").status_code == 204
        disk.go_on.set()
        assert sent.result().status_code == 200
        assert kept(tmp_path / "uploads") == set()
        assert ask(served, "GET", f"/results/{name(IMAGE)}").status_code == 404


def test_answers_do_not_wait_for_a_hung_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(hanging=4)
    with serve_uploads_from(disk, tmp_path, seconds=0.1) as (served, _), caplog.at_level("INFO", "eyespot"):
        for number in range(8):
            assert ask(served, "POST", "/predict", image(number)).status_code == 200
        assert metric(served, "eyespot_uploads_not_kept_total") == 8
        told = [record for record in caplog.records if record.message == "upload_not_kept"]
        assert [record.facts["sha256"] for record in told] == [name(image(number)) for number in range(8)]  # type: ignore[attr-defined]
        assert {record.facts["reason"] for record in told} == {  # type: ignore[attr-defined]
            "the disk took longer than 0.1 s",
            "the disk is busy: the threads hang",
        }
        found = check(served, "uploads")
        assert (found["ok"], found["detail"]) == (False, "0 images, 0.0 of 953.7 MiB, 8 not kept in time")
        assert ask(served, "GET", "/readyz").status_code == 200
        disk.go_on.set()
        until(lambda: len(kept(tmp_path / "uploads")) == 4)  # those that had been begun
        until(lambda: ask(served, "POST", "/predict", image(7)).is_success and len(kept(tmp_path / "uploads")) == 5)
        assert check(served, "uploads")["ok"]


def test_a_bounded_number_of_images_waits_for_the_disk(tmp_path: Path) -> None:
    async def test() -> None:
        disk = Disk(hanging=4)
        uploads = Uploads(UploadFolder(tmp_path, 30, 10**9, fsync=disk.fsync), Metrics(), timeout=60)

        async def send(number: int) -> None:
            await uploads.keep(name(image(number)), image(number), unless=lambda: False)

        waiting = [asyncio.create_task(send(number)) for number in range(4 + 64)]
        await asyncio.sleep(0)
        await send(100)  # returns at once
        assert not any(task.done() for task in waiting)
        assert uploads.state()[1].endswith("1 not kept in time")
        disk.go_on.set()
        await asyncio.gather(*waiting)
        assert kept(tmp_path) == {name(image(number)) for number in range(4 + 64)}
        uploads.close()

    asyncio.run(test())


def test_an_image_sent_many_times_at_once_is_written_once(tmp_path: Path) -> None:
    async def test() -> None:
        disk = Disk(hanging=1)
        uploads = Uploads(UploadFolder(tmp_path, 30, 10**9, fsync=disk.fsync), Metrics(), timeout=60)
        keeping = [asyncio.create_task(uploads.keep(name(IMAGE), IMAGE, unless=lambda: False)) for _ in range(200)]
        await asyncio.to_thread(disk.syncing.acquire, timeout=30)
        assert not any(task.done() for task in keeping)
        disk.go_on.set()
        await asyncio.gather(*keeping)
        assert uploads.state() == (True, "1 images, 0.0 of 953.7 MiB")
        assert disk.writes == 1
        uploads.close()

    asyncio.run(test())


def test_admins_do_not_wait_for_a_hung_disk(tmp_path: Path) -> None:
    path = tmp_path / "uploads" / name(IMAGE)[:2] / name(IMAGE)
    with serve_uploads_from(Disk(hanging=0), tmp_path, seconds=0.1) as (served, _):
        path.parent.mkdir(parents=True)
        os.mkfifo(path)  # whoever reads it waits for somebody to write
        for method in ("GET",) * 9 + ("DELETE",):  # eight threads, and whoever finds none
            refused = ask(served, method, f"/uploads/{name(IMAGE)}")
            assert (refused.status_code, refused.json()["code"]) == (503, "storage-unavailable")
            assert int(refused.headers["retry-after"]) >= 1
        assert ask(served, "POST", "/predict", image(1)).status_code == 200
        until(lambda: name(image(1)) in kept(tmp_path / "uploads"))
        path.open("wb").close()
        until(lambda: ask(served, "DELETE", f"/uploads/{name(IMAGE)}").status_code == 204)
