"""Which images were deleted and when, so that a request from before does not bring one back."""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

_MAX_REMEMBERED = 10_000  # some 250 bytes each


class Deletions:
    """The latest deletions, by sha256. May be used from several threads.

    A bounded number is remembered. To a request that began before the oldest of these, every image counts as deleted.
    """

    def __init__(self, max_remembered: int = _MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._lock = threading.Lock()
        self._under_way: Counter[str] = Counter()
        self._ended: OrderedDict[str, float] = OrderedDict()  # as time.monotonic() has it, oldest first
        self._floor = -float("inf")

    @contextmanager
    def under_way(self, sha256: str) -> Iterator[None]:
        """While an image is deleted, and to every request that began before the end, it counts as deleted."""
        with self._lock:
            self._under_way[sha256] += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way[sha256] -= 1
                if not self._under_way[sha256]:
                    del self._under_way[sha256]
                self._ended[sha256] = time.monotonic()
                self._ended.move_to_end(sha256)
                if len(self._ended) > self._max_remembered:
                    _, self._floor = self._ended.popitem(last=False)

    def since(self, sha256: str, moment: float) -> bool:
        """Whether an image is being deleted, or was at that moment of time.monotonic() or later."""
        with self._lock:
            return sha256 in self._under_way or self._ended.get(sha256, self._floor) >= moment
