"""Who gets a worker thread, and when: capacity, the two lanes, joinable jobs, deadlines."""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeAlias, TypeVar

from eyespot.errors import DeadlineExceeded, Draining, Overloaded, Refusal
from eyespot.job import Clock, Disconnected, Job, NotStarted
from eyespot.telemetry import Metrics, Trace

T = TypeVar("T")
Lane: TypeAlias = Literal["interactive", "batch"]
Key: TypeAlias = tuple[str, str]
"""The sha256 of an image, and everything else that the result depends on; see `memory.cache`."""

_FIRST_GUESS_SECONDS = 0.05  # duration of a job, until there were some
_SMOOTHING = 0.1  # weight of the latest job in the moving average
_MAX_BOOKED_SECONDS = 30  # clients that never come back must not delay the others for ever
_STUCK_POLL_SECONDS = 1


class WorkerPool:
    """A bounded thread pool with two lanes.

    An interactive job gets one of `capacity` = workers + queue places at once, or is refused. Batch jobs share a FIFO
    semaphore of `workers` permits, so a lone batch keeps every thread busy, and an interactive job waits behind one
    round of batch jobs at most. Places and permits are given back when the thread is done, never when a caller leaves.

    Jobs submitted with the same key are computed once: later callers join the first one's job.
    """

    def __init__(
        self, workers: int, queue: int, deadline_seconds: float, metrics: Metrics, clock: Clock = time.monotonic
    ) -> None:
        self.workers = workers
        self.capacity = workers + queue
        self.draining = False  # set when the server is told to stop, for readiness; jobs are admitted until `close`
        self.joinable: dict[Key, Job[Any]] = {}
        self._deadline = deadline_seconds
        self._clock = clock
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(workers, "eyespot-worker")
        self._permits = asyncio.Semaphore(workers)
        self._lock = threading.Lock()  # of what workers change too
        self._admitted = {"interactive": 0, "batch": 0}  # jobs that have not ended
        self._running: dict[Job[Any], float] = {}  # when each started
        self._job_seconds = _FIRST_GUESS_SECONDS
        self._booked_until = 0.0  # when the clients that were refused are expected back
        metrics.workers.set(workers)
        metrics.queue_capacity.set(queue)
        metrics.queue_depth.set_function(lambda: self.waiting)
        metrics.workers_busy.set_function(lambda: len(self._running))

    @property
    def admitted(self) -> int:
        """Jobs of both lanes that have not ended."""
        return sum(self._admitted.values())

    @property
    def waiting(self) -> int:
        """Admitted jobs that no thread has started."""
        return max(0, self.admitted - len(self._running))  # a job may end between the two reads

    def is_stuck(self) -> bool:
        """Whether every worker has been on its current job for longer than the deadline."""
        with self._lock:
            started = list(self._running.values())
        return len(started) == self.workers and self._clock() - max(started) > self._deadline

    def retry_after(self) -> int:
        """Seconds, at least 1, until the current interactive queue is served."""
        return max(1, math.ceil(self._admitted["interactive"] * self._job_seconds / self.workers))

    async def run(
        self,
        function: Callable[..., T],
        *args: object,
        trace: Trace,
        key: Key | None = None,
        lane: Lane = "interactive",
        disconnected: Disconnected | None = None,
        on_result: Callable[[T], None] | None = None,
    ) -> T:
        """Run `function(*args)` in a worker thread, and time the wait for it in `trace` as `queue`.

        `on_result` is called with the result, even when every caller has left; a caller that joins has its own ignored.

        Raises:
            Overloaded: the interactive lane is full.
            Draining: the pool is closed.
            DeadlineExceeded: the deadline passed, or the batch lane is stuck.
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
            trace.lap("queue", until=None if joined else job.started)  # a caller that joined only waits

    async def submit(
        self, function: Callable[..., T], *args: object, key: Key | None = None, lane: Lane = "interactive"
    ) -> tuple[Job[T], bool]:
        """Admit a job, whose `result` the caller must await; the bool says that it was joined rather than created."""
        if job := self._join(key):
            return job, True
        if lane == "batch":
            await self._acquire_permit()
            if job := self._join(key):  # created while this one waited
                self._permits.release()
                return job, True
        return self._admit(lane, key, function, *args), False

    def forget(self, sha256: str) -> None:
        """Let nobody else join the jobs of this image."""
        for key in [key for key in self.joinable if key[0] == sha256]:
            del self.joinable[key]

    def refuse_if_full(self) -> None:
        """Raise `Overloaded` when an interactive job would be refused now."""
        if self._admitted["interactive"] >= self.capacity:
            seconds = self._book_return()
            detail = f"All {self.capacity} places are taken; try again in {seconds} s."
            raise Overloaded(detail, limit=self.capacity, retry_after=seconds)

    def close(self) -> None:
        """Let running jobs finish, and start no others."""
        self.draining = True
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _join(self, key: Key | None) -> Job[Any] | None:
        job = self.joinable.get(key) if key is not None else None
        return job if job and job.join() else None

    async def _acquire_permit(self) -> None:
        """Wait for a permit of the batch lane, first come, first served, unless the pool is stuck."""
        if not self._permits.locked():
            await self._permits.acquire()
            return
        acquiring = asyncio.ensure_future(self._permits.acquire())
        try:
            while not acquiring.done():
                await asyncio.wait({acquiring}, timeout=min(self._deadline, _STUCK_POLL_SECONDS))
                if not acquiring.done() and self.is_stuck():
                    raise DeadlineExceeded("No worker has finished an image for too long.", limit=self._deadline)
        except BaseException:
            if not acquiring.cancel():  # it was granted in the same moment
                self._permits.release()
            raise

    def _admit(self, lane: Lane, key: Key | None, function: Callable[..., T], *args: object) -> Job[T]:
        if lane == "interactive":
            self.refuse_if_full()
        job = Job[T](self._deadline, self._lock, self._clock)
        with self._lock:
            self._admitted[lane] += 1
        try:
            job.future = self._executor.submit(self._work, job, function, *args)
        except RuntimeError as error:  # the executor was shut down
            self._thread_done(lane)
            if lane == "batch":
                self._permits.release()
            raise Draining(retry_after=self.retry_after()) from error
        loop, ended = asyncio.get_running_loop(), job.ended

        def done(_: object) -> None:  # in the thread; a reference to the job would make a cycle
            self._thread_done(lane)
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(self._job_done, ended, lane, key)

        job.future.add_done_callback(done)
        if key is not None:
            self.joinable[key] = job
        return job

    def _work(self, job: Job[T], function: Callable[..., T], *args: object) -> T:
        """Runs in a worker thread."""
        if not job.start():
            self._metrics.images_cancelled.inc()
            del function, args  # the traceback would keep the image in memory
            raise NotStarted
        started = self._clock()
        with self._lock:
            self._running[job] = started
        try:
            return function(*args)
        except Refusal as refusal:
            # Drop the traceback and the arguments: a reference cycle through this frame would keep the image in memory
            # until the garbage collector runs.
            del function, args
            raise refusal.with_traceback(None) from None
        finally:
            seconds = self._clock() - started
            with self._lock:
                del self._running[job]
                self._job_seconds += _SMOOTHING * (seconds - self._job_seconds)
            del job

    def _thread_done(self, lane: Lane) -> None:
        with self._lock:
            self._admitted[lane] -= 1

    def _job_done(self, ended: asyncio.Future[None], lane: Lane, key: Key | None) -> None:
        if lane == "batch":
            self._permits.release()
        # After `forget` there may be a newer job.
        if key is not None and (joinable := self.joinable.get(key)) and joinable.ended is ended:
            del self.joinable[key]
        ended.set_result(None)

    def _book_return(self) -> int:
        """Seconds until a client that is refused now should come back.

        Retries are spread out: otherwise everyone refused within one second would return together, and most would be
        refused again. Half the service time is booked for each, because some clients return late or never; booking all
        of it left places empty.
        """
        now, seconds_per_job = self._clock(), self._job_seconds / self.workers
        free_at = max(self._booked_until, now + self._admitted["interactive"] * seconds_per_job)
        self._booked_until = min(free_at + seconds_per_job / 2, now + _MAX_BOOKED_SECONDS)
        return max(1, math.ceil(self._booked_until - now))
