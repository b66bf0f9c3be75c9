"""uvicorn's HTTP/1.1, with its faults mended and limits for clients that send or read too slowly or too much."""

import asyncio
import re
import secrets
import time
from typing import Any

import httptools
from fastapi import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from eyespot.errors import BadRequest, HeadTooLarge, Refusal
from eyespot.telemetry import child
from eyespot.web.gate import problems

# The app receives a body in pieces of this size; uvicorn wakes it for every packet. No limit counts an incomplete
# piece, so pieces get smaller with more connections: 64 MiB in all, but not less than uvicorn's 64 KiB each.
_PIECE_BYTES, _MIN_PIECE_BYTES, _ALL_PIECES_BYTES = 256 * 1024, 64 * 1024, 64 * 1024 * 1024
PIECE_SECONDS = 1  # after which it receives a smaller piece, to tell a slow client from a stalled one

_HEAD_BYTES = 64 * 1024  # the limit for a head with what precedes it since the last body, and for trailers
# Outside a body, the parser gets no more than this at once, since it does not say where in its input a head ended.
# What follows a head in the same step is not counted: the next head may be that much larger.
_STEP_BYTES = 4 * 1024

_UPGRADE_HEADERS = {b"upgrade", b"http2-settings"}
_HOST = re.compile(rb"(\[[0-9A-Za-z:.]+\]|[\w.~!$&'()*+,;=%-]*)(:[0-9]*)?")  # RFC 9110, section 7.2; may be empty


class Protocol(HttpToolsProtocol):
    """One connection.

    * An offer to upgrade is ignored, and the request answered in HTTP/1.1 (RFC 9110, section 7.8). Java's client
      offers h2c with its first request, and uvicorn would drop the body.
    * Input that is not HTTP is answered with a problem, in its turn among pipelined responses.
    * Heads are limited in size and time. A client that does not read its response is disconnected, or its request, a
      batch for instance, would stay in memory for ever.
    * Trailers are discarded. uvicorn appends them to the headers, where a client behind a proxy that checks only heads
      could forge its address.

    uvicorn documents none of what is overridden or read here, and may change it in any release.
    """

    piece_seconds: float = PIECE_SECONDS
    head_seconds: float = 30  # for sending a head
    unread_seconds: float = 30  # without reading, once the response has filled the buffers

    _refused = False  # nothing more is parsed
    _piece_bytes = _PIECE_BYTES
    _last_piece = 0.0  # loop time
    _head_bytes = 0  # parsed since the last head or body data
    _body_left = 0  # bytes of a Content-Length still to come; not positive in a chunked body
    _running: RequestResponseCycle | None = None  # uvicorn's `cycle` is the newest, which may wait in `pipeline`
    _unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._close_after(self.timeout_keep_alive)  # balancers connect before they have a request

    def _close_after(self, seconds: float) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_timer = self.loop.call_later(self.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread_timer:
            self._unread_timer.cancel()
            self._unread_timer = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_keepalive_if_required()
        self.resume_writing()
        for cycle in (self._running, *(waiting for waiting, _ in self.pipeline)):  # uvicorn sees only the newest
            if cycle and not cycle.response_complete:
                _disconnect(cycle)
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        rest = data if len(data) <= _STEP_BYTES else memoryview(data)
        while rest and not self._refused and not self.transport.is_closing():
            if self._head_bytes >= _HEAD_BYTES:
                self._refuse(HeadTooLarge(limit=_HEAD_BYTES))
                return
            size = self._body_left if self._body_left > 0 else min(_STEP_BYTES, _HEAD_BYTES - self._head_bytes)
            step: bytes | memoryview | None = rest[:size]
            self._head_bytes += min(size, len(rest))
            rest = rest[size:]
            while step:
                step = self._parse(step)

    def _parse(self, step: bytes | memoryview) -> bytes | None:
        """Parse the step; after an offer to upgrade, return the request without it, to be parsed instead."""
        try:
            self.parser.feed_data(step)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                return self._head_without_offer() + step[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            raised = error.__context__  # by a callback
            self._refuse(raised if isinstance(raised, Refusal) else BadRequest())
        return None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._close_after(self.head_seconds)

    def on_headers_complete(self) -> None:
        self._unset_keepalive_if_required()
        self._head_bytes = 0
        self._check_version_and_host()
        self._body_left = next((int(value) for name, value in self.headers if name == b"content-length"), 0)
        self._piece_bytes = max(_MIN_PIECE_BYTES, min(_PIECE_BYTES, _ALL_PIECES_BYTES // len(self.connections)))
        self._last_piece = self.loop.time()
        self.scope["state"]["arrived"] = time.monotonic()  # it may wait behind other requests
        self.scope["state"]["disconnected"] = self.loop.create_future()
        super().on_headers_complete()
        self.headers = []  # for the trailers; the scope has the other list

    def _check_version_and_host(self) -> None:
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):  # the parser accepts 0.9 and 2.0
            raise BadRequest(f"HTTP/{version} is not supported; use HTTP/1.1.")
        hosts = [value for name, value in self.headers if name == b"host"]  # RFC 9112, section 3.2
        if len(hosts) > 1 or (not hosts and version == "1.1") or not all(map(_HOST.fullmatch, hosts)):
            raise BadRequest("A request must have one Host header: a name or address, with an optional port.")

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        self._body_left -= len(body)
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) >= self._piece_bytes:
            self.flow.pause_reading()
        elif self.loop.time() - self._last_piece <= self.piece_seconds:
            return
        self._last_piece = self.loop.time()
        cycle.message_event.set()

    def _should_upgrade(self) -> bool:
        """Whether uvicorn ignores a request with an offer, and so leaves it to `_parse`."""
        return self.scope["method"] != "CONNECT"

    def _head_without_offer(self) -> bytes:
        """The head, to be parsed by a new parser: the old one has stopped before the body."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        for name, value in self.scope["headers"]:
            if name == b"connection":  # some releases of uvicorn close only when `close` is the one option
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(option for option in options if option.lower() not in _UPGRADE_HEADERS)
            if name not in _UPGRADE_HEADERS:
                lines.append(b"%b: %b" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _refuse(self, refusal: Refusal) -> None:
        """Respond with the refusal after all earlier responses, and close."""
        self._refused = True
        app: Any = self.config.app
        child(app.state.metrics.refusals, refusal.code).inc()
        newest = self.cycle
        if newest and newest.more_body and not newest.response_complete:  # its own body is refused
            if newest.response_started:
                self.transport.close()
                return
            if self.pipeline:
                self.pipeline.popleft()
            else:
                _disconnect(newest)
                self.cycle = None  # type: ignore[assignment]  # as before the first request
        # One more request, with an app of its own: uvicorn gives the response its turn.
        self.app = _problem(refusal)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(b"GET / HTTP/1.0\r\n\r\n")


def _disconnect(cycle: RequestResponseCycle) -> None:
    cycle.disconnected = True
    cycle.message_event.set()
    disconnected = cycle.scope["state"]["disconnected"]
    if not disconnected.done():
        disconnected.set_result(None)


def _problem(refusal: Refusal) -> Response:
    request_id = secrets.token_hex(8)
    headers = {"X-Request-ID": request_id, "X-Content-Type-Options": "nosniff"}
    return Response(problems.document(refusal, request_id), refusal.status, headers, problems.MEDIA_TYPE)
