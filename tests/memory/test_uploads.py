"""Images are kept once, for as long and as many as was set, and only admins see them."""

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from eyespot.errors import StorageFull
from eyespot.memory.clock import SteadyClock
from eyespot.memory.upload_folder import UploadFolder
from eyespot.memory.uploads import Uploads
from eyespot.telemetry import Metrics
from tests import makers
from tests.memory.helpers import Clock, Disk, ask, check, fill, name, serve_uploads, serve_uploads_from, small_disk
from tests.requests import IMAGE, image, metric, predict
from tests.services import redis_server
from tests.serving import until
from tests.test_pool import until as until_so

DAY = 86400


def keep(uploads: UploadFolder, *images: bytes) -> None:
    for data in images:
        uploads.keep(name(data), data)


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*/*")}


def bytes_of(uploads: UploadFolder) -> int:
    return sum(size for _, size in uploads._images.values())


def sent(folder: Path, data: bytes, days_ago: float) -> None:
    """Make it look as if the image was last sent then."""
    path = next(folder.glob(f"*/{name(data)}"))
    moment = time.time() - days_ago * DAY
    os.utime(path, (moment, moment))


def test_an_image_is_kept_once_under_its_name(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path, 30, 10_000)
    keep(uploads, b"one", b"two", b"one")
    assert kept(tmp_path) == {name(b"one"), name(b"two")}
    assert uploads.get(name(b"one")) == b"one"
    assert uploads.get(name(b"three")) is None
    assert uploads.state() == "2 images, 0.0 of 0.0 MiB"


def test_the_ones_sent_least_recently_make_room(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path, 30, 30)
    images = [bytes([number]) * 10 for number in range(4)]
    keep(uploads, *images[:3], images[0], images[3])
    assert kept(tmp_path) == {name(data) for data in (images[0], images[2], images[3])}
    keep(uploads, b"x" * 31)  # which can never fit
    assert len(kept(tmp_path)) == 3
    keep(uploads, b"y" * 30)
    assert kept(tmp_path) == {name(b"y" * 30)}


def test_a_later_start_goes_on_where_the_earlier_one_ended(tmp_path: Path) -> None:
    images = [bytes([number]) * 10 for number in range(4)]
    keep(UploadFolder(tmp_path, 30, 100), *images)
    for days, data in zip((3, 1, 4, 2), images, strict=True):
        sent(tmp_path, data, days)
    again = UploadFolder(tmp_path, 30, 30)  # and with less room
    assert kept(tmp_path) == {name(data) for data in (images[0], images[1], images[3])}
    keep(again, b"new" * 3)
    assert name(images[0]) not in kept(tmp_path)


def test_what_was_not_sent_for_so_many_days_is_deleted(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path, 30, 1000)
    keep(uploads, b"old", b"young", b"sent again")
    for data in (b"old", b"sent again"):
        sent(tmp_path, data, 31)
    sent(tmp_path, b"young", 29)
    keep(uploads, b"sent again")
    uploads.sweep()
    assert kept(tmp_path) == {name(b"young"), name(b"sent again")}
    assert uploads.state().startswith("2 images")


def test_a_clock_that_is_set_forward_deletes_nothing(tmp_path: Path) -> None:
    wall, elapsed = Clock(time.time()), Clock()
    uploads = UploadFolder(tmp_path, 30, 1000, now=SteadyClock(wall, elapsed))
    keep(uploads, b"young")
    wall.advance(400 * DAY)
    uploads.sweep()
    assert kept(tmp_path) == {name(b"young")}
    UploadFolder(tmp_path, 30, 1000, now=SteadyClock(wall, elapsed))  # which knows no other clock
    assert kept(tmp_path) == set()


def test_what_a_killed_server_left_unfinished_is_deleted_and_what_another_writes_is_not(tmp_path: Path) -> None:
    keep(UploadFolder(tmp_path, 30, 1000), b"whole")
    folder = next(tmp_path.glob("*/"))
    for file, days in (("a.0123.part", 1), ("b.4567.part", 0)):
        (folder / file).write_bytes(b"half")
        os.utime(folder / file, (time.time() - days * DAY,) * 2)
    UploadFolder(tmp_path, 30, 1000)
    assert kept(tmp_path) == {name(b"whole"), "b.4567.part"}


def test_a_file_has_its_name_only_once_it_is_whole_and_on_the_disk(tmp_path: Path) -> None:
    names: list[set[str]] = []
    keep(UploadFolder(tmp_path, 30, 1000, fsync=lambda _: names.append(kept(tmp_path))), b"data")
    (while_writing,) = names
    assert name(b"data") not in while_writing
    assert len(while_writing) == 1
    assert kept(tmp_path) == {name(b"data")}


