"""How old something is, whatever is done to the clock meanwhile."""

import time
from datetime import UTC, datetime
from functools import partial


class SteadyClock:
    """UTC for the judgement of ages: the clock as it was at the start, and the seconds since then.

    A clock that is set forward must not make old what is young; one that is set back only keeps things for longer.
    """

    def __init__(self) -> None:
        # Counts through a suspension too, where the system has such a clock.
        self._elapsed = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
        self._offset = time.time() - self._elapsed()

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(min(self._offset + self._elapsed(), time.time()), UTC)
