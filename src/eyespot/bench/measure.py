"""Measures time, rate and memory."""

import resource
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from statistics import median
from threading import Event, Semaphore
from typing import Any, Self


class Threads:
    """While this context lasts, `count` threads add to `results` what `work(number, stop)` yields in each.

    At its end each thread stops after the result it is at, and what a thread raised is raised.
    """

    def __init__(self, count: int, work: Callable[[int, Event], Iterator[Any]]) -> None:
        self.results: list[Any] = []
        self.stop = Event()
        self._warm = Semaphore(0)
        self._pool = ThreadPoolExecutor(count or 1)
        self._futures = [self._pool.submit(self._collect, work(number, self.stop)) for number in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._pool.shutdown()
        for future in self._futures:
            future.result()

    def _collect(self, results: Iterator[Any]) -> None:
        try:
            self.results += islice(results, 1)
        finally:
            self._warm.release()
        for result in results:
            self.results.append(result)
            if self.stop.is_set():
                return

    def wait(self, seconds: float | None = None) -> bool:
        """Wait, at most `seconds`, until all threads have ended or one has failed; False if they still work."""
        return not wait(self._futures, seconds, return_when=FIRST_EXCEPTION).not_done

    def rate(self, seconds: float, counts: Callable[[Any], bool] = lambda _: True) -> float:
        """Results per second for which `counts` is true; each thread's first result is warm-up."""
        for _ in self._futures:
            self._warm.acquire()
        before = len(self.results)
        self.wait(seconds)
        return sum(map(counts, self.results[before:])) / seconds


def median_ms(work: Callable[[], object], seconds: float) -> float:
    """Median milliseconds of `work()`, repeated for `seconds` and at least 3 times."""
    end = time.perf_counter() + seconds
    times = timeit.repeat(work, number=1, repeat=3)
    while time.perf_counter() < end:
        times += timeit.repeat(work, number=1, repeat=1)
    return median(times) * 1000


def resident_mb(process: int | None = None) -> float:
    """Resident memory in MB of a process, by default this one. Raises `OSError` when the process has ended."""
    if process is None and sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    pages = int(Path(f"/proc/{process or 'self'}/statm").read_text().split()[1])
    if not pages:
        raise ProcessLookupError(process)
    return pages * resource.getpagesize() / 1e6
