"""HTTP below the routes: offers to upgrade, limits of heads, input that is not HTTP."""

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.client import parse_headers

import pytest

from eyespot.web.gate import body_limit
from eyespot.web.gate.protocol import Protocol
from tests import makers
from tests.requests import answered, metric
from tests.serving import FakeEngine, Served, serve_fake, until

IMAGE = makers.encode(makers.flat((40, 30), (130, 130, 130)), "PNG")
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQ\r\n"
POST = b"POST /predict?top_k=1 HTTP/1.1\r\nHost: x\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % len(IMAGE)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(IMAGE), IMAGE)


@pytest.fixture
def connection(fake: Served) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", fake.port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def answer(connection: socket.socket) -> tuple[int, dict[str, object], str]:
    """Status, JSON and content type of the next answer on the connection; what follows it stays there."""
    with connection.makefile("rb", buffering=0) as reader:
        status = int(reader.readline().split()[1])
        headers = parse_headers(reader)  # type: ignore[arg-type]
        assert headers["x-content-type-options"] == "nosniff"
        body = b""
        while left := int(headers["content-length"]) - len(body):
            body += reader.read(left) or b""
    return status, json.loads(body), headers["content-type"]


@pytest.mark.parametrize("body", [LENGTH + IMAGE, CHUNKED], ids=["length", "chunked"])
def test_an_offer_of_http2_is_ignored_and_the_request_answered(connection: socket.socket, body: bytes) -> None:
    for head in (POST + OFFER, POST, POST + OFFER):  # the connection remains usable
        connection.sendall(head + body)
        status, reply, _ = answer(connection)
        assert status == 200
        assert reply["predictions"]


def test_a_request_with_an_offer_may_arrive_in_any_two_pieces(connection: socket.socket) -> None:
    request = POST + OFFER + LENGTH + IMAGE
    for cut in range(1, len(request), 3):
        connection.sendall(request[:cut])
        connection.sendall(request[cut:])
        assert answer(connection)[0] == 200, cut


def test_other_connection_options_are_kept(connection: socket.socket) -> None:
    connection.sendall((POST + OFFER + LENGTH).replace(b"Upgrade, ", b"close, upgrade, ") + IMAGE)
    assert answer(connection)[0] == 200
    assert connection.recv(1) == b""


def test_an_offer_of_a_websocket_is_ignored(connection: socket.socket) -> None:
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    connection.sendall(
        b"GET /model HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + key + b"\r\n"
    )
    assert answer(connection)[0] == 200


def test_a_tunnel_is_refused(connection: socket.socket) -> None:
    connection.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
    status, problem, _ = answer(connection)
    assert (status, problem["code"]) == (400, "bad-request")


@pytest.mark.parametrize(
    "nonsense", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"hello\r\n\r\n", b"GET\r\n\r\n"]
)
def test_input_that_is_not_http_gets_a_problem(fake: Served, connection: socket.socket, nonsense: bytes) -> None:
    counted = metric(fake, line := 'eyespot_refusals_total{code="bad-request"}')
    connection.sendall(nonsense)
    status, problem, content_type = answer(connection)
    assert (status, problem["code"], content_type) == (400, "bad-request", "application/problem+json")
    assert connection.recv(1) == b""
    assert metric(fake, line) == counted + 1


@pytest.mark.parametrize("size", [1, 65_536, 262_143, 262_144, 262_145, 600_000, 3_000_000])
@pytest.mark.parametrize("piece", [1000, 65_537, 262_144, 10_000_000])
def test_every_byte_arrives_however_it_is_cut(fake: Served, size: int, piece: int) -> None:
    data = IMAGE + bytes(size)
    head = POST + b"Content-Length: %d\r\n\r\n" % len(data)
    with socket.create_connection(("127.0.0.1", fake.port), timeout=30) as connection:
        for turn in range(2):  # and again on the same connection
            whole = head + data
            for start in range(0, len(whole), piece):
                connection.sendall(whole[start : start + piece])
            status, reply, _ = answer(connection)
            assert status == 200, turn
            assert reply["image"]["sha256"] == hashlib.sha256(data).hexdigest()  # type: ignore[index]


