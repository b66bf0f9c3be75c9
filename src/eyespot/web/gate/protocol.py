"""HTTP/1.1 as uvicorn speaks it, but for what it gets wrong, does too often, or lets clients do."""

import asyncio
import re
import secrets
import time
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from eyespot.errors import BadRequest, HeadTooLarge, Refusal
from eyespot.web.gate import problems

PIECE_SECONDS = 1  # after which a request is told of what there is of its body, so that slow and gone can be told apart
# Of a body, for which a request is woken, where uvicorn wakes it for whatever arrives. These bytes are not counted
# until then, so that on many connections they are fewer: 64 MiB together, or the 64 KiB of each that uvicorn takes.
_MOST_PIECE_BYTES, _LEAST_PIECE_BYTES, _PIECES_BYTES = 256 * 1024, 64 * 1024, 64 * 1024 * 1024
_HEAD_BYTES = 64 * 1024  # of a head, of trailers, of whatever else comes between bodies
# Parsed at once outside a body. The parser does not say where in its input a head ended, so what follows in the same
# step is not counted: a head behind another one may be that much larger.
_STEP_BYTES = 4 * 1024
_HEAD_SECONDS = 30  # for which a client may take to send a head
_UNREAD_SECONDS = 30  # for which a client may take nothing of an answer that fills the buffers on its way
_OF_AN_UPGRADE = {b"upgrade", b"http2-settings"}
_HOST = re.compile(rb"(\[[0-9A-Za-z:.]+\]|[\w.~!$&'()*+,;=%-]*)(:[0-9]*)?")  # RFC 9110, 7.2; it may be empty


class Protocol(HttpToolsProtocol):
    """One connection.

    A request that offers to go on in another protocol is answered in this one (RFC 9110, 7.8). Java's own client offers
    h2c with its first request, and uvicorn drops the body of such a request. What is no HTTP gets a problem.

    Heads are bounded in size and time, and so is a client that does not read: what it has sent, a batch say, would be
    held for ever. Trailers are thrown away: uvicorn adds them to the headers, where a client could pretend to be
    somebody else behind a proxy that looks at heads only.

    Neither base class is a documented API of uvicorn: any release may change what is overridden or read here.
    """

    _woken = 0.0  # when the request was last told of its body, as the loop has it
    _piece_bytes = _MOST_PIECE_BYTES
    _unaccounted = 0  # bytes since a head, a piece of a body or a message ended
    _body_left = 0  # bytes of a body with Content-Length that are still to come; of one in chunks, nothing is known
    _hosts: list[bytes] | None = None  # of the request before, which have been checked
    _refusal: Refusal | None = None  # of what was sent last; nothing after it is read
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
        rest = data if len(data) <= _STEP_BYTES else memoryview(data)
        while rest and not self._refusal and not self.transport.is_closing():
            if self._unaccounted >= _HEAD_BYTES:
                self._refuse(HeadTooLarge(limit=_HEAD_BYTES))
                return
            size = self._body_left if self._body_left > 0 else min(_STEP_BYTES, _HEAD_BYTES - self._unaccounted)
            step: bytes | memoryview | None = rest[:size]
            self._unaccounted += min(size, len(rest))
            rest = rest[size:]
            while step:
                step = self._parse(step)

    def _parse(self, step: bytes | memoryview) -> bytes | None:
        """What is to be parsed in its place: a request without its offer, and what follows."""
        try:
            self.parser.feed_data(step)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                return self._declined() + step[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            ours = error.__context__  # what a callback raised
            self._refuse(ours if isinstance(ours, Refusal) else BadRequest())
        return None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_time()
        self._late = self.loop.call_later(_HEAD_SECONDS, self.timeout_keep_alive_handler)

    def on_headers_complete(self) -> None:
        self._in_time()
        self._unaccounted = 0
        self._read_framing()
        self.scope["state"]["arrived"] = time.monotonic()  # it may wait behind others
        self._woken = self.loop.time()
        self._piece_bytes = max(_LEAST_PIECE_BYTES, min(_MOST_PIECE_BYTES, _PIECES_BYTES // len(self.connections)))
        super().on_headers_complete()
        self.headers = []  # where trailers go, and are forgotten

    def _read_framing(self) -> None:
        """Take the length of the body, and check the Host.

        Raises:
            BadRequest: there is none, there are several, or it is no host (RFC 9112, 3.2).
        """
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):  # which the parser lets pass
            raise BadRequest(f"HTTP/{version} is not spoken here; HTTP/1.1 is.")
        hosts, self._body_left = [], 0
        for name, value in self.headers:
            if name == b"host":
                hosts.append(value)
            elif name == b"content-length":
                self._body_left = int(value)
        if hosts == self._hosts:
            return
        if len(hosts) > 1 or (not hosts and version == "1.1"):
            raise BadRequest(f"A request needs one Host header; this one has {len(hosts) or 'none'}.")
        if hosts and not _HOST.fullmatch(hosts[0]):
            raise BadRequest("The Host header must be a host name or address, with or without a port.")
        self._hosts = hosts or None

    def on_body(self, body: bytes) -> None:
        self._unaccounted = 0
        self._body_left -= len(body)
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

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._refusal and self._is_next() and not self.transport.is_closing():
            self._answer(self._refusal)

    def _should_upgrade(self) -> bool:
        """Whether uvicorn leaves the request, whose head has been parsed, to `_parse`."""
        return self.scope["method"] != "CONNECT"

    def _declined(self) -> bytes:
        """The head without the offer, to be parsed anew; the parser has stopped before the body."""
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
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _refuse(self, refusal: Refusal) -> None:
        """Answer in place of the app after all earlier requests, and close."""
        self._refusal = refusal
        self._in_time()
        if self.pipeline and self.pipeline[0][0].more_body:  # it is refused for its own body
            self.pipeline.popleft()
        if self._is_next():
            self._answer(refusal)

    def _is_next(self) -> bool:
        """Whether the client expects the refusal next, all earlier answers being complete."""
        running = self._answered
        return running is None or running.response_complete or (running.more_body and not self.pipeline)

    def _answer(self, refusal: Refusal) -> None:
        running = self._answered
        if not (running and running.response_started and not running.response_complete):
            request_id = secrets.token_hex(8)
            body = problems.document(refusal, request_id)
            lines = (
                f"HTTP/1.1 {refusal.status} {refusal.title}",
                f"content-type: {problems.MEDIA_TYPE}",
                f"content-length: {len(body)}",
                f"x-request-id: {request_id}",
                "x-content-type-options: nosniff",
                "connection: close",
            )
            self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self.transport.close()
