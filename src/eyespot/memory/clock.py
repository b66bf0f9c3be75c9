"""A UTC clock for ages, which does not jump when the system clock is set."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the former counts while the system is suspended


class SteadyClock:
    """The system clock at the start plus the seconds since, or the system clock if that is earlier.

    So a clock set forward makes nothing old, and one set back only keeps things longer.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = lambda: time.clock_gettime(_BOOTTIME),
    ) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._offset = wall() - elapsed()

    def __call__(self) -> datetime:
        return datetime.fromtimestamp(min(self._offset + self._elapsed(), self._wall()), UTC)
