"""How many at once: threads behind a bounded queue, and the plan of how many threads."""

import asyncio
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from eyespot.errors import DeadlineExceeded, Draining, Overloaded, Refusal
from eyespot.telemetry import Metrics

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """`workers` images are seen to at once; the engine computes `streams` of them, each with `threads` threads.

    An image that is alone gets `latency_threads`.
    """

    workers: int
    streams: int
    threads: int
    latency_threads: int


_MAX_BOOKED_SECONDS = 30  # or who never comes back would send away for ever those who would
MAX_LATENCY_THREADS = (
    16  # a layer of a small network takes some 100 µs then, and waiting for each other a good part of it
)


def plan(workers: int | None = None, threads: int | None = None, cpus: int | None = None) -> Plan:
    """How the CPUs that this process may use are used up, and no more.

    Busy, each core computes an image of its own: one thread a stream, since many images at once need no talk between
    the cores. One more worker than streams decodes meanwhile, so that no core waits for an image.
    Idle, one image gets all the cores.
    """
    cpus = cpus or available_cpus()
    if workers is None:
        threads = threads or 1
        streams = max(1, cpus // threads)
        return Plan(streams + 1, streams, threads, _latency(streams, threads, cpus))
    threads = threads or max(1, cpus // workers)
    return Plan(workers, workers, threads, _latency(workers, threads, cpus))


def _latency(streams: int, threads: int, cpus: int) -> int:
    return max(threads, min(cpus, streams * threads, MAX_LATENCY_THREADS))


def available_cpus(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may use: the affinity mask, cut to the cgroup's quota rounded up.

    Never `os.cpu_count()`, which is the machine's and makes a small container on a large host throttle itself.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min(_quotas(proc, cgroups), default=math.inf)
    return max(1, min(affinity, math.ceil(quota)) if quota < math.inf else affinity)


def _quotas(proc: Path, cgroups: Path) -> list[float]:
    """The quotas, in CPUs, of this process's cgroup and of those above it: `cpu.max` (v2), `cpu.cfs_*` (v1)."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups if not controllers else cgroups / "cpu"
        here = root / path.lstrip("/")
        # Inside a container the path is often the host's; then only the root of the mount exists, and it is ours.
        for folder in (here, *here.parents):
            if folder.is_relative_to(root):
                quotas += [_quota_v2(folder)] if not controllers else [_quota_v1(folder)]
    return [quota for quota in quotas if quota]


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError):
        return None


class ClientDisconnected(Exception):
    """Whoever waited for a call is gone."""


class _NotBegun(Exception):
    """The call's turn came too late, or nobody waited for it any more."""


class Job(Generic[T]):
    """One admitted call: it has a place, and as many may wait for its result as care to.

    Each waits for the deadline at most. It is begun as long as one of them still waits.
    """

    def __init__(self, deadline_seconds: float, lock: threading.Lock) -> None:
        self.future: asyncio.Future[T]
        self.started: float | None = None  # as time.monotonic() has it, like all moments here
        self._deadline_seconds = deadline_seconds
        self._lock = lock
        self._waiting = 1
        self._begun_until = time.monotonic() + deadline_seconds

    def join(self) -> bool:
        """Be one more who waits; False when it is too late for that, since the call will never be begun."""
        with self._lock:
            if self.started is None and not self._is_wanted():
                return False
            self._waiting += 1
            self._begun_until = time.monotonic() + self._deadline_seconds
            return True

    def _is_wanted(self) -> bool:
        return self._waiting > 0 and time.monotonic() <= self._begun_until

    def begin(self) -> float | None:
        """When it begins, which is now, or None when nobody wants it any more; asked by a worker once."""
        with self._lock:
            if self._is_wanted():
                self.started = time.monotonic()
            return self.started

    async def result(self, disconnected: Callable[[], Awaitable[object]] | None = None) -> T:
        """What the call returned or raised, for one of those that wait; to be asked for once by each of them.

        `disconnected()` ends when that one has left.

        Raises:
            DeadlineExceeded: the deadline has passed.
            ClientDisconnected: `disconnected()` ended first.
        """
        departure = [asyncio.ensure_future(disconnected())] if disconnected else []
        awaited: list[asyncio.Future[Any]] = [self.future, *departure]
        try:
            # Only waited for: cancelling the future would free its place while it still stands in the executor's queue.
            await asyncio.wait(awaited, timeout=self._deadline_seconds, return_when=asyncio.FIRST_COMPLETED)
            if self.future.done():
                # Each waiter raises a copy: a traceback leads here, and from here to what the future has.
                if isinstance(error := self.future.exception(), Refusal):
                    raise copy(error)
                return self.future.result()
        except _NotBegun:
            pass
        finally:
            with self._lock:
                self._waiting -= 1
            for task in departure:
                task.cancel()
        if any(task.done() for task in departure):
            raise ClientDisconnected
        limit = self._deadline_seconds
        raise DeadlineExceeded(f"The image was not recognised within {limit:g} s.", limit=limit)


class WorkerPool:
    """Threads behind an admission counter: a place at once or a refusal, and no place is free before its thread is.

    A place is one of `workers + queue`. It is taken by `start` and given back by the future's done-callback, never by
    the waiter, so that a caller who gives up does not let in more work than the threads can carry.

    Batches wait outside: all of them together have `workers` calls here, each of which takes its `batch_turns` in
    the order in which they were asked for. So a batch that is alone has all the threads, no batch is refused for want
    of a place, and another caller stands behind one round of calls at most.
    """

    def __init__(self, workers: int, queue: int, deadline_seconds: float, metrics: Metrics) -> None:
        self.workers = workers
        self.places = workers + queue
        self.draining = False
        self._deadline = deadline_seconds
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(workers, "eyespot-worker")
        self._lock = threading.Lock()
        self.batch_turns = asyncio.Semaphore(workers)
        self._taken = 0  # places
        self._batched = 0  # calls of batches
        self._busy = 0
        self._service_seconds = 0.05  # an exponential mean of what one call takes, from a first guess
        self._last_sign_of_life = time.monotonic()  # when a call last came in or ended
        self._booked_until = 0.0  # when those who were refused are to have come back
        metrics.queue_depth.set_function(lambda: self.waiting)
        metrics.workers_busy.set_function(lambda: self._busy)

    @property
    def waiting(self) -> int:
        """Calls that have been let in, and that no thread has begun."""
        return max(0, self._taken + self._batched - self._busy)

    def is_stuck(self) -> bool:
        """Whether every place has been taken, and nothing has finished, for longer than the deadline."""
        return self._taken >= self.places and time.monotonic() - self._last_sign_of_life > self._deadline

    def retry_after(self) -> int:
        """Seconds, at least 1, until the calls that have places now will have been served."""
        return max(1, math.ceil(self._taken * self._service_seconds / self.workers))

    def start(self, function: Callable[..., T], *args: object, in_batch: bool = False) -> Job[T]:
        """Give `function(*args)` a place, or let it in `in_batch`; whoever starts it is the first to wait for it.

        Raises:
            Overloaded: every place is taken.
            Draining: the pool is closed.
        """
        with self._lock:
            if in_batch:
                self._batched += 1
            elif self._taken >= self.places:
                raise Overloaded(f"All {self.places} places are taken.", limit=self.places, retry_after=self._book())
            else:
                self._taken += 1
            self._last_sign_of_life = time.monotonic()
        call = Job[T](self._deadline, self._lock)
        try:
            future = self._executor.submit(self._begin, call, function, *args)
        except RuntimeError as error:  # the executor was shut down
            self._give_back(in_batch)
            raise Draining(retry_after=self.retry_after()) from error
        future.add_done_callback(lambda _: self._give_back(in_batch))
        call.future = asyncio.wrap_future(future)
        # Nobody else looks at it when the callers have left, and asyncio reports an exception that nobody looked at.
        call.future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return call

    def _book(self) -> int:
        """Seconds until whoever is refused now should come back: behind those who were refused before.

        Or all who were refused in one second would come back in the same second, and most of them for nothing. Half the
        time is booked for each: with all of it places stood empty, since some come late and some never.
        """
        now, each = time.monotonic(), self._service_seconds / self.workers
        self._booked_until = min(
            max(self._booked_until, now + self._taken * each) + each / 2, now + _MAX_BOOKED_SECONDS
        )
        return max(1, math.ceil(self._booked_until - now))

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """The result of `function(*args)` from a worker thread; raises what `start` and `Call.result` do."""
        return await self.start(function, *args).result()

    def _begin(self, call: Job[T], function: Callable[..., T], *args: object) -> T:
        started = call.begin()
        if started is None:
            self._metrics.cancelled.inc()
            raise _NotBegun
        with self._lock:
            self._busy += 1
        try:
            return function(*args)
        except Refusal as refusal:
            # Or its traceback would lead to the image, and by the call to itself: a cycle, which the garbage collector
            # finds after hundreds of refused images.
            del call, function, args
            raise refusal.with_traceback(None) from None
        finally:
            seconds = time.monotonic() - started
            with self._lock:
                self._busy -= 1
                self._service_seconds += 0.1 * (seconds - self._service_seconds)

    def _give_back(self, in_batch: bool) -> None:
        with self._lock:
            if in_batch:
                self._batched -= 1
            else:
                self._taken -= 1
            self._last_sign_of_life = time.monotonic()

    def close(self) -> None:
        """Let what has begun finish, and begin nothing more."""
        self.draining = True
        self._executor.shutdown(wait=True, cancel_futures=True)
