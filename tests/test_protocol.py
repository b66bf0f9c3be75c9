"""HTTP below the routes: offers to upgrade, and bytes that are no HTTP."""

import json
import socket
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest

from tests import makers
from tests.serving import Served

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
    """Status, JSON and content type of the next answer on the connection."""
    response = HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read()), response.headers["content-type"]


@pytest.mark.parametrize("body", [LENGTH + IMAGE, CHUNKED], ids=["length", "chunked"])
def test_an_offer_of_http2_is_declined_and_the_image_is_recognised(connection: socket.socket, body: bytes) -> None:
    for head in (POST + OFFER, POST, POST + OFFER):  # and the connection stays of use
        connection.sendall(head + body)
        status, reply, _ = answer(connection)
        assert status == 200
        assert reply["predictions"]


def test_it_does_not_matter_how_the_request_is_cut(connection: socket.socket) -> None:
    request = POST + OFFER + LENGTH + IMAGE
    for cut in range(1, len(request), 3):
        connection.sendall(request[:cut])
        connection.sendall(request[cut:])
        assert answer(connection)[0] == 200, cut


def test_other_connection_options_are_kept(connection: socket.socket) -> None:
    connection.sendall((POST + OFFER + LENGTH).replace(b"Upgrade, ", b"close, upgrade, ") + IMAGE)
    assert answer(connection)[0] == 200
    assert connection.recv(1) == b""


def test_a_websocket_is_declined(connection: socket.socket) -> None:
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
def test_what_is_no_http_gets_a_problem(connection: socket.socket, nonsense: bytes) -> None:
    connection.sendall(nonsense)
    status, problem, content_type = answer(connection)
    assert (status, problem["code"], content_type) == (400, "bad-request", "application/problem+json")
    assert connection.recv(1) == b""
