"""Spaces out refusals when they come in a flood."""

import asyncio
import time
from collections.abc import Awaitable, Callable

_PER_SECOND = 50
_BURST = 50
_MAX_SECONDS = 4


class Pace:
    """A queue of refusals that moves at a fixed rate, after a burst that is answered at once.

    A client that ignores Retry-After asks again as soon as it is refused. Answered at once, 300 of those took 40 % of
    the CPU that the admitted images need.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._next = 0.0  # when a refusal that comes now is answered, unless it is within the burst

    async def turn(self) -> None:
        """Return when it is this refusal's turn, after 4 s at most."""
        now = self._clock()
        self._next = min(max(self._next, now - _BURST / _PER_SECOND) + 1 / _PER_SECOND, now + _MAX_SECONDS)
        if self._next > now:
            await self._sleep(self._next - now)
