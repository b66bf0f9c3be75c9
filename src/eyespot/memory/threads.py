"""Threads for blocking calls, with a bounded queue."""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Busy(Exception):
    """Too many calls are waiting, or all threads hang."""


class BoundedThreads:
    """`threads` threads, and at most `max_waiting` calls that wait for one.

    A thread becomes free when its call returns, not when the caller gives up.
    """

    def __init__(self, name: str, threads: int, max_waiting: int, hang_seconds: float = math.inf) -> None:
        self.calls = 0  # running and waiting
        self._threads = threads
        self._max_calls = threads + max_waiting
        self._hang_seconds = hang_seconds
        self._last_progress = -math.inf
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(threads, name)

    @property
    def hang(self) -> bool:
        """Whether all threads are busy and no call has begun or ended for `hang_seconds`."""
        return self.calls >= self._threads and time.monotonic() - self._last_progress > self._hang_seconds

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """What `function(*args)` returns; raises `Busy` if it cannot wait. Cancelling drops a waiting call."""
        if self.hang:
            raise Busy("busy: the threads hang")
        if self.calls >= self._max_calls:
            raise Busy(f"busy with {self.calls} other calls")
        self._count(+1, progress=self.calls < self._threads)
        call = self._executor.submit(function, *args)
        call.add_done_callback(lambda call: self._count(-1, progress=not call.cancelled()))
        return await asyncio.wrap_future(call)

    def _count(self, change: int, progress: bool) -> None:
        with self._lock:
            self.calls += change
            if progress:
                self._last_progress = time.monotonic()

    def close(self) -> None:
        """Begin no more calls, and wait for none."""
        self._executor.shutdown(wait=False, cancel_futures=True)
