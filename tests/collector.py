"""A fake OpenTelemetry collector on loopback."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.serving import serve_files


class Collector:
    """Keeps what it receives. It can be held, and answer with another status."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.go = threading.Event()
        self.go.set()
        self.asked = threading.Event()
        self.headers: dict[str, str] = {}
        self.service: dict[str, str] = {}
        self.spans: list[Span] = []

    def receive(self, headers: dict[str, str], body: bytes) -> None:
        self.asked.set()
        self.go.wait(60)
        self.headers = headers
        for one in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.service = attributes(one.resource)
            self.spans += [span for scope in one.scope_spans for span in scope.spans]

    def named(self, name: str) -> Span:
        (span,) = (span for span in self.spans if span.name == name)
        return span

    def below(self, parent: Span) -> list[Span]:
        """The children of a span, as they began."""
        spans = [span for span in self.spans if span.parent_span_id == parent.span_id]
        return sorted(spans, key=lambda span: (span.start_time_unix_nano, span.end_time_unix_nano))


def attributes(of: Any) -> dict[str, Any]:
    """The attributes of a span or a resource."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.receive(dict(self.headers), self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(collector.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serve_files(Handler) as collector.url:
        try:
            yield collector
        finally:
            collector.go.set()
