"""One call in the worker pool, and the callers that wait for its result."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from copy import copy
from typing import Any, Generic, TypeAlias, TypeVar

from eyespot.errors import DeadlineExceeded, Draining, Refusal

T = TypeVar("T")
Clock: TypeAlias = Callable[[], float]
Disconnected: TypeAlias = Callable[[], Awaitable[object]]
"""Returns when the client has closed its connection."""


class ClientDisconnected(Exception):
    """The client closed its connection before its answer was ready."""


class NotStarted(Exception):
    """A worker dropped the job: every caller had left, or the deadline had passed."""


class Job(Generic[T]):
    """An admitted call. Any number of callers may wait for its result, each until its own deadline.

    A worker starts it only while at least one caller still waits. The caller that submitted it counts as one.
    """

    def __init__(self, deadline_seconds: float, lock: threading.Lock, clock: Clock) -> None:
        self.future: Future[T]  # set by the pool
        # Set by the pool, in the event loop, when `future` is done. `asyncio.wrap_future` would also copy the outcome:
        # 15 µs per job.
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.started: float | None = None  # clock time
        self.waiters = 1
        self._deadline_seconds = deadline_seconds
        self._start_by = clock() + deadline_seconds
        self._lock = lock
        self._clock = clock

    def join(self) -> bool:
        """Add a caller, whose deadline begins now. False when the job will never start."""
        with self._lock:
            if self.started is None and not self._is_wanted():
                return False
            self.waiters += 1
            self._start_by = self._clock() + self._deadline_seconds
            return True

    def start(self) -> bool:
        """Called once, by the worker. False when no caller waits any more, or the last deadline has passed."""
        with self._lock:
            if self._is_wanted():
                self.started = self._clock()
            return self.started is not None

    def _is_wanted(self) -> bool:
        return self.waiters > 0 and self._clock() <= self._start_by

    def on_result(self, callback: Callable[[T], None]) -> None:
        """Call `callback` with the result if the call succeeds, even when every caller has left."""

        def settled(_: object) -> None:
            if not self.future.cancelled() and not self.future.exception():
                callback(self.future.result())

        self.ended.add_done_callback(settled)

    async def result(self, disconnected: Disconnected | None = None) -> T:
        """What the call returned or raised. Each caller, the first one included, must call this once.

        Raises:
            DeadlineExceeded: the deadline passed first.
            ClientDisconnected: `disconnected()` returned first.
            Draining: the pool was closed before the job started.
        """
        watch = asyncio.ensure_future(disconnected()) if disconnected else None
        awaited: list[asyncio.Future[Any]] = [self.ended, watch] if watch else [self.ended]
        try:
            # A caller never cancels the job: its place belongs to the thread.
            await asyncio.wait(awaited, timeout=self._deadline_seconds, return_when=asyncio.FIRST_COMPLETED)
            if self.ended.done():
                return self._outcome()
            if watch and watch.done():
                raise ClientDisconnected
        finally:
            with self._lock:
                self.waiters -= 1
            if watch:
                watch.cancel()
        raise self._late()

    def _outcome(self) -> T:
        if self.future.cancelled():
            raise Draining(retry_after=1)
        error = self.future.exception()
        if isinstance(error, NotStarted):
            raise self._late()
        if isinstance(error, Refusal):
            raise copy(error)  # one traceback shared by all callers would keep all their images in memory
        return self.future.result()

    def _late(self) -> DeadlineExceeded:
        limit = self._deadline_seconds
        return DeadlineExceeded(f"The image was not recognised within {limit:g} s.", limit=limit)