def test_a_kill_leaves_whole_files_only(tmp_path: Path) -> None:
    script = (
        "import hashlib, pathlib, sys; from eyespot.memory.upload_folder import UploadFolder\n"
        "uploads = UploadFolder(pathlib.Path(sys.argv[1]), 30, 10**9)\n"
        "for number in range(10**6):\n"
        "    data = number.to_bytes(8) * 50_000; uploads.keep(hashlib.sha256(data).hexdigest(), data)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        while len(kept(tmp_path)) < 10:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        process.kill()
        process.wait()
    whole = [path for path in tmp_path.glob("*/*") if not path.suffix]
    assert whole
    assert all(name(path.read_bytes()) == path.name for path in whole)


def test_several_threads_may_keep_and_remove_at_once(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path, 30, 500)
    images = [bytes([number % 9]) * 100 for number in range(400)]

    def use(data: bytes) -> None:
        keep(uploads, data)
        if data[0] == 3:
            uploads.remove(name(data))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, images))
    assert uploads._bytes == bytes_of(uploads) <= 500
    assert kept(tmp_path) == set(uploads._images)


def test_another_server_may_delete_what_this_one_knows(tmp_path: Path) -> None:
    one, other = UploadFolder(tmp_path, 30, 1000), UploadFolder(tmp_path, 30, 1000)
    keep(one, b"shared")
    assert other.get(name(b"shared")) == b"shared"
    assert other.remove(name(b"shared"))
    assert one.get(name(b"shared")) is None
    keep(one, b"shared")
    assert other.get(name(b"shared")) == b"shared"


def test_a_folder_that_cannot_be_written_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path, 30, 1000)
    (tmp_path / name(b"data")[:2]).write_text("a file where a folder belongs")
    with pytest.raises(StorageFull, match="could not be kept"):
        keep(uploads, b"data")
    assert uploads.state().startswith("0 images")


def test_what_is_recognised_is_kept_and_shown_to_admins(tmp_path: Path) -> None:
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


def test_what_is_deleted_is_forgotten_but_for_its_rows(tmp_path: Path) -> None:
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
def test_what_cannot_be_forgotten_now_is_not_said_to_be(tmp_path: Path) -> None:
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


def test_a_folder_that_misbehaves_is_a_503(tmp_path: Path) -> None:
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
def test_no_other_name_is_a_path(tmp_path: Path, path: str) -> None:
    with serve_uploads(tmp_path) as served:
        for method in ("GET", "DELETE"):
            assert ask(served, method, f"/uploads/{path}").status_code in (404, 422)


def test_nothing_is_kept_unless_it_was_asked_for(tmp_path: Path) -> None:
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
def test_a_full_disk_is_told_and_loses_nothing_else(tmp_path: Path) -> None:
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


def test_it_is_swept_in_the_background(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        folder = Swept(tmp_path, 30, 1000)
        uploads = Uploads(folder, Metrics(), sweep_seconds=0.001)
        sweeping = asyncio.create_task(uploads.keep_sweeping())
        await until_so(lambda: folder.sweeps > 3)
        sweeping.cancel()
        uploads.close()

    asyncio.run(test())
    assert "uploads_not_swept" in caplog.messages


def test_a_write_that_hangs_holds_up_its_own_answer_alone(tmp_path: Path) -> None:
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


def test_what_is_deleted_while_it_is_written_gets_no_name(tmp_path: Path) -> None:
    disk = Disk(hanging=1)
    with serve_uploads_from(disk, tmp_path) as (served, _), ThreadPoolExecutor(1) as callers:
        sent = callers.submit(ask, served, "POST", "/predict", IMAGE)
        assert disk.syncing.acquire(timeout=30)
        assert ask(served, "DELETE", f"/uploads/{name(IMAGE)}").status_code == 204
        disk.go_on.set()
        assert sent.result().status_code == 200
        assert kept(tmp_path / "uploads") == set()
        assert ask(served, "GET", f"/results/{name(IMAGE)}").status_code == 404


def test_an_answer_does_not_wait_for_a_disk_that_hangs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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


def test_only_so_many_images_wait_for_the_disk(tmp_path: Path) -> None:
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


def test_an_image_that_many_send_at_once_is_written_once(tmp_path: Path) -> None:
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


def test_admins_do_not_wait_for_a_disk_that_hangs(tmp_path: Path) -> None:
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


class Searched(UploadFolder):
    """A folder in which something happens between the search of a sweep and what comes of it."""

    def __init__(self, *args: Any) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        super().__init__(*args)

    def _files(self) -> list[tuple[float, int, Path]]:
        found = super()._files()
        self.meanwhile()
        return found


def test_a_sweep_holds_up_nobody_and_believes_what_came_and_went_meanwhile(tmp_path: Path) -> None:
    uploads = Searched(tmp_path, 30, 1000)
    keep(uploads, b"removed", b"old", b"sent again", b"written again")
    for data in (b"old", b"sent again", b"written again"):
        sent(tmp_path, data, 31)

    def meanwhile() -> None:
        uploads.remove(name(b"removed"))
        uploads.remove(name(b"written again"))
        keep(uploads, b"new", b"sent again", b"written again")

    uploads.meanwhile = meanwhile
    uploads.sweep()
    there = {name(data) for data in (b"new", b"sent again", b"written again")}
    assert kept(tmp_path) == set(uploads._images) == there
    assert uploads._bytes == bytes_of(uploads) == len(b"newsent againwritten again")