def test_a_slow_body_is_read_and_a_stalled_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Quick(Protocol):
        piece_seconds = 0.05

    monkeypatch.setattr(body_limit, "PIECE_SECONDS", 0.05)
    monkeypatch.setattr(body_limit, "STALLED_SECONDS", 0.6)
    with serve_fake(uvicorn={"http": Quick}) as served:
        for stops, status in ((False, 200), (True, 408)):
            with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
                connection.sendall(POST + LENGTH)
                for number in range(10):  # in all, longer than a pause may be
                    time.sleep(0.1)
                    connection.sendall(IMAGE[number : number + 1])
                if not stops:
                    connection.sendall(IMAGE[10:])
                assert answer(connection)[0] == status


def test_trailers_are_not_headers() -> None:
    settings = {"api_keys": "camera:click-clack", "trusted_proxies": "127.0.0.1"}
    trailers = b"X-API-Key: click-clack\r\nX-Forwarded-For: 6.6.6.6\r\nX-Request-ID: mine\r\n\r\n"
    with (
        serve_fake(**settings) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection,
    ):
        connection.sendall(POST + CHUNKED.removesuffix(b"\r\n") + trailers)
        status, reply, _ = answer(connection)
        assert (status, reply["code"]) == (401, "unauthorized")
        assert reply["request_id"] != "mine"


GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
DOCS = b"GET /docs HTTP/1.1\r\nHost: x\r\n"  # asked for by refused requests only
MANY = b"".join(b"X-%d: a\r\n" % number for number in range(10_000))
CHUNK = POST + b"Transfer-Encoding: chunked\r\n\r\n1"
BEFORE = {
    "at first": b"",
    "behind a request": GET,
    "behind an offer": GET[:-2] + OFFER + b"\r\n",
    "behind a body": POST + LENGTH + IMAGE,
    "behind chunks": POST + CHUNKED,
}
LARGE = {
    "headers": DOCS + MANY[:70_000].rpartition(b"\r\n")[0] + b"\r\n\r\n",
    "one header": DOCS + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    "spaces": DOCS + b"X:" + b" " * 70_000 + b"a\r\n\r\n",
    "URL": DOCS.replace(b"docs", b"docs?" + b"a" * 70_000) + b"\r\n",
    "empty lines": b"\r\n" * 35_000 + DOCS + b"\r\n",
    "trailers": CHUNK + b"\r\na\r\n0\r\n" + MANY[:70_000].rpartition(b"\r\n")[0] + b"\r\n\r\n",
    "chunk extension": CHUNK + b";" + b"a" * 70_000 + b"\r\na\r\n0\r\n\r\n",
}


def refused(connection: socket.socket, fake: Served, status: int, code: str) -> dict[str, object]:
    """The next answer: a problem, then the end of the connection. The app was not called."""
    actual, problem, kind = answer(connection)
    assert (actual, problem["code"], kind) == (status, code, "application/problem+json")
    with contextlib.suppress(ConnectionResetError):  # the server had not read all
        assert not connection.recv(1)
    assert answered(fake, "/docs", 200, "GET") == 0
    return problem


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("sent", LARGE.values(), ids=LARGE)
def test_a_large_head_is_refused(fake: Served, connection: socket.socket, sent: bytes, before: bytes) -> None:
    connection.sendall(before + sent)
    if before:
        assert answer(connection)[0] == 200
    assert refused(connection, fake, 431, "head-too-large")["limit"] == 65_536


@pytest.mark.parametrize("piece", [1, 1000, 50_000])
def test_an_endless_head_is_refused(fake: Served, connection: socket.socket, piece: int) -> None:
    sent = (DOCS + MANY)[: 65_536 + 1]
    for start in range(0, len(sent), piece):
        connection.sendall(sent[start : start + piece])
    refused(connection, fake, 431, "head-too-large")


@pytest.mark.parametrize("piece", [4095, 4096, 4097, 65_535, 65_536, 65_537])
def test_a_head_may_have_64_kib(fake: Served, piece: int) -> None:
    for size, status in ((65_536, 200), (65_537, 431)):
        head = GET[:-2] + b"X: " + b"a" * (size - len(GET) - 5) + b"\r\n\r\n"
        assert len(head) == size
        with socket.create_connection(("127.0.0.1", fake.port), timeout=30) as connection:
            for start in range(0, size, piece):
                connection.sendall(head[start : start + piece])
            assert answer(connection)[0] == status


