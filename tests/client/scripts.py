"""A server that answers as a test scripts it, and clients that do not wait between retries."""

import http.server
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from eyespot.client import AsyncClient, Client
from eyespot.client.calls import Calls
from eyespot.errors import Refusal
from eyespot.types import LabelEntry
from eyespot.web.gate.problems import document
from tests.serving import serve_files

RECOGNITION = {
    "says": {"kind": "class", "id": "n00000003", "label": "class 3", "confidence": 0.9},
    "groups": [{"id": "low", "label": "low", "confidence": 0.95}],
    "predictions": [{"class_id": 3, "wnid": "n00000003", "label": "class 3", "confidence": 0.9}],
    "image": {"sha256": "0" * 64, "format": "PNG", "width": 300, "height": 200},
    "model": {"name": "fake", "digest": "0" * 64, "engine": "fake", "precision": "f32"},
    "cached": False,
    "request_id": "request-1",
}
LABEL = {
    "class_id": 3,
    "wnid": "n00000003",
    "label": "第3类",
    "en": "class 3",
    "zh": "第3类",
    "synonyms": ["third"],
    "gloss": None,
    "groups": [{"id": "low", "label": "低"}],
}
ENTRY = TypeAdapter(LabelEntry).validate_python(LABEL)


class _Hurried(Calls):
    """Notes each pause instead of waiting; its clock is their sum."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.pauses: list[float] = []
        super().__init__(*args, **options)

    def _now(self) -> float:
        return sum(self.pauses)

    async def _wait(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await super()._wait(0)


class HurriedClient(_Hurried, Client):
    pass


class HurriedAsyncClient(_Hurried, AsyncClient):
    pass


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    size: int


Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@dataclass
class Script:
    """The answers of a server, one for each request; the last one repeats."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)  # ends what hangs

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        size = len(handler.rfile.read(int(headers.get("content-length", 0))))
        self.requests.append(Request(handler.command, handler.path, headers, size))
        self.answers[min(len(self.requests), len(self.answers)) - 1](handler)


@dataclass
class Scripted:
    """A server whose script can be exchanged."""

    url: str
    script: Script


@contextmanager
def serve_scripts(tls: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    served = Scripted("", Script())

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet, or the second waits 40 ms for the first to be acknowledged

        def handle(self) -> None:
            with suppress(ConnectionError):  # of a client that did not wait
                super().handle()

        def do_GET(self) -> None:
            served.script.answer(self)

        def do_POST(self) -> None:
            served.script.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with serve_files(Handler, tls) as url:
        served.url = url
        yield served


def says(status: int, body: object, **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def refuses(refusal: Refusal, **headers: str) -> Answer:
    return says(refusal.status, document(refusal, "request-1"), **headers)


def hangs(script: Script) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        script.go.wait(60)
        handler.close_connection = True

    return answer


def breaks(handler: http.server.BaseHTTPRequestHandler) -> None:
    """The connection breaks halfway through the answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"[" * 500)
    handler.close_connection = True


def leaves(handler: http.server.BaseHTTPRequestHandler) -> None:
    """The connection ends after an answer that promised to keep it."""
    says(200, [LABEL])(handler)
    handler.close_connection = True


@contextmanager
def nobody() -> Iterator[socket.socket]:
    """A socket that does not listen, so that connections to its address are refused."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound


def address(bound: socket.socket) -> str:
    return f"http://127.0.0.1:{bound.getsockname()[1]}"
