"""Plain ASGI around every request: its id, its time, its log line, and the counting of its body."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eyespot.errors import Draining, Internal, Overloaded, Refusal, UploadStalled
from eyespot.pool import WorkerPool
from eyespot.recognizer import Trace
from eyespot.telemetry import Metrics, child, event
from eyespot.web import problems
from eyespot.web.bodies import Bound
from eyespot.web.gate import header
from eyespot.web.gate.protocol import PIECE_SECONDS

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
CLIENT_LEFT = 499  # nginx's status for a client that closed the connection; nobody sees it but the log
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_UNLOGGED = {"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}

# What a refused client may still send before the connection closes under it: less, and it would see a reset in place of
# the answer; without a bound, a refusal would be a way to keep a connection busy.
DISCARD_BYTES = 64 * 1024 * 1024
DISCARD_SECONDS = 10

STALLED_SECONDS = 30  # the longest that a client may pause within a body

BoundOf = Callable[[str, str], Bound]
"""From a path and a content type: the bytes that such a body may have."""


class RequestLog:
    """Outermost: gives the request an id, answers what nobody else caught, and tells log and metrics of the end.

    Every reply says `nosniff`, whichever layer made it.
    """

    def __init__(self, app: ASGIApp, paths: frozenset[str]) -> None:
        """`paths` are those of routes without parameters, for requests that are refused before they are routed."""
        self.app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = request_id = _request_id(header(scope, b"x-request-id"))
        state["facts"] = {}
        state["trace"] = trace = Trace(request_id, scope["client"][0] if scope.get("client") else None)
        trace.started = state.get("arrived", trace.started)  # of a request that a server of ours has read
        recognizer = scope["app"].state.recognizer
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [
                    (b"x-request-id", request_id.encode()),
                    (b"server-timing", _server_timing(trace)),
                    _NOSNIFF,
                ]
                if trace.cache:
                    headers.append((b"x-cache", trace.cache.encode()))
                message["headers"] = [*message["headers"], *headers]
                if recognizer.pool.draining:
                    MutableHeaders(scope=message)["Connection"] = "close"
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
            self._tell(scope, status or CLIENT_LEFT, recognizer.metrics)

    def _tell(self, scope: Scope, status: int, metrics: Metrics) -> None:
        """Metrics and the access line of one request."""
        unrouted = scope["path"] if scope["path"] in self._paths else "unmatched"
        state, route = scope["state"], getattr(scope.get("route"), "path", unrouted)
        trace: Trace = state["trace"]
        seconds = time.monotonic() - trace.started
        child(metrics.requests, route, status).inc()
        child(metrics.request_seconds, route).observe(seconds)
        metrics.observe_steps(trace.steps)
        if route not in _UNLOGGED:
            facts = {"method": scope["method"], "route": route, "status": status, "ms": round(seconds * 1000, 1)}
            if trace.steps:
                facts["steps"] = {step: round(took * 1000, 1) for step, took in trace.steps.items()}
            if trace.cache:
                facts["cache"] = trace.cache
            event("request_answered", **facts, client=trace.address, request_id=state["request_id"], **state["facts"])


def _server_timing(trace: Trace) -> bytes:
    """The steps so far, and all of the time so far, in milliseconds (W3C Server Timing)."""
    total = ("total", time.monotonic() - trace.started)
    return ", ".join(f"{step};dur={took * 1000:.1f}" for step, took in (*trace.steps.items(), total)).encode()


def _request_id(given: str | None) -> str:
    """The caller's own id when it cannot break a log line, otherwise a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


class BoundedBody:
    """Counts bodies as they arrive, whatever Content-Length says; lets a refusal reach a client that still sends.

    Each has its limit, and all that are held at one time have one together: `max_bytes` for each place of the pool.
    More could not be admitted anyway, and would only take memory. Batches have room of their own, for two of them, or
    they would take that of the others. A body that is alone is not held to this.
    """

    def __init__(self, app: ASGIApp, bound: BoundOf, max_bytes: int, batch_max_bytes: int) -> None:
        self.app = app
        self.bound = bound
        self._max_bytes = max_bytes
        self._batch_max_bytes = batch_max_bytes
        self.held = {False: 0, True: 0}  # by whether it is of batches

    def room(self, of_batch: bool, places: int) -> int:
        """Bytes that all bodies of batches, or all others, may take together."""
        return 2 * self._batch_max_bytes if of_batch else places * self._max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(self, scope, receive, send)
        try:
            await self.app(scope, body.receive, body.send)
        finally:
            body.let_go()


class _Body:
    """One body on its way in, and the answer on its way out."""

    def __init__(self, bounds: BoundedBody, scope: Scope, receive: Receive, send: Send) -> None:
        self._bounds = bounds
        self._pool: WorkerPool = scope["app"].state.recognizer.pool
        self._receive = receive
        self._send = send
        self._bound = bounds.bound(scope["path"], header(scope, b"content-type") or "")
        self._announced = int(header(scope, b"content-length") or 0)
        self._whole = not self._announced and header(scope, b"transfer-encoding") is None
        self._held = 0

    async def receive(self) -> Message:
        if self._announced > self._bound.limit:
            raise self._bound.refusal(self._announced)
        message = await (self._receive() if self._whole else _receive_in_time(self._receive))
        if message["type"] == "http.request":
            self._whole = self._whole or not message.get("more_body", False)
            self._hold(len(message.get("body", b"")))
        else:
            self._whole = True  # the client has left
        return message

    def _hold(self, size: int) -> None:
        of_batch, held = self._bound.of_batch, self._bounds.held
        self._held += size
        held[of_batch] += size
        if self._held > self._bound.limit:
            raise self._bound.refusal(self._held)
        room = self._bounds.room(of_batch, self._pool.places)
        if held[of_batch] > max(self._held, room):
            raise Overloaded(
                "The bodies of other requests take all the room that there is.",
                limit=room,
                retry_after=self._pool.retry_after(),
            )

    def let_go(self) -> None:
        self._bounds.held[self._bound.of_batch] -= self._held
        self._held = 0

    async def send(self, message: Message) -> None:
        if self._whole:
            await self._send(message)
        elif message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"
            await self._send(message)
        elif message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            self.let_go()
            await _discard(self._receive)
            await self._send({"type": "http.response.body", "body": b""})


async def _receive_in_time(receive: Receive) -> Message:
    """As `asyncio.timeout` would have it, at a third of its cost, which every piece of a body pays."""
    task, stalled = asyncio.current_task(), False
    assert task

    def stop() -> None:
        nonlocal stalled
        stalled = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(STALLED_SECONDS + PIECE_SECONDS, stop)
    try:
        return await receive()
    except asyncio.CancelledError as error:
        if not stalled or task.uncancel():  # by somebody else
            raise
        raise UploadStalled(
            f"Nothing more of the body arrived for {STALLED_SECONDS:g} s.", limit=STALLED_SECONDS
        ) from error
    finally:
        timer.cancel()


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


class ShortWay:
    """Innermost: goes to some routes directly, which take nothing but the request.

    FastAPI's way there - matching, exit stacks, dependencies - takes a fifth of what an answer from the cache does.
    """

    def __init__(self, app: ASGIApp, routes: list[APIRoute]) -> None:
        self.app = app
        self._routes = {(method, route.path): route for route in routes for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope.get("method", ""), scope.get("path", "")))
        if not route:
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive, send)
        try:
            response: Response = await route.endpoint(request)
        except Refusal as refusal:
            response = problems.response(request, refusal)
        await response(scope, receive, send)