HOSTLESS = {
    "none": DOCS.replace(b"Host: x\r\n", b""),
    "two": DOCS + b"Host: y\r\n",
    "one twice": DOCS + b"host: x\r\n",
    "two of HTTP/1.0": DOCS.replace(b"1.1", b"1.0") + b"Host: y\r\n",
    "none, with an offer": DOCS.replace(b"Host: x\r\n", OFFER),
    **{
        value: DOCS.replace(b": x", b": " + value.encode())
        for value in ("a b", "a/b", "me@a", "a:b", "a:1:2", "[::1", "http://a", "ä", '"a"', "a, b")
    },
}


@pytest.mark.parametrize("before", [b"", POST + LENGTH + IMAGE], ids=["at first", "behind a body"])
@pytest.mark.parametrize("head", HOSTLESS.values(), ids=HOSTLESS)
def test_a_request_has_one_host(fake: Served, connection: socket.socket, head: bytes, before: bytes) -> None:
    connection.sendall(before + head + b"\r\n" + GET)
    if before:
        assert answer(connection)[0] == 200
    assert "Host" in str(refused(connection, fake, 400, "bad-request")["detail"])


@pytest.mark.parametrize("host", ["", "x", "a-b_c.example:8000", "a:", "127.0.0.1:80", "[::1]", "[::1]:8000", "%61"])
def test_a_host_is_accepted(connection: socket.socket, host: str) -> None:
    connection.sendall(GET.replace(b": x", b": " + host.encode()))
    assert answer(connection)[0] == 200


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0"])
def test_other_versions_are_refused(connection: socket.socket, version: str) -> None:
    connection.sendall(f"GET /livez HTTP/{version}\r\nHost: x\r\n\r\n".encode())
    assert answer(connection)[0] == 400


def test_http_1_0_needs_no_host(connection: socket.socket) -> None:
    connection.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
    assert answer(connection)[0] == 200


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (HOSTLESS["none"] + b"\r\n", 400),
        (LARGE["one header"], 431),
        (CHUNK + b" is no length\r\n", 400),
    ],
    ids=["nonsense", "no host", "large head", "broken chunk"],
)
@pytest.mark.parametrize("requests", [1, 2])
def test_earlier_requests_are_answered_before_a_refusal(wrong: bytes, status: int, requests: int) -> None:
    engine = FakeEngine()
    engine.go.clear()
    with (
        serve_fake(engine) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection,
    ):
        connection.sendall((POST + LENGTH + IMAGE) * requests + wrong)
        assert engine.started.acquire(timeout=30)
        engine.go.set()
        for _ in range(requests):
            assert answer(connection)[0] == 200
        assert answer(connection)[0] == status
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("sent", "keep_alive_seconds"),
    [(b"", 0.1), (b"\r\n", 0.1), (GET[:-2], 75), (GET, 0.1), (GET + b"\r\n", 0.1), (GET + b"GET", 0.1)],
)
def test_a_connection_without_a_whole_request_is_closed(sent: bytes, keep_alive_seconds: float) -> None:
    class Impatient(Protocol):
        head_seconds = 0.1

    with (
        serve_fake(uvicorn={"http": Impatient, "timeout_keep_alive": keep_alive_seconds}) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection,
    ):
        connection.sendall(sent)
        while connection.recv(1000):
            pass  # at most one answer


def test_a_request_refused_in_its_body_ends_at_once() -> None:
    with serve_fake() as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
            connection.sendall(CHUNK + b"\r\na\r\n")
            connection.sendall(b"no length\r\n")
            assert answer(connection)[0] == 400
        until(lambda: answered(served, "/predict", 499) == 1)


def test_thousands_of_pipelined_offers_are_ignored(connection: socket.socket) -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\n" + OFFER + b"\r\n"
    received = bytearray()

    def receive() -> None:
        while received.count(b"HTTP/1.1 200") < 3000 and (data := connection.recv(100_000)):
            received.extend(data)

    reader = threading.Thread(target=receive)
    reader.start()
    connection.sendall(request * 3000)
    reader.join()
    assert received.count(b"HTTP/1.1 200") == 3000


def test_a_client_that_disconnects_in_a_pipeline_is_not_an_error(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    engine.go.clear()
    with serve_fake(engine) as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
            connection.sendall((POST + LENGTH + IMAGE) * 3)
            assert engine.started.acquire(timeout=30)
        until(lambda: answered(served, "/predict", 499) >= 1)
        engine.go.set()
    assert "request_failed" not in caplog.messages
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]
