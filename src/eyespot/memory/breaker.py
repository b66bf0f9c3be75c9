"""A server elsewhere that one can do without, and that may be slow or gone."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from eyespot.telemetry import event

T = TypeVar("T")

TIMEOUT_SECONDS = 0.05  # that whoever asks waits for it
COOLDOWN_SECONDS = 1  # for which it is left alone when it did not answer


class StoreUnavailable(Exception):
    """It did not answer, or has not answered lately."""


class CircuitBreaker:
    """Asks it, for 50 ms at most; one that does not answer is left alone for a second, and then tried by one request.

    Says so in the events `{name}_lost` and `{name}_found`.
    """

    def __init__(self, name: str) -> None:
        self.lost: str | None = None  # why
        self._name = name
        self._alone_until = -math.inf  # as time.monotonic() has it
        self._asked: set[asyncio.Task[Any]] = set()

    @property
    def is_left_alone(self) -> bool:
        """Whether it is no use to ask now."""
        return time.monotonic() < self._alone_until

    async def ask(self, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `question()` returns.

        Raises:
            StoreUnavailable: it raised something, or takes too long.
        """
        if self.is_left_alone:
            raise StoreUnavailable
        if self.lost:
            self._alone_until = time.monotonic() + COOLDOWN_SECONDS  # so that no other request waits for it
        # What is late goes on, or a server to which it takes longer to connect would never be connected to.
        asked = asyncio.create_task(question())
        self._asked.add(asked)
        asked.add_done_callback(self._ended)
        await asyncio.wait({asked}, timeout=TIMEOUT_SECONDS)
        error = asked.exception() if asked.done() else TimeoutError(f"no answer within {TIMEOUT_SECONDS * 1000:g} ms")
        if error:
            self._lose(error)
            raise StoreUnavailable from error
        if self.lost:
            self.lost, self._alone_until = None, -math.inf
            event(f"{self._name}_found")
        return asked.result()

    def _lose(self, error: BaseException) -> None:
        reason = str(error) or type(error).__name__
        if not self.lost:
            event(f"{self._name}_lost", logging.WARNING, reason=reason)
        self.lost = reason
        self._alone_until = time.monotonic() + COOLDOWN_SECONDS

    def _ended(self, asked: asyncio.Task[Any]) -> None:
        self._asked.discard(asked)
        if not asked.cancelled():
            asked.exception()  # asyncio complains of one that nobody asked for

    async def close(self) -> None:
        """Give up what is still being asked."""
        for asked in self._asked:
            asked.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)
