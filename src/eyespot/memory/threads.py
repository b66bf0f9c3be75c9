"""Threads for blocking calls, with a bounded queue."""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Busy(Exception):
    """Too many calls are waiting, or all threads hang."""


class BoundedThreads:
    """`threads` threads, and at most `max_waiting` calls that wait for one.

    A thread becomes free when its call returns, not when the caller gives up.
    """

    def __init__(self, name: str, threads: int, max_waiting: int, hang_seconds: float = math.inf) -> None:
        self._executor = ThreadPoolExecutor(threads, name)
        self._free = asyncio.Semaphore(threads)
        self._waiting = 0
        self._max_waiting = max_waiting
        self._hang_seconds = hang_seconds
        self._last_progress = time.monotonic()

    @property
    def hang(self) -> bool:
        """Whether all threads are busy and no call has begun or ended for `hang_seconds`."""
        return self._free.locked() and time.monotonic() - self._last_progress > self._hang_seconds

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """What `function(*args)` returns. Cancelling drops a call that is waiting; one that has begun goes on.

        Raises:
            Busy: the call was not begun.
        """
        if self.hang:
            raise Busy("the threads hang")
        if self._waiting >= self._max_waiting:
            raise Busy(f"{self._waiting} others are waiting")
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        self._last_progress = time.monotonic()
        call = asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
        call.add_done_callback(self._ended)
        await asyncio.wait({call})
        return call.result()

    def _ended(self, call: asyncio.Future[Any]) -> None:
        self._last_progress = time.monotonic()
        self._free.release()
        if not call.cancelled():
            call.exception()  # or asyncio logs that nobody retrieved it

    def close(self) -> None:
        """Begin no more calls, and wait for none."""
        self._executor.shutdown(wait=False, cancel_futures=True)
