"""Who gets a worker thread, and when: capacity, the two lanes, twins, deadlines."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeAlias, TypeVar

from eyespot.cpus import Plan as Plan
from eyespot.cpus import available_cpus as available_cpus
from eyespot.cpus import plan as plan
from eyespot.errors import DeadlineExceeded, Draining, Overloaded, Refusal
from eyespot.job import Clock, Disconnected, Job, NotStarted
from eyespot.telemetry import Metrics, Trace

T = TypeVar("T")
Lane: TypeAlias = Literal["interactive", "batch"]

_MAX_BOOKED_SECONDS = 30  # clients that never come back must not push the others out for ever
_STUCK_POLL_SECONDS = 1


class WorkerPool:
    """Threads behind an admission counter.

    The interactive lane has `capacity` = workers + queue places: one at once, or a refusal. The batch lane is a FIFO
    semaphore of `workers` permits shared by all batches, so a lone batch keeps every thread busy and an interactive
    image waits behind one round of batch images at most. Places and permits are given back when the thread is done,
    never when the caller gives up.
    """

    def __init__(
        self, workers: int, queue: int, deadline_seconds: float, metrics: Metrics, clock: Clock = time.monotonic
    ) -> None:
        self.workers = workers
        self.capacity = workers + queue
        self.draining = False
        self._deadline = deadline_seconds
        self._clock = clock
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(workers, "eyespot-worker")
        self._permits = asyncio.Semaphore(workers)
        self._lock = threading.Lock()
        self._admitted = {"interactive": 0, "batch": 0}
        self._running: set[Job[Any]] = set()
        self.twins: dict[Hashable, Job[Any]] = {}  # jobs that can be joined, by key
        self._service_seconds = 0.05  # exponential moving average of one job; a guess until there is one
        self._booked_until = 0.0  # when the refused clients are expected to be back
        metrics.queue_depth.set_function(lambda: self.waiting)
        metrics.workers_busy.set_function(lambda: len(self._running))

    @property
    def waiting(self) -> int:
        """Admitted jobs that no thread has started."""
        return max(0, self.admitted - len(self._running))

    @property
    def admitted(self) -> int:
        """Jobs of both lanes that have not ended."""
        return sum(self._admitted.values())

    def is_stuck(self) -> bool:
        """Whether every worker has been busy with one job for longer than the deadline."""
        with self._lock:
            started = [job.started or 0 for job in self._running]
        return len(started) == self.workers and self._clock() - max(started) > self._deadline

    def retry_after(self) -> int:
        """Seconds, at least 1, until today's interactive queue will have been served."""
        return max(1, math.ceil(self._admitted["interactive"] * self._service_seconds / self.workers))

    async def run(
        self,
        function: Callable[..., T],
        *args: object,
        trace: Trace,
        key: Hashable | None = None,
        lane: Lane = "interactive",
        disconnected: Disconnected | None = None,
        on_result: Callable[[T], None] | None = None,
    ) -> T:
        """`function(*args)` in a worker thread, the wait for it timed as `queue`, until the deadline.

        Jobs with the same `key` (not None) are twins: the second caller joins the first one's job. `on_result` is
        called once for each job, even when nobody waits for it any more.

        Raises:
            Overloaded: the interactive lane is full.
            Draining: the pool is closed.
            DeadlineExceeded: there was no result in time.
            ClientDisconnected: `disconnected()` returned first.
        """
        job, joined = await self.submit(function, *args, key=key, lane=lane)
        if joined:
            trace.cache = "joined"
        elif on_result:
            job.on_result(on_result)
        try:
            return await job.result(disconnected)
        finally:
            trace.lap("queue", until=None if joined else job.started)

    async def submit(
        self, function: Callable[..., T], *args: object, key: Hashable | None = None, lane: Lane = "interactive"
    ) -> tuple[Job[T], bool]:
        """The first half of `run`: an admitted job, and whether it is a twin's."""
        if twin := self._join(key):
            return twin, True
        if lane == "batch":
            await self._permit()
            if twin := self._join(key):  # it was submitted meanwhile
                self._permits.release()
                return twin, True
        job = self._admit(lane, function, *args)
        if key is not None:
            self.twins[key] = job
        job.future.add_done_callback(lambda done: self._settle(done, key, job, lane))
        return job, False

    def forget(self, key: Hashable) -> None:
        """Let nobody else join the job with this key."""
        self.twins.pop(key, None)

    def refuse_if_full(self) -> None:
        """Raise `Overloaded` when an interactive job would be refused now."""
        if self._admitted["interactive"] >= self.capacity:
            raise Overloaded(
                f"All {self.capacity} places are taken.", limit=self.capacity, retry_after=self._book_return()
            )

    def _join(self, key: Hashable | None) -> Job[Any] | None:
        job = self.twins.get(key) if key is not None else None
        return job if job and job.join() else None

    async def _permit(self) -> None:
        """Wait for a permit of the batch lane, first come, first served."""
        if not self._permits.locked():
            await self._permits.acquire()
            return
        turn = asyncio.ensure_future(self._permits.acquire())
        try:
            while not turn.done():
                await asyncio.wait({turn}, timeout=min(self._deadline, _STUCK_POLL_SECONDS))
                if not turn.done() and self.is_stuck():
                    raise DeadlineExceeded("No worker has finished an image for too long.", limit=self._deadline)
        except BaseException:
            if not turn.cancel():
                self._permits.release()
            raise

    def _admit(self, lane: Lane, function: Callable[..., T], *args: object) -> Job[T]:
        with self._lock:
            if lane == "interactive":
                self.refuse_if_full()
            self._admitted[lane] += 1
        job = Job[T](self._deadline, self._lock, self._clock)
        try:
            future = self._executor.submit(self._work, job, function, *args)
        except RuntimeError as error:  # the executor was shut down
            self._leave(lane)
            raise Draining(retry_after=self.retry_after()) from error
        future.add_done_callback(lambda _: self._leave(lane))
        job.future = asyncio.wrap_future(future)
        return job

    def _work(self, job: Job[T], function: Callable[..., T], *args: object) -> T:
        """Runs in a worker thread."""
        if not job.start():
            self._metrics.cancelled.inc()
            raise NotStarted
        with self._lock:
            self._running.add(job)
        started = self._clock()
        try:
            return function(*args)
        except Refusal as refusal:
            # Without its traceback, which would hold the image in a reference cycle until the garbage collector runs.
            del function, args
            raise refusal.with_traceback(None) from None
        finally:
            seconds = self._clock() - started
            with self._lock:
                self._running.discard(job)
                self._service_seconds += 0.1 * (seconds - self._service_seconds)
            del job

    def _leave(self, lane: Lane) -> None:
        with self._lock:
            self._admitted[lane] -= 1

    def _settle(self, done: asyncio.Future[Any], key: Hashable | None, job: Job[Any], lane: Lane) -> None:
        if lane == "batch":
            self._permits.release()
        if key is not None and self.twins.get(key) is job:
            del self.twins[key]
        if not done.cancelled():
            done.exception()  # asyncio complains about an exception that nobody retrieved

    def _book_return(self) -> int:
        """Seconds until a client that is refused now should come back: after those refused before it.

        Otherwise everyone refused within one second would come back in the same second, most of them for nothing. Half
        the service time is booked for each: with all of it places stood empty, since some come late and some never.
        """
        now, each = self._clock(), self._service_seconds / self.workers
        queued_until = max(self._booked_until, now + self._admitted["interactive"] * each)
        self._booked_until = min(queued_until + each / 2, now + _MAX_BOOKED_SECONDS)
        return max(1, math.ceil(self._booked_until - now))

    def close(self) -> None:
        """Let running jobs finish, and start no others."""
        self.draining = True
        self._executor.shutdown(wait=True, cancel_futures=True)
