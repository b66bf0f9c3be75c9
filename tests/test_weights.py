import hashlib
import http.server
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eyespot.errors import BadManifest, FetchFailed, UnknownModel, WeightsCorrupt, WeightsMissing
from eyespot.vision import fetch, weights
from eyespot.vision.weights import Entry
from tests.serving import ROOT, serve_files

CONTENT = bytes(range(256)) * 1200
ENTRY = f"""
architecture = "resnet18"
file = "net.pth"
sha256 = "{hashlib.sha256(CONTENT).hexdigest()}"
bytes = {len(CONTENT)}
labels = "imagenet1k"
license = "none"
recipe = {{ resize = 256, crop = 224, interpolation = "bilinear", mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }}
"""
PACKAGED = ENTRY.replace('file = "net.pth"', 'package = "skimage"\nfile = "__init__.py"')


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    (tmp_path / "manifest.toml").write_text(f"[net]{ENTRY}")
    return weights.read_manifest(tmp_path / "manifest.toml")["net"]


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT in the way that the path names, and keeps the Range headers that it was sent."""

    ranges: list[str | None]

    def do_GET(self) -> None:
        self.ranges.append(self.headers["Range"])
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        way = self.path.strip("/")
        if way == "gone":
            self.send_error(404)
            return
        start = 0 if way == "no-ranges" else start
        body = {"wrong": b"x" * len(CONTENT), "longer": CONTENT + b"more"}.get(way, CONTENT)[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if way == "breaks-off" else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[Any]:
    handler = type("Handler", (Mirror,), {"ranges": []})
    with serve_files(handler) as url:
        yield SimpleNamespace(url=url, ranges=handler.ranges)  # type: ignore[attr-defined]


def part(entry: Entry) -> Path:
    return entry.path.with_name("net.pth.part")


def test_a_whole_file_is_fetched_and_its_progress_told(entry: Entry, mirror: Any) -> None:
    told: list[tuple[int, int]] = []
    path = fetch.fetch(entry, url=f"{mirror.url}/whole", progress=lambda *now: told.append(now))
    assert path == entry.path
    assert path.read_bytes() == CONTENT
    assert not part(entry).exists()
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert weights.verify(entry) == path


def test_the_source_of_the_manifest_is_used(entry: Entry, mirror: Any) -> None:
    fetch.fetch(entry.model_copy(update={"source": f"{mirror.url}/whole"}))
    assert entry.path.read_bytes() == CONTENT


@pytest.mark.parametrize("again", ["whole", "no-ranges"])
def test_an_interrupted_download_goes_on_when_it_is_run_again(entry: Entry, mirror: Any, again: str) -> None:
    with pytest.raises(FetchFailed):
        fetch.fetch(entry, url=f"{mirror.url}/breaks-off")
    assert not entry.path.exists()
    assert 0 < part(entry).stat().st_size < len(CONTENT)
    fetch.fetch(entry, url=f"{mirror.url}/{again}")
    assert entry.path.read_bytes() == CONTENT
    assert mirror.ranges == [None, f"bytes={len(CONTENT) // 2}-"]


@pytest.mark.parametrize("way", ["wrong", "longer"])
def test_wrong_bytes_are_thrown_away(entry: Entry, mirror: Any, way: str) -> None:
    if way == "longer":
        fetch.fetch(entry.model_copy(update={"bytes": len(CONTENT)}), url=f"{mirror.url}/whole")
        entry.path.unlink()
    with pytest.raises((WeightsCorrupt, FetchFailed)):
        fetch.fetch(entry.model_copy(update={"sha256": "0" * 64}), url=f"{mirror.url}/{way}")
    assert not entry.path.exists()
    assert not part(entry).exists()


def test_an_error_of_the_server_is_told(entry: Entry, mirror: Any) -> None:
    with pytest.raises(FetchFailed, match="answered 404"):
        fetch.fetch(entry, url=f"{mirror.url}/gone")
    assert not entry.path.exists()


def test_no_route_is_told(entry: Entry) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(FetchFailed, match=r"127\.0\.0\.1"):
            fetch.fetch(entry, url=f"http://127.0.0.1:{port}/net.pth")
    assert fetch.CONNECT_SECONDS <= 5


def test_no_source_is_told(entry: Entry) -> None:
    with pytest.raises(FetchFailed, match="--url"):
        fetch.fetch(entry)


def test_a_copy_is_taken_from_a_file(entry: Entry, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pth"
    copy.write_bytes(CONTENT)
    fetch.fetch(entry, source_file=copy)
    assert entry.path.read_bytes() == CONTENT
    assert copy.exists()


def test_a_wrong_copy_is_refused(entry: Entry, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pth"
    copy.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(WeightsCorrupt, match="sha256"):
        fetch.fetch(entry, source_file=copy)
    assert not entry.path.exists()


def test_two_downloads_do_not_write_into_one_file(entry: Entry, mirror: Any) -> None:
    with fetch._alone(part(entry)), pytest.raises(FetchFailed, match="another process"):
        fetch.fetch(entry, url=f"{mirror.url}/whole")


def test_the_official_weights_have_the_address_that_torchvision_knows() -> None:
    entry = weights.read_manifest(ROOT / "weights" / "manifest.toml")["resnet18"]
    assert fetch._url(entry) == "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert entry.sha256.startswith("f37072fd")


def test_one_changed_byte_is_found(entry: Entry) -> None:
    entry.path.write_bytes(CONTENT[:5] + b"x" + CONTENT[6:])
    with pytest.raises(WeightsCorrupt, match="sha256"):
        weights.verify(entry)
    entry.path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsCorrupt, match="bytes"):
        weights.verify(entry)
    entry.path.unlink()
    with pytest.raises(WeightsMissing, match="eyespot weights fetch net"):
        weights.verify(entry)


def two(tmp_path: Path) -> dict[str, Entry]:
    (tmp_path / "manifest.toml").write_text(f"[official]{ENTRY}\n[packaged]{PACKAGED}")
    return weights.read_manifest(tmp_path / "manifest.toml")


def test_auto_is_the_first_network_whose_weights_are_here(tmp_path: Path) -> None:
    entries = two(tmp_path)
    chosen = weights.choose(entries)
    assert chosen.name == "packaged"
    assert weights.is_stand_in(chosen, entries)
    (tmp_path / "net.pth").write_bytes(CONTENT)
    assert weights.choose(entries).name == "official"
    assert not weights.is_stand_in(entries["official"], entries)


def test_any_other_name_is_strict(tmp_path: Path) -> None:
    entries = two(tmp_path)
    with pytest.raises(WeightsMissing):
        weights.verify(weights.choose(entries, "official"))
    with pytest.raises(UnknownModel, match="official, packaged"):
        weights.choose(entries, "resnet")


def test_nothing_here_is_told_with_the_remedy(entry: Entry) -> None:
    with pytest.raises(WeightsMissing, match="--from FILE"):
        weights.choose({"net": entry})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no network"),
        ("[net", "cannot be read"),
        ("net = 3", "cannot be read"),
        (f"[net]{ENTRY}colour = 3", "colour"),
        (f"[net]{ENTRY.replace('sha256', 'sha')}", "sha"),
        (f"[net]{ENTRY.replace('bilinear', 'nearest')}", "interpolation"),
    ],
)
def test_a_bad_manifest_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "manifest.toml"
    path.write_text(text)
    with pytest.raises(BadManifest, match=told):
        weights.read_manifest(path)
    with pytest.raises(BadManifest, match=r"nowhere\.toml"):
        weights.read_manifest(tmp_path / "nowhere.toml")


def test_the_default_manifest_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(weights.read_manifest(Path("weights/manifest.toml"))) == ["resnet18", "efficientnet-lite0"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, mirror: Any) -> None:
    (tmp_path / "blocked").write_text("a file where a folder belongs")
    (tmp_path / "manifest.toml").write_text(f"[net]{ENTRY.replace('net.pth', 'blocked/net.pth')}")
    with pytest.raises(FetchFailed, match="cannot be written"):
        fetch.fetch(weights.read_manifest(tmp_path / "manifest.toml")["net"], url=f"{mirror.url}/whole")
    assert os.listdir(tmp_path)
