"""The images of one request, recognised concurrently."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from fastapi import Request

from eyespot.errors import Internal, Refusal
from eyespot.job import ClientDisconnected
from eyespot.telemetry import Trace, event
from eyespot.web.api.image import Item

T = TypeVar("T")
Work: TypeAlias = Callable[[Item, Trace], Awaitable[T]]
"""The work on one image, timed in a trace of its own."""


async def each(request: Request, items: deque[Item], work: Work[T]) -> AsyncGenerator[tuple[Item, T | Refusal], None]:
    """Each image with the result of `work`, or why there is none, as it is done. Raises `ClientDisconnected`.

    An image's bytes are released with its result. Closing it early cancels the images in progress, and begins no other.
    """
    # More than the batch lane admits: meanwhile the others are decoded from base64, looked up and audited.
    at_once = 2 * request.app.state.pool.workers
    disconnected: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
    running: set[asyncio.Future[Any]] = set()
    try:
        while items or running:
            while items and len(running) < at_once:
                running.add(asyncio.create_task(_one(request, items.popleft(), work)))
            done, _ = await asyncio.wait({disconnected, *running}, return_when=asyncio.FIRST_COMPLETED)
            if disconnected in done:
                raise ClientDisconnected
            running -= done
            for task in done:
                yield task.result()
    finally:
        for task in (disconnected, *running):
            task.cancel()


async def _one(request: Request, item: Item, work: Work[T]) -> tuple[Item, T | Refusal]:
    """One image, with a trace of its own under the request's id; whatever happens to it, the others go on."""
    trace: Trace = request.state.trace.image(item.index)
    try:
        return item, await work(item, trace)
    except Refusal as refusal:
        trace.code = refusal.code
        return item, refusal.with_traceback(None)  # whose frames hold the image
    except Exception as error:
        trace.code = Internal.code
        event("request_failed", logging.ERROR, exc_info=error, request_id=trace.request_id, index=item.index)
        return item, Internal()
    finally:
        request.app.state.metrics.observe_steps(trace.steps)
