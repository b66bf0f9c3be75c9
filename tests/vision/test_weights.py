import contextlib
import http.server
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eyespot.errors import BadManifest, FetchFailed, UnknownModel, WeightsCorrupt, WeightsMissing
from eyespot.vision import fetch, weights
from eyespot.vision.weights import Entry
from tests.manifests import CONTENT, ENTRY, PACKAGED
from tests.serving import ROOT, serve_files


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    (tmp_path / "manifest.toml").write_text(f"[net]{ENTRY}")
    return weights.read_manifest(tmp_path / "manifest.toml")["net"]


PAGE = b"<html><body>Log in to the network</body></html>"
WRONG = bytes(len(CONTENT))


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT in the way that the path names, and keeps the Range headers that it was sent."""

    protocol_version = "HTTP/1.1"
    ranges: list[str | None]

    def do_GET(self) -> None:
        self.ranges.append(self.headers["Range"])
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        way = self.path.strip("/")
        if way == "gone":
            self.send_error(404)
        elif way == "garbage":
            self.wfile.write(b"hello\r\n")
            self.close_connection = True
        elif way in ("redirect", "circle"):
            self.reply(302, b"", Location="/whole" if way == "redirect" else "/circle")
        elif way.startswith("page"):
            self.reply(200, PAGE, way, Content_Type="text/html; charset=utf-8")
        elif start and way == "416":
            self.reply(416, b"", Content_Range=f"bytes */{len(CONTENT) - 1}")
        elif start and way != "no-ranges":
            first, total = start - (way == "other-start"), len(CONTENT) + (way == "other-total")
            said = {} if way == "unsaid" else {"Content_Range": f"bytes {first}-{len(CONTENT) - 1}/{total}"}
            self.reply(206, CONTENT[start:], way, **said)
        else:
            bodies = {"short": CONTENT[:46], "long": CONTENT + b"more"}
            self.reply(200, bodies.get(way.partition("-")[0], CONTENT), way)

    def reply(self, status: int, body: bytes, way: str = "", **headers: str) -> None:
        """All of it; half of it when the way breaks off; in chunks or up to the end of the connection."""
        chunked, unsized = "chunks" in way, "unsized" in way
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif unsized:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        breaks_off = way.startswith("breaks-off")
        sent = body[: len(body) // 2] if breaks_off else body
        with contextlib.suppress(ConnectionError):  # it may have been seen to be wrong
            self.wfile.write(b"%x\r\n%b\r\n" % (len(sent), sent) if chunked else sent)
            if chunked and not breaks_off:
                self.wfile.write(b"0\r\n\r\n")
        self.close_connection = breaks_off or unsized

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


@pytest.mark.parametrize("way", ["redirect", "chunks", "unsized"])
def test_it_does_not_matter_how_it_comes(entry: Entry, mirror: Any, way: str) -> None:
    fetch.fetch(entry, url=f"{mirror.url}/{way}")
    assert entry.path.read_bytes() == CONTENT


@pytest.mark.parametrize("again", ["whole", "no-ranges", "chunks"])
@pytest.mark.parametrize("way", ["breaks-off", "breaks-off-in-chunks"])
def test_an_interrupted_download_goes_on_when_it_is_run_again(entry: Entry, mirror: Any, way: str, again: str) -> None:
    with pytest.raises(FetchFailed, match=r"broke off after 153,600 of 307,200 bytes; run it again") as told:
        fetch.fetch(entry, url=f"{mirror.url}/{way}")
    assert not re.search(ODD, str(told.value))
    assert not entry.path.exists()
    assert part(entry).read_bytes() == CONTENT[: len(CONTENT) // 2]
    fetch.fetch(entry, url=f"{mirror.url}/{again}")
    assert entry.path.read_bytes() == CONTENT
    assert mirror.ranges == [None, f"bytes={len(CONTENT) // 2}-"]


@pytest.mark.parametrize("way", ["416", "other-start", "other-total", "unsaid"])
def test_what_cannot_be_gone_on_from_is_fetched_anew(entry: Entry, mirror: Any, way: str) -> None:
    part(entry).write_bytes(CONTENT[:1000])
    fetch.fetch(entry, url=f"{mirror.url}/{way}")
    assert entry.path.read_bytes() == CONTENT
    assert mirror.ranges == ["bytes=1000-", None]


@pytest.mark.parametrize(
    ("kept", "ranges"),
    [
        (PAGE, [f"bytes={len(PAGE)}-", None]),
        (b"x" + CONTENT[1:-1], [f"bytes={len(CONTENT) - 1}-", None]),
        (b"", [None]),
        (CONTENT, []),
        (WRONG, [None]),
        (CONTENT + b"more", [None]),
    ],
    ids=["a page", "nearly all of another file", "nothing", "all", "all of another file", "too much"],
)
def test_what_was_kept_is_used_when_it_is_right(
    entry: Entry, mirror: Any, kept: bytes, ranges: list[str | None]
) -> None:
    part(entry).write_bytes(kept)
    fetch.fetch(entry, url=f"{mirror.url}/whole")
    assert entry.path.read_bytes() == CONTENT
    assert not part(entry).exists()
    assert mirror.ranges == ranges


@pytest.mark.parametrize(
    ("way", "told"),
    [
        ("page", "answered with 47 bytes of text/html, where 307,200 bytes were expected"),
        ("page-in-chunks", "answered with a web page, where 307,200 bytes were expected"),
        ("long", "answered with 307,204 bytes of no type, where 307,200 bytes were expected"),
        ("short", "answered with 46 bytes of no type, where 307,200 bytes were expected"),
        ("gone", "answered 404 Not Found"),
    ],
)
def test_nothing_is_written_of_what_cannot_be_the_file(entry: Entry, mirror: Any, way: str, told: str) -> None:
    with pytest.raises(FetchFailed, match=told):
        fetch.fetch(entry, url=f"{mirror.url}/{way}")
    assert os.listdir(entry.folder) == ["manifest.toml"]


@pytest.mark.parametrize("way", ["page", "page-in-chunks", "gone"])
def test_what_was_kept_outlives_a_page_that_is_no_file(entry: Entry, mirror: Any, way: str) -> None:
    part(entry).write_bytes(CONTENT[:1000])
    with pytest.raises(FetchFailed):
        fetch.fetch(entry, url=f"{mirror.url}/{way}")
    assert part(entry).read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize(
    ("way", "told"),
    [
        ("short-in-chunks", "sent only 46 of 307,200 bytes"),
        ("short-unsized", "sent only 46 of 307,200 bytes"),
        ("long-in-chunks", "sent more than 307,200 bytes"),
        ("long-unsized", "sent more than 307,200 bytes"),
    ],
)
def test_another_file_that_was_not_announced_is_thrown_away(entry: Entry, mirror: Any, way: str, told: str) -> None:
    with pytest.raises(FetchFailed, match=told):
        fetch.fetch(entry, url=f"{mirror.url}/{way}")
    assert os.listdir(entry.folder) == ["manifest.toml"]


def test_wrong_bytes_are_thrown_away(entry: Entry, mirror: Any) -> None:
    part(entry).write_bytes(CONTENT[:1000])
    wrong = entry.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(WeightsCorrupt, match=f"^{mirror.url}/whole has sha256"):
        fetch.fetch(wrong, url=f"{mirror.url}/whole")
    assert mirror.ranges == ["bytes=1000-", None]
    assert not entry.path.exists()
    assert not part(entry).exists()


ODD = r"(?i)errno|error|exception|\[|_ssl|None"


@pytest.mark.parametrize(
    ("address", "proxy", "reason"),
    [
        ("http://127.0.0.1:9/x", None, "connection refused"),
        ("http://nowhere.example/x", None, "unknown host, or no network"),
        ("https:MIRROR/whole", None, "the TLS handshake failed"),
        ("http:MIRROR/circle", None, "too many redirects"),
        ("http:SILENT/x", None, "no answer within 30 s"),
        ("http:MIRROR/garbage", None, "the server hung up, or does not speak HTTP"),
        ("ftp://127.0.0.1/x", None, "an address begins with http:// or https://"),
        ("net.pth", None, "an address begins with http:// or https://"),
        ("http://a:b:c/x", None, "this is not a valid address"),
        (f"http://{'a' * 70}/x", None, "this is not a valid address"),
        ("https://127.0.0.1/x", "http:MIRROR", r"the proxy refused the request \(the environment names a proxy\)"),
        ("http://127.0.0.1/x", "http://127.0.0.1:9", r"connection refused \(the environment names a proxy\)"),
        ("http://127.0.0.1/x", "gopher://127.0.0.1", "the environment's proxy or certificates cannot be used"),
    ],
)
def test_why_there_is_no_answer_is_told_in_plain_words_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, entry: Entry, mirror: Any, address: str, proxy: str | None, reason: str
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    if "nowhere" in address:
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(fetch, "READ_SECONDS", 0.2 if "SILENT" in address else 30)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        places = {"MIRROR": mirror.url.removeprefix("http:"), "SILENT": f"//127.0.0.1:{silent.getsockname()[1]}"}
        for place, url in places.items():
            address = address.replace(place, url)
            proxy = proxy and proxy.replace(place, url)
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            if proxy:
                monkeypatch.setenv(name, proxy)
        with pytest.raises(FetchFailed, match=reason) as told:
            fetch.fetch(entry, url=address)
    assert not re.search(ODD, str(told.value).replace(address, ""))
    assert str(told.value).endswith(f"; {fetch.REMEDY}") or "gopher" in str(proxy)
    assert all(way in fetch.REMEDY for way in ("--url", "--from", "HTTPS_PROXY"))
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
    with pytest.raises(WeightsCorrupt, match=f"^{copy} has sha256"):
        fetch.fetch(entry, source_file=copy)
    assert not entry.path.exists()


def test_two_downloads_do_not_write_into_one_file(entry: Entry, mirror: Any) -> None:
    with fetch.locked(entry.folder), pytest.raises(FetchFailed, match="another process"):
        fetch.fetch(entry, url=f"{mirror.url}/whole")


def test_the_official_weights_have_the_address_that_torchvision_knows() -> None:
    entry = weights.read_manifest(ROOT / "weights" / "manifest.toml")["resnet18"]
    assert fetch.source_url(entry) == "https://download.pytorch.org/models/resnet18-f37072fd.pth"
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
        ("", "no models"),
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
