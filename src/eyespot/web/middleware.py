"""Plain ASGI around every request: its id, its time, its log line, and the counting of its body."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eyespot.errors import Draining, Internal, Overloaded, Refusal, UploadStalled
from eyespot.telemetry import event
from eyespot.web import problems

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
CLIENT_LEFT = 499  # nginx's status for a client that closed the connection; nobody sees it but the log
_UNLOGGED = {"/livez", "/readyz", "/metrics"}

# What a refused client may still send before the connection closes under it: less, and it would see a reset in place of
# the answer; without a bound, a refusal would be a way to keep a connection busy.
DISCARD_BYTES = 64 * 1024 * 1024
DISCARD_SECONDS = 10

STALLED_SECONDS = 30  # the longest that a client may pause within a body

BodyLimit = Callable[[str], tuple[int, Callable[[int], Refusal]]]
"""From a content type: the bytes that such a body may have, and the refusal of one that has more."""


class RequestContext:
    """Outermost: gives the request an id, answers what nobody else caught, and tells log and metrics of the end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id = _request_id(Headers(scope=scope).get("x-request-id"))
        state["facts"] = {}
        recognizer = scope["app"].state.recognizer
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                if recognizer.pool.draining:
                    headers["Connection"] = "close"
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except asyncio.CancelledError:  # the server has stopped waiting for this request
            if not status:
                await problems.response(Request(scope), Draining(retry_after=1))(scope, receive, answer)
        except ClientDisconnect:
            pass  # in the middle of its body; 499 below
        except Exception as error:
            event("request_failed", logging.ERROR, exc_info=error, request_id=request_id)
            if not status:
                await problems.response(Request(scope), Internal())(scope, receive, answer)
        finally:
            seconds = time.monotonic() - started
            status = status or CLIENT_LEFT
            route = getattr(scope.get("route"), "path", "unmatched")
            recognizer.metrics.requests.labels(route, status).inc()
            recognizer.metrics.request_seconds.labels(route).observe(seconds)
            if route not in _UNLOGGED:
                client = scope["client"][0] if scope.get("client") else None
                facts = {"method": scope["method"], "route": route, "status": status, "ms": round(seconds * 1000, 1)}
                event("request_answered", **facts, client=client, request_id=request_id, **state["facts"])


def _request_id(given: str | None) -> str:
    """The caller's own id when it cannot break a log line, otherwise a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


class BoundedBody:
    """Counts bodies as they arrive, whatever Content-Length says; lets a refusal reach a client that still sends.

    Each has its limit, and all that are held at one time have one together: `max_bytes` for each place of the pool.
    More could not be admitted anyway, and would only take memory. A body that is alone is not held to the second.
    """

    def __init__(self, app: ASGIApp, limit: BodyLimit, max_bytes: int) -> None:
        self.app = app
        self.limit = limit
        self._max_bytes = max_bytes
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit, refusal = self.limit(headers.get("content-type", ""))
        announced = int(headers.get("content-length") or 0)
        pool = scope["app"].state.recognizer.pool
        arrived = 0
        whole = not announced and "transfer-encoding" not in headers

        async def counted() -> Message:
            nonlocal arrived, whole
            if announced > limit:
                raise refusal(announced)
            message = await (receive() if whole else _receive_in_time(receive))
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                arrived += size
                self._held += size
                whole = whole or not message.get("more_body", False)
                if arrived > limit:
                    raise refusal(arrived)
                if self._held > max(arrived, pool.places * self._max_bytes):
                    raise Overloaded(
                        "The bodies of other requests take all the room that there is.",
                        limit=pool.places * self._max_bytes,
                        retry_after=pool.retry_after(),
                    )
            else:
                whole = True  # the client has left
            return message

        async def answer(message: Message) -> None:
            nonlocal arrived
            if whole:
                await send(message)
            elif message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"
                await send(message)
            elif message.get("more_body", False):
                await send(message)
            else:
                await send({**message, "more_body": True})
                self._held -= arrived
                arrived = 0
                await _discard(receive)
                await send({"type": "http.response.body", "body": b""})

        try:
            await self.app(scope, counted, answer)
        finally:
            self._held -= arrived


async def _receive_in_time(receive: Receive) -> Message:
    try:
        async with asyncio.timeout(STALLED_SECONDS):
            return await receive()
    except TimeoutError as error:
        raise UploadStalled(
            f"Nothing more of the body arrived for {STALLED_SECONDS:g} s.", limit=STALLED_SECONDS
        ) from error


async def _discard(receive: Receive) -> None:
    """Read and throw away what the client still sends, up to a bound."""
    left = DISCARD_BYTES
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
