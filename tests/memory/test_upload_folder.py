"""A folder of images: each once, for as long and as many bytes as was set."""

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
from tests.memory.helpers import Clock, kept, name

DAY = 86400


def keep(uploads: UploadFolder, *images: bytes) -> None:
    for data in images:
        uploads.keep(name(data), data)


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


def test_the_least_recently_sent_images_are_deleted(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path, 30, 30)
    images = [bytes([number]) * 10 for number in range(4)]
    keep(uploads, *images[:3], images[0], images[3])
    assert kept(tmp_path) == {name(data) for data in (images[0], images[2], images[3])}
    keep(uploads, b"x" * 31)  # which can never fit
    assert len(kept(tmp_path)) == 3
    keep(uploads, b"y" * 30)
    assert kept(tmp_path) == {name(b"y" * 30)}


def test_a_restart_knows_when_images_were_sent(tmp_path: Path) -> None:
    images = [bytes([number]) * 10 for number in range(4)]
    keep(UploadFolder(tmp_path, 30, 100), *images)
    for days, data in zip((3, 1, 4, 2), images, strict=True):
        sent(tmp_path, data, days)
    again = UploadFolder(tmp_path, 30, 30)  # and with less room
    assert kept(tmp_path) == {name(data) for data in (images[0], images[1], images[3])}
    keep(again, b"new" * 3)
    assert name(images[0]) not in kept(tmp_path)


def test_images_that_were_not_sent_for_days_are_deleted(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path, 30, 1000)
    keep(uploads, b"old", b"young", b"sent again")
    for data in (b"old", b"sent again"):
        sent(tmp_path, data, 31)
    sent(tmp_path, b"young", 29)
    keep(uploads, b"sent again")
    uploads.sweep()
    assert kept(tmp_path) == {name(b"young"), name(b"sent again")}
    assert uploads.state().startswith("2 images")


def test_a_clock_set_forward_deletes_nothing(tmp_path: Path) -> None:
    wall, elapsed = Clock(time.time()), Clock()
    uploads = UploadFolder(tmp_path, 30, 1000, now=SteadyClock(wall, elapsed))
    keep(uploads, b"young")
    wall.advance(400 * DAY)
    uploads.sweep()
    assert kept(tmp_path) == {name(b"young")}
    UploadFolder(tmp_path, 30, 1000, now=SteadyClock(wall, elapsed))  # which knows no other clock
    assert kept(tmp_path) == set()


def test_only_old_partial_files_are_deleted(tmp_path: Path) -> None:
    keep(UploadFolder(tmp_path, 30, 1000), b"whole")
    folder = next(tmp_path.glob("*/"))
    for file, days in (("a.0123.part", 1), ("b.4567.part", 0)):
        (folder / file).write_bytes(b"half")
        os.utime(folder / file, (time.time() - days * DAY,) * 2)
    UploadFolder(tmp_path, 30, 1000)
    assert kept(tmp_path) == {name(b"whole"), "b.4567.part"}


def test_a_file_gets_its_name_when_it_is_complete_and_synced(tmp_path: Path) -> None:
    names: list[set[str]] = []
    keep(UploadFolder(tmp_path, 30, 1000, fsync=lambda _: names.append(kept(tmp_path))), b"data")
    (while_writing,) = names
    assert name(b"data") not in while_writing
    assert len(while_writing) == 1
    assert kept(tmp_path) == {name(b"data")}


def test_a_kill_leaves_only_complete_files(tmp_path: Path) -> None:
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


def test_threads_may_keep_and_remove_at_once(tmp_path: Path) -> None:
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


def test_another_server_may_delete_images(tmp_path: Path) -> None:
    one, other = UploadFolder(tmp_path, 30, 1000), UploadFolder(tmp_path, 30, 1000)
    keep(one, b"shared")
    assert other.get(name(b"shared")) == b"shared"
    assert other.remove(name(b"shared"))
    assert one.get(name(b"shared")) is None
    keep(one, b"shared")
    assert other.get(name(b"shared")) == b"shared"


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    uploads = UploadFolder(tmp_path, 30, 1000)
    (tmp_path / name(b"data")[:2]).write_text("a file where a folder belongs")
    with pytest.raises(StorageFull, match="could not be kept"):
        keep(uploads, b"data")
    assert uploads.state().startswith("0 images")


class Searched(UploadFolder):
    """A folder in which something happens between the search of a sweep and what comes of it."""

    def __init__(self, *args: Any) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        super().__init__(*args)

    def _files(self) -> list[tuple[float, int, Path]]:
        found = super()._files()
        self.meanwhile()
        return found


def test_a_sweep_respects_changes_during_its_scan(tmp_path: Path) -> None:
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
