"""When images were deleted, so that a request from before does not bring one back."""

import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager


class Deletions:
    """The most recent deletions by sha256, 250 bytes each. Thread-safe.

    For a request that began before the oldest of them, every image counts as deleted.
    """

    def __init__(self, max_remembered: int = 10_000) -> None:
        self._max_remembered = max_remembered
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._ended: OrderedDict[str, float] = OrderedDict()  # time.monotonic(), oldest first
        self._forgotten = -math.inf  # when the last deletion that is not remembered ended

    @contextmanager
    def running(self, sha256: str) -> Iterator[None]:
        """The time of one deletion. The image counts as deleted for requests that began before the end."""
        with self._lock:
            self._running[sha256] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= Counter([sha256])  # drops it at zero
                self._ended[sha256] = time.monotonic()
                self._ended.move_to_end(sha256)
                if len(self._ended) > self._max_remembered:
                    _, self._forgotten = self._ended.popitem(last=False)

    def since(self, sha256: str, moment: float) -> bool:
        """Whether an image is being deleted, or was at or after a moment of time.monotonic()."""
        with self._lock:
            return sha256 in self._running or self._ended.get(sha256, self._forgotten) >= moment
