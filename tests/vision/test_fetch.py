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

from eyespot.errors import FetchFailed, WeightsCorrupt
from eyespot.vision import fetch, weights
from eyespot.vision.weights import Entry
from tests.manifests import CONTENT, ENTRY, PUBLISHED, SHA256
from tests.serving import ROOT, serve_files


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    (tmp_path / "manifest.toml").write_text(f"[net]{ENTRY}")
    return weights.read_manifest(tmp_path / "manifest.toml")["net"]


@pytest.fixture
def published(tmp_path: Path) -> Entry:
    (tmp_path / "manifest.toml").write_text(f"[net]{PUBLISHED}")
    return weights.read_manifest(tmp_path / "manifest.toml")["net"]


@pytest.fixture(params=["entry", "published"])
def either(request: pytest.FixtureRequest) -> Entry:
    """With the whole sha256 and the size, or with what torchvision publishes of them."""
    found: Entry = request.getfixturevalue(request.param)
    return found


PAGE = b"<html><body>Log in to the network</body></html>"
WRONG = bytes(len(CONTENT))


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT as the path says, and records the Range headers."""

    protocol_version = "HTTP/1.1"
    ranges: list[str | None]

    def do_GET(self) -> None:
        self.ranges.append(self.headers["Range"])
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        path = self.path.strip("/")
        if path == "gone":
            self.send_error(404)
        elif path == "garbage":
            self.wfile.write(b"hello\r\n")
            self.close_connection = True
        elif path in ("redirect", "circle"):
            self.reply(302, b"", Location="/whole" if path == "redirect" else "/circle")
        elif path.startswith("page"):
            self.reply(200, PAGE, path, Content_Type="text/html; charset=utf-8")
        elif start and path == "416":
            self.reply(416, b"", Content_Range=f"bytes */{len(CONTENT) - 1}")
        elif start and path != "no-ranges":
            first, total = start - (path == "other-start"), len(CONTENT) + (path == "other-total")
            extra = {} if path == "unsaid" else {"Content_Range": f"bytes {first}-{len(CONTENT) - 1}/{total}"}
            self.reply(206, CONTENT[start:], path, **extra)
        else:
            bodies = {"short": CONTENT[:46], "long": CONTENT + b"more", "longer": CONTENT + bytes(2000)}
            self.reply(200, bodies.get(path.partition("-")[0], CONTENT), path)

    def reply(self, status: int, body: bytes, path: str = "", **headers: str) -> None:
        """The body, or half of it, in chunks or until the connection closes."""
        chunked, unsized = "chunks" in path, "unsized" in path
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
        breaks_off = path.startswith("breaks-off")
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


def test_a_password_in_the_address_is_not_shown(entry: Entry, mirror: Any) -> None:
    for path in ("gone", "page", "breaks-off"):
        with pytest.raises(FetchFailed) as caught:
            fetch.fetch(entry, url=f"{mirror.url}/{path}".replace("//", "//me:hunter2@"))
        assert mirror.url in str(caught.value)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(FetchFailed) as caught:
        fetch.fetch(entry, url="http://me:hunter2@127.0.0.1:9/x")
    assert "hunter2" not in str(caught.value)


def test_a_file_is_fetched_with_progress(either: Entry, mirror: Any) -> None:
    calls: list[tuple[int, int]] = []
    path = fetch.fetch(either, url=f"{mirror.url}/whole", progress=lambda *now: calls.append(now))
    assert path == either.path
    assert path.read_bytes() == CONTENT
    assert not part(either).exists()
    assert calls[0] == (0, len(CONTENT))
    assert calls[-1] == (len(CONTENT), len(CONTENT))
    assert weights.verify(either).path == path
    pins = [path.read_text() for path in either.folder.glob("*.sha256")]
    assert pins == ([f"{SHA256}  net.pth\n"] if either.sha256_prefix else [])


def test_a_file_that_was_pinned_before_is_required(either: Entry, mirror: Any) -> None:
    """The prefix is too short to choose between two files that someone made for it."""
    pinned = f"{SHA256[:8]}{'0' * 56}"
    either.pin.write_text(f"{pinned}  net.pth\n")
    if either.sha256:  # the manifest's goes before
        fetch.fetch(either, url=f"{mirror.url}/whole")
        return
    with pytest.raises(WeightsCorrupt, match=f"whole has sha256 {SHA256}, the weights of net have {pinned}$"):
        fetch.fetch(either, url=f"{mirror.url}/whole")
    assert not either.path.exists()


def test_the_source_of_the_manifest_is_used(entry: Entry, mirror: Any) -> None:
    fetch.fetch(entry.model_copy(update={"source": f"{mirror.url}/whole"}))
    assert entry.path.read_bytes() == CONTENT


@pytest.mark.parametrize("path", ["redirect", "chunks", "unsized"])
def test_redirects_chunks_and_bodies_without_a_length_are_read(either: Entry, mirror: Any, path: str) -> None:
    fetch.fetch(either, url=f"{mirror.url}/{path}")
    assert either.path.read_bytes() == CONTENT


@pytest.mark.parametrize("again", ["whole", "no-ranges", "chunks"])
@pytest.mark.parametrize("path", ["breaks-off", "breaks-off-in-chunks"])
def test_an_interrupted_download_is_resumed(either: Entry, mirror: Any, path: str, again: str) -> None:
    with pytest.raises(FetchFailed, match=r"stopped after 153,600 of 30[78],\d+ bytes; run it again") as message:
        fetch.fetch(either, url=f"{mirror.url}/{path}")
    assert not re.search(ODD, str(message.value))
    assert not either.path.exists()
    assert part(either).read_bytes() == CONTENT[: len(CONTENT) // 2]
    fetch.fetch(either, url=f"{mirror.url}/{again}")
    assert either.path.read_bytes() == CONTENT
    assert mirror.ranges == [None, f"bytes={len(CONTENT) // 2}-"]


@pytest.mark.parametrize("path", ["416", "other-start", "other-total", "unsaid"])
def test_a_download_that_cannot_be_resumed_starts_again(either: Entry, mirror: Any, path: str) -> None:
    part(either).write_bytes(CONTENT[:1000])
    fetch.fetch(either, url=f"{mirror.url}/{path}")
    assert either.path.read_bytes() == CONTENT
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
def test_a_partial_file_is_used_if_it_is_right(
    entry: Entry, mirror: Any, kept: bytes, ranges: list[str | None]
) -> None:
    part(entry).write_bytes(kept)
    fetch.fetch(entry, url=f"{mirror.url}/whole")
    assert entry.path.read_bytes() == CONTENT
    assert not part(entry).exists()
    assert mirror.ranges == ranges


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("page", "sent a web page instead of 307,200 bytes"),
        ("page-in-chunks", "sent a web page instead of 307,200 bytes"),
        ("long", "sent 307,204 bytes instead of 307,200 bytes"),
        ("short", "sent 46 bytes instead of 307,200 bytes"),
        ("gone", "answered 404 Not Found"),
    ],
)
def test_nothing_is_written_of_a_wrong_response(entry: Entry, mirror: Any, path: str, message: str) -> None:
    with pytest.raises(FetchFailed, match=message):
        fetch.fetch(entry, url=f"{mirror.url}/{path}")
    assert os.listdir(entry.folder) == ["manifest.toml"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("page", r"sent a web page instead of 0\.293 MiB"),
        ("page-in-chunks", r"sent a web page instead of 0\.293 MiB"),
        ("longer", r"sent 309,200 bytes instead of 0\.293 MiB"),
        ("short", r"sent 46 bytes instead of 0\.293 MiB"),
    ],
)
def test_nothing_is_written_of_a_response_that_cannot_be_what_is_published(
    published: Entry, mirror: Any, path: str, message: str
) -> None:
    with pytest.raises(FetchFailed, match=message):
        fetch.fetch(published, url=f"{mirror.url}/{path}")
    assert os.listdir(published.folder) == ["manifest.toml"]


@pytest.mark.parametrize("path", ["longer-in-chunks", "longer-unsized", "short-unsized", "long", "long-unsized"])
def test_a_body_that_is_not_what_is_published_is_deleted(published: Entry, mirror: Any, path: str) -> None:
    calls: list[tuple[int, int]] = []
    with pytest.raises(WeightsCorrupt, match=r"has (30[89],\d+|46) bytes, the weights|has sha256"):
        fetch.fetch(published, url=f"{mirror.url}/{path}", progress=lambda *now: calls.append(now))
    assert all(done <= total for done, total in calls)  # more is not read
    assert os.listdir(published.folder) == ["manifest.toml"]


@pytest.mark.parametrize(
    ("kept", "ranges"),
    [
        (CONTENT, []),
        (CONTENT[:-1], [None]),  # of which nobody can say whether it is whole
        (WRONG, [None]),
        (CONTENT + bytes(2000), [None]),
        (b"x" + CONTENT[1:-2000], [f"bytes={len(CONTENT) - 2000}-", None]),
    ],
    ids=["all", "nearly all", "all of another file", "too much", "most of another file"],
)
def test_a_partial_file_of_what_is_published_is_used_if_it_is_right(
    published: Entry, mirror: Any, kept: bytes, ranges: list[str | None]
) -> None:
    part(published).write_bytes(kept)
    fetch.fetch(published, url=f"{mirror.url}/whole")
    assert published.path.read_bytes() == CONTENT
    assert not part(published).exists()
    assert mirror.ranges == ranges


@pytest.mark.parametrize("path", ["page", "page-in-chunks", "gone"])
def test_a_partial_file_survives_a_wrong_response(entry: Entry, mirror: Any, path: str) -> None:
    part(entry).write_bytes(CONTENT[:1000])
    with pytest.raises(FetchFailed):
        fetch.fetch(entry, url=f"{mirror.url}/{path}")
    assert part(entry).read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("short-in-chunks", "has 46 bytes, the weights of net have 307,200"),
        ("short-unsized", "has 46 bytes, the weights of net have 307,200"),
        ("long-in-chunks", "has 307,204 bytes, the weights of net have 307,200"),
        ("long-unsized", "has 307,204 bytes, the weights of net have 307,200"),
    ],
)
def test_a_body_of_the_wrong_size_is_deleted(entry: Entry, mirror: Any, path: str, message: str) -> None:
    with pytest.raises(WeightsCorrupt, match=message):
        fetch.fetch(entry, url=f"{mirror.url}/{path}")
    assert os.listdir(entry.folder) == ["manifest.toml"]


def test_wrong_bytes_are_deleted(either: Entry, mirror: Any) -> None:
    part(either).write_bytes(CONTENT[:1000])
    wrong = either.model_copy(update={"sha256_prefix": "0" * 8} if either.sha256_prefix else {"sha256": "0" * 64})
    with pytest.raises(WeightsCorrupt, match=f"^{mirror.url}/whole has sha256"):
        fetch.fetch(wrong, url=f"{mirror.url}/whole")
    assert mirror.ranges == ["bytes=1000-", None]
    assert not either.path.exists()
    assert not part(either).exists()


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
        ("ftp://127.0.0.1/x", None, "an address starts with http:// or https://"),
        ("net.pth", None, "an address starts with http:// or https://"),
        ("http://a:b:c/x", None, "this is not a valid address"),
        (f"http://{'a' * 70}/x", None, "this is not a valid address"),
        ("https://127.0.0.1/x", "http:MIRROR", r"the proxy refused the request \(the environment names a proxy\)"),
        ("http://127.0.0.1/x", "http://127.0.0.1:9", r"connection refused \(the environment names a proxy\)"),
        ("http://127.0.0.1/x", "gopher://127.0.0.1", "the environment's proxy or certificates cannot be used"),
    ],
)
def test_a_failure_gives_its_reason_and_the_remedy(
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
        with pytest.raises(FetchFailed, match=reason) as message:
            fetch.fetch(entry, url=address)
    assert not re.search(ODD, str(message.value).replace(address, ""))
    assert str(message.value).endswith(f"; {fetch.REMEDY}") or "gopher" in str(proxy)
    assert all(option in fetch.REMEDY for option in ("--url", "--from", "HTTPS_PROXY"))
    assert fetch.CONNECT_SECONDS <= 5


def test_a_manifest_without_a_source_is_an_error(entry: Entry) -> None:
    with pytest.raises(FetchFailed, match="--url"):
        fetch.fetch(entry)


def test_a_file_is_copied(either: Entry, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pth"
    copy.write_bytes(CONTENT)
    fetch.fetch(either, source_file=copy)
    assert either.path.read_bytes() == CONTENT
    assert copy.exists()


def test_a_wrong_copy_is_refused(either: Entry, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pth"
    copy.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(WeightsCorrupt, match=f"^{copy} has sha256"):
        fetch.fetch(either, source_file=copy)
    assert not either.path.exists()


def test_a_second_download_is_refused(entry: Entry, mirror: Any) -> None:
    with fetch.locked(entry.folder), pytest.raises(FetchFailed, match="another process"):
        fetch.fetch(entry, url=f"{mirror.url}/whole")


def test_torchvision_knows_the_address_of_the_official_weights() -> None:
    entry = weights.read_manifest(ROOT / "weights" / "manifest.toml")["resnet18"]
    assert fetch.source_url(entry) == "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert entry.sha256.startswith("f37072fd")


def test_an_unwritable_folder_is_an_error(tmp_path: Path, mirror: Any) -> None:
    (tmp_path / "blocked").write_text("a file where a folder belongs")
    (tmp_path / "manifest.toml").write_text(f"[net]{ENTRY.replace('net.pth', 'blocked/net.pth')}")
    with pytest.raises(FetchFailed, match="cannot be written"):
        fetch.fetch(weights.read_manifest(tmp_path / "manifest.toml")["net"], url=f"{mirror.url}/whole")
    assert os.listdir(tmp_path)
