"""One call in the worker pool, and the callers that wait for its result."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Any, Generic, TypeAlias, TypeVar

from eyespot.errors import DeadlineExceeded, Refusal

T = TypeVar("T")
Clock: TypeAlias = Callable[[], float]
Disconnected: TypeAlias = Callable[[], Awaitable[object]]
"""Returns when the client has closed its connection."""


class ClientDisconnected(Exception):
    """The client closed its connection before its answer was ready."""


class NotStarted(Exception):
    """The job's turn came after its deadline, or after its last client had left."""


class Job(Generic[T]):
    """An admitted call. Any number of callers may wait for its result, each until its own deadline.

    It is started only while at least one of them still waits.
    """

    def __init__(self, deadline_seconds: float, lock: threading.Lock, clock: Clock) -> None:
        self.future: asyncio.Future[T]
        self.started: float | None = None  # by the clock
        self._deadline_seconds = deadline_seconds
        self._lock = lock
        self._clock = clock
        self.waiters = 1
        self._start_by = clock() + deadline_seconds

    def join(self) -> bool:
        """Add a waiter. False when the job will never start: its last waiter left, or its deadline passed."""
        with self._lock:
            if self.started is None and not self._is_wanted():
                return False
            self.waiters += 1
            self._start_by = self._clock() + self._deadline_seconds
            return True

    def start(self) -> bool:
        """Called once, by the worker. False when nobody waits any more."""
        with self._lock:
            if self._is_wanted():
                self.started = self._clock()
            return self.started is not None

    def on_result(self, callback: Callable[[T], None]) -> None:
        """Call `callback` with the result, unless the call fails."""
        self.future.add_done_callback(
            lambda done: None if done.cancelled() or done.exception() else callback(done.result())
        )

    def _is_wanted(self) -> bool:
        return self.waiters > 0 and self._clock() <= self._start_by

    async def result(self, disconnected: Disconnected | None = None) -> T:
        """What the call returned or raised. Each waiter calls this once.

        Raises:
            DeadlineExceeded: the deadline passed first.
            ClientDisconnected: `disconnected()` returned first.
        """
        leaving = [asyncio.ensure_future(disconnected())] if disconnected else []
        awaited: list[asyncio.Future[Any]] = [self.future, *leaving]
        try:
            # The future is never cancelled: its place belongs to the thread, not to this waiter.
            await asyncio.wait(awaited, timeout=self._deadline_seconds, return_when=asyncio.FIRST_COMPLETED)
            if self.future.done():
                # Each waiter raises a copy: a shared traceback would keep every waiter's image in memory.
                if isinstance(error := self.future.exception(), Refusal):
                    raise copy(error)
                return self.future.result()
        except NotStarted:
            pass
        finally:
            with self._lock:
                self.waiters -= 1
            for task in leaving:
                task.cancel()
        if any(task.done() for task in leaving):
            raise ClientDisconnected
        raise DeadlineExceeded(
            f"The image was not recognised within {self._deadline_seconds:g} s.", limit=self._deadline_seconds
        )
