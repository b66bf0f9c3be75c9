"""HTTP/1.1 as uvicorn speaks it, but for what it gets wrong, does too often, or lets clients do."""

import asyncio
import secrets
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from eyespot.errors import BadRequest, HeadTooLarge, Refusal
from eyespot.web import problems

PIECE_SECONDS = 1  # after which a request is told of what there is of its body, so that slow and gone can be told apart
# Of a body, for which a request is woken, where uvicorn wakes it for whatever arrives. These bytes are not counted
# until then, so that on many connections they are fewer: 64 MiB together, or the 64 KiB of each that uvicorn takes.
_MOST_PIECE_BYTES, _LEAST_PIECE_BYTES, _PIECES_BYTES = 256 * 1024, 64 * 1024, 64 * 1024 * 1024
_HEAD_BYTES = 64 * 1024  # of a head, of trailers, of whatever else comes between bodies
_HEAD_SECONDS = 30  # for which a client may take to send a head
_UNREAD_SECONDS = 30  # for which a client may take nothing of an answer that fills the buffers on its way
_OF_AN_UPGRADE = {b"upgrade", b"http2-settings"}


class Protocol(HttpToolsProtocol):
    """One connection.

    A request that offers to go on in another protocol is answered in this one (RFC 9110, 7.8). Java's own client offers
    h2c with its first request, and uvicorn drops the body of such a request. What is no HTTP gets a problem.

    Heads are bounded in size and time, and so is a client that does not read: what it has sent, a batch say, would be
    held for ever. Trailers are thrown away: uvicorn adds them to the headers, where a client could pretend to be
    somebody else behind a proxy that looks at heads only.
    """

    _woken = 0.0  # when the request was last told of its body, as the loop has it
    _piece_bytes = _MOST_PIECE_BYTES
    _unaccounted = 0  # bytes since a head, a piece of a body or a message ended
    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _answered: RequestResponseCycle | None = None  # the one that the app has; the last one may wait behind it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # As between two requests: balancers open connections before they need them.
        self._late = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(_UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        self.resume_writing()
        for cycle in (self._answered, *(waiting for waiting, _ in self.pipeline)):
            if cycle and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _in_time(self) -> None:
        if self._late:
            self._late.cancel()
            self._late = None

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._unaccounted += len(data)
        rest: bytes | None = data
        while rest is not None and not self.transport.is_closing():
            rest = self._parse(rest)
        if self._unaccounted > _HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HeadTooLarge(limit=_HEAD_BYTES))

    def _parse(self, data: bytes) -> bytes | None:
        """What is still to be parsed."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._declined(rest=data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(BadRequest())
        return None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_time()
        self._late = self.loop.call_later(_HEAD_SECONDS, self.timeout_keep_alive_handler)

    def on_headers_complete(self) -> None:
        self._in_time()
        self._unaccounted = 0
        self._woken = self.loop.time()
        self._piece_bytes = max(_LEAST_PIECE_BYTES, min(_MOST_PIECE_BYTES, _PIECES_BYTES // len(self.connections)))
        super().on_headers_complete()
        self.headers = []  # where trailers go, and are forgotten

    def on_body(self, body: bytes) -> None:
        self._unaccounted = 0
        cycle = self.cycle
        if (self.parser.should_upgrade() and self._should_upgrade()) or cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) >= self._piece_bytes:
            self.flow.pause_reading()
        elif self.loop.time() - self._woken <= PIECE_SECONDS:
            return
        self._woken = self.loop.time()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._unaccounted = 0
        super().on_message_complete()

    def _should_upgrade(self) -> bool:
        """Whether uvicorn leaves the request, whose head has been parsed, to `_parse`."""
        return self.scope["method"] != "CONNECT"

    def _declined(self, rest: bytes) -> bytes | None:
        """The request without the offer, to be parsed anew; the parser has stopped before its body."""
        if not self._should_upgrade():
            return None
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        for name, value in self.scope["headers"]:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(option for option in options if option.lower() not in _OF_AN_UPGRADE)
            if name not in _OF_AN_UPGRADE:
                lines.append(b"%b: %b" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        return b"\r\n".join(lines) + b"\r\n\r\n" + rest

    def _refuse(self, refusal: Refusal) -> None:
        """Answer in the place of the app, and close."""
        request_id = secrets.token_hex(8)
        body = problems.document(refusal, request_id)
        lines = (
            f"HTTP/1.1 {refusal.status} {refusal.title}",
            f"content-type: {problems.MEDIA_TYPE}",
            f"content-length: {len(body)}",
            f"x-request-id: {request_id}",
            "connection: close",
        )
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self.transport.close()
