"""HTTP/1.1 as uvicorn speaks it, but for two things that it gets wrong and one that it does too often."""

import secrets

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from eyespot.errors import BadRequest
from eyespot.web import problems

_OF_AN_UPGRADE = {b"upgrade", b"http2-settings"}
_PIECE_BYTES = 256 * 1024  # of a body, for which a request is woken; uvicorn wakes it for whatever arrives
_PIECE_SECONDS = 1  # after which it is woken for less, so that it can tell a slow client from one that is gone


class Protocol(HttpToolsProtocol):
    """One connection.

    A request that offers to go on in another protocol is answered in this one (RFC 9110, 7.8). Java's own client offers
    h2c with its first request, and uvicorn drops the body of such a request. What is no HTTP gets a problem.
    """

    _woken = 0.0  # when the request was last told of its body, as the loop has it

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline(rest=data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    def on_headers_complete(self) -> None:
        self._woken = self.loop.time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if (self.parser.should_upgrade() and self._should_upgrade()) or cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) >= _PIECE_BYTES:
            self.flow.pause_reading()
        elif self.loop.time() - self._woken <= _PIECE_SECONDS:
            return
        self._woken = self.loop.time()
        cycle.message_event.set()

    def _should_upgrade(self) -> bool:
        """Whether uvicorn leaves the request, whose head has been parsed, to `data_received`."""
        return self.scope["method"] != "CONNECT"

    def _decline(self, rest: bytes) -> None:
        """Parse the request anew, without the offer; the parser has stopped before its body."""
        if not self._should_upgrade():
            return
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(option for option in options if option.lower() not in _OF_AN_UPGRADE)
            if name not in _OF_AN_UPGRADE:
                lines.append(b"%b: %b" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        refusal = BadRequest()
        body = problems.document(refusal, secrets.token_hex(8))
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: {problems.MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
        self.transport.close()
