"""Bodies are counted as they arrive, and a refusal reaches a client that is still sending."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eyespot.errors import Overloaded, Refusal, UploadStalled
from eyespot.web.gate import header
from eyespot.web.gate.protocol import PIECE_SECONDS

STALLED_SECONDS = 30  # the longest pause within a body

# What a refused client may still send before its connection is closed: with less it would see a reset instead of the
# answer, and without a bound a refusal would be a way to keep a connection busy.
DISCARD_BYTES = 64 * 1024 * 1024
DISCARD_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Limit:
    """The most bytes that one body may have, and that all bodies of its group may have together."""

    bytes: int
    refusal: type[Refusal]
    group: str
    group_bytes: Callable[[Any], int]  # given `app.state.pool`


LimitOf: TypeAlias = Callable[[str, str, int], Limit]
"""Given path, content type and announced bytes, 0 if they are unknown."""


class BodyLimit:
    """Counts bodies as they arrive, whatever Content-Length says.

    All bodies in memory at one time have a limit together, one for each group. A body alone in its group is exempt.
    """

    def __init__(self, app: ASGIApp, limit_of: LimitOf) -> None:
        self.app = app
        self._limit_of = limit_of
        self.held: Counter[str] = Counter()  # bytes by group

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        size = int(header(scope, b"content-length") or 0)
        limit = self._limit_of(scope["path"], header(scope, b"content-type") or "", size)
        body = _Body(limit, self.held, scope, receive, send)
        scope["state"]["count_body_as"] = body.count_as
        try:
            await self.app(scope, body.receive, body.send)
        finally:
            body.release()


class _Body:
    """One body on its way in, and the answer on its way out."""

    def __init__(self, limit: Limit, held: Counter[str], scope: Scope, receive: Receive, send: Send) -> None:
        self._limit = limit
        self._group = limit.group
        self._held = held
        self._pool = scope["app"].state.pool
        self._receive = receive
        self._send = send
        self._announced = int(header(scope, b"content-length") or 0)
        self._complete = not self._announced and header(scope, b"transfer-encoding") is None
        self._bytes = 0

    async def receive(self) -> Message:
        if self._announced > self._limit.bytes:
            raise self._too_large(self._announced)
        message = await (self._receive() if self._complete else _receive_in_time(self._receive))
        self._complete = self._complete or not message.get("more_body", False)  # or the client has disconnected
        if body := message.get("body"):
            self._count(len(body))
        return message

    def _count(self, size: int) -> None:
        limit, pool = self._limit, self._pool
        self._bytes += size
        self._held[self._group] += size
        if self._bytes > limit.bytes:
            raise self._too_large(self._bytes)
        together = limit.group_bytes(pool)
        if self._held[self._group] > max(self._bytes, together):
            seconds = pool.retry_after()
            detail = f"Other requests use all the memory for bodies; try again in {seconds} s."
            raise Overloaded(detail, limit=together, retry_after=seconds)

    def _too_large(self, size: int) -> Refusal:
        limit = self._limit.bytes
        detail = f"The body has at least {size:,} bytes; the limit is {limit:,}."
        return self._limit.refusal(detail, limit=limit, value=size)

    def count_as(self, group: str) -> None:
        """Count this body, which has arrived, among those of another group."""
        self._held[self._group] -= self._bytes
        self._held[group] += self._bytes
        self._group = group

    def release(self) -> None:
        self._held[self._group] -= self._bytes
        self._bytes = 0

    async def send(self, message: Message) -> None:
        starts = message["type"] == "http.response.start"
        if starts and not self._complete:
            MutableHeaders(scope=message)["Connection"] = "close"
        if self._complete or starts or message.get("more_body", False):
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        self.release()
        await _discard(self._receive)
        await self._send({"type": "http.response.body", "body": b""})


async def _receive_in_time(receive: Receive) -> Message:
    """Like `asyncio.timeout` around `receive`, at a third of the cost; every piece of a body pays it."""
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
        if not stalled or task.uncancel():  # cancelled by something else
            raise
        detail = f"The upload stalled: no bytes for {STALLED_SECONDS:g} s; send it again."
        raise UploadStalled(detail, limit=STALLED_SECONDS) from error
    finally:
        timer.cancel()


async def _discard(receive: Receive) -> None:
    """Read and drop what the client still sends, up to a bound."""
    left, more = DISCARD_BYTES, True
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while more and left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                more = message.get("more_body", False)
