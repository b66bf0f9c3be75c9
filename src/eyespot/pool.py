"""How many at once: threads behind a bounded queue, and the plan of how many threads."""

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from eyespot.errors import Draining, Overloaded, TooLate
from eyespot.telemetry import Metrics

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """`workers` images are seen to at once; the engine computes `streams` of them, each with `threads` threads.

    An image that is alone gets `lone_threads`.
    """

    workers: int
    streams: int
    threads: int
    lone_threads: int


MAX_LONE_THREADS = 16  # a layer of a small network takes some 100 µs then, and waiting for each other a good part of it


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
        return Plan(streams + 1, streams, threads, _lone(streams, threads, cpus))
    threads = threads or max(1, cpus // workers)
    return Plan(workers, workers, threads, _lone(workers, threads, cpus))


def _lone(streams: int, threads: int, cpus: int) -> int:
    return max(threads, min(cpus, streams * threads, MAX_LONE_THREADS))


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


@dataclass(slots=True)
class _Ticket:
    """One admitted call, as the caller and the worker both see it."""

    deadline: float
    enqueued: float = field(default_factory=time.monotonic)
    started: float | None = None
    abandoned: bool = False


class _NotBegun(Exception):
    """The call's turn came too late, or its caller had left."""


class WorkerPool:
    """Threads behind an admission counter: a place at once or a refusal, and no place is free before its thread is.

    A place is one of `workers + queue`. It is taken by `run` and given back by the future's done-callback, never by the
    waiter, so that a caller who gives up does not let in more work than the threads can carry.
    """

    def __init__(self, workers: int, queue: int, deadline_seconds: float, metrics: Metrics) -> None:
        self.workers = workers
        self.places = workers + queue
        self.draining = False
        self._deadline = deadline_seconds
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(workers, "eyespot-worker")
        self._lock = threading.Lock()
        self._taken = 0
        self._busy = 0
        self._service_seconds = 0.05  # an exponential mean of what one call takes, from a first guess
        self._last_sign_of_life = time.monotonic()  # when a call last came in or ended
        metrics.queue_depth.set_function(lambda: self.waiting)
        metrics.workers_busy.set_function(lambda: self._busy)

    @property
    def waiting(self) -> int:
        """Calls that have a place, and whose turn has not come."""
        return max(0, self._taken - self._busy)

    def is_stuck(self) -> bool:
        """Whether every place has been taken, and nothing has finished, for longer than the deadline."""
        return self._taken >= self.places and time.monotonic() - self._last_sign_of_life > self._deadline

    def retry_after(self) -> int:
        """Seconds, at least 1, until the calls that have places now will have been served."""
        return max(1, math.ceil(self._taken * self._service_seconds / self.workers))

    async def run(self, function: Callable[..., T], *args: object) -> tuple[T, float]:
        """The result of `function(*args)` from a worker thread, and the seconds that it waited for its turn.

        Raises:
            Overloaded: every place is taken.
            TooLate: the deadline has passed. The call is not begun any more, or its result is thrown away.
            Draining: the pool is closed.
        """
        ticket = _Ticket(time.monotonic() + self._deadline)
        future = asyncio.wrap_future(self._submit(ticket, function, *args))
        # Nobody else looks at it when the caller has left, and asyncio reports an exception that nobody looked at.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            # Shielded: cancelling the future itself would free its place while it still stands in the executor's queue.
            result = await asyncio.wait_for(asyncio.shield(future), self._deadline)
        except (TimeoutError, _NotBegun) as error:
            ticket.abandoned = True
            raise TooLate(f"The image was not recognised within {self._deadline:g} s.", limit=self._deadline) from error
        except asyncio.CancelledError:
            ticket.abandoned = True
            raise
        return result, (ticket.started or ticket.enqueued) - ticket.enqueued

    def _submit(self, ticket: _Ticket, function: Callable[..., T], *args: object) -> Future[T]:
        with self._lock:
            if self._taken >= self.places:
                raise Overloaded(
                    f"All {self.places} places are taken.", limit=self.places, retry_after=self.retry_after()
                )
            self._taken += 1
            self._last_sign_of_life = time.monotonic()
        try:
            future = self._executor.submit(self._begin, ticket, function, *args)
        except RuntimeError as error:  # the executor was shut down
            self._give_back()
            raise Draining(retry_after=self.retry_after()) from error
        future.add_done_callback(self._give_back)
        return future

    def _begin(self, ticket: _Ticket, function: Callable[..., T], *args: object) -> T:
        ticket.started = time.monotonic()
        if ticket.abandoned or ticket.started > ticket.deadline:
            self._metrics.cancelled.inc()
            raise _NotBegun
        with self._lock:
            self._busy += 1
        try:
            return function(*args)
        finally:
            seconds = time.monotonic() - ticket.started
            with self._lock:
                self._busy -= 1
                self._service_seconds += 0.1 * (seconds - self._service_seconds)

    def _give_back(self, _: object = None) -> None:
        with self._lock:
            self._taken -= 1
            self._last_sign_of_life = time.monotonic()

    def close(self) -> None:
        """Let what has begun finish, and begin nothing more."""
        self.draining = True
        self._executor.shutdown(wait=True, cancel_futures=True)
