import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from eyespot.errors import DeadlineExceeded, Draining, Overloaded
from eyespot.job import ClientDisconnected, Job
from eyespot.pool import Lane, WorkerPool
from eyespot.telemetry import Metrics


@contextmanager
def opened(
    workers: int = 1, queue: int = 0, deadline: float = 30, clock: Callable[[], float] = time.monotonic
) -> Iterator[WorkerPool]:
    opened = WorkerPool(workers, queue, deadline, Metrics(), clock)
    yield opened
    opened.close()


class Held:
    """A call that computes until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.go.wait(30)
        return "done"


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def cancelled(pool: WorkerPool) -> float | None:
    return pool._metrics.registry.get_sample_value("eyespot_images_cancelled_total")


async def start(pool: WorkerPool, call: Callable[..., Any], *args: object, lane: Lane = "interactive") -> Job[Any]:
    job, joined = await pool.submit(call, *args, lane=lane)
    assert not joined
    return job


async def result(pool: WorkerPool, call: Callable[..., Any], *args: object, lane: Lane = "interactive") -> Any:
    return await (await start(pool, call, *args, lane=lane)).result()


def run(test: Coroutine[None, None, None]) -> None:
    asyncio.run(test)


def test_a_result_and_an_exception_come_back() -> None:
    async def test() -> None:
        with opened() as pool:
            assert await result(pool, lambda a, b: a + b, 2, 3) == 5
            with pytest.raises(ZeroDivisionError):
                await result(pool, lambda: 1 / 0)
            assert await result(pool, lambda: "still here") == "still here"

    run(test())


def test_a_result_is_freed_without_the_garbage_collector() -> None:
    go = threading.Event()

    class Result:
        def __init__(self) -> None:
            assert go.wait(30)

    async def test() -> None:
        with opened() as pool:
            job = await start(pool, Result)
            go.set()
            freed = weakref.ref(await job.result())
            del job
            await until(lambda: freed() is None)  # the thread may still hold it

    gc.disable()
    try:
        run(test())
    finally:
        gc.enable()


def test_a_full_pool_refuses_at_once_and_says_when_to_come_back() -> None:
    async def test() -> None:
        with opened(workers=2, queue=3) as pool:
            held = [Held() for _ in range(5)]
            tasks = [asyncio.create_task(result(pool, call)) for call in held]
            await until(lambda: held[0].begun.is_set() and held[1].begun.is_set())
            assert pool.waiting == 3
            with pytest.raises(Overloaded) as caught:
                await result(pool, lambda: None)
            assert caught.value.retry_after is not None
            assert caught.value.retry_after >= 1
            assert caught.value.limit == 5
            for call in held:
                call.go.set()
            assert [await task for task in tasks] == ["done"] * 5
            assert await result(pool, lambda: "again") == "again"

    run(test())


def test_a_caller_who_gives_up_does_not_free_the_place() -> None:
    async def test() -> None:
        with opened() as pool:
            held = Held()
            task = asyncio.create_task(result(pool, held))
            await until(held.begun.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(Overloaded):
                await result(pool, lambda: None)
            held.go.set()
            await until(lambda: pool.admitted == 0)
            assert await result(pool, lambda: "free") == "free"

    run(test())


def test_a_deadline_frees_the_caller_and_not_the_place() -> None:
    async def test() -> None:
        with opened(deadline=1) as pool:
            held = Held()
            with pytest.raises(DeadlineExceeded):
                await result(pool, held)
            with pytest.raises(Overloaded):
                await result(pool, lambda: None)
            held.go.set()
            await until(lambda: pool.admitted == 0)

    run(test())


@pytest.mark.parametrize("late", [True, False], ids=["late", "left"])
def test_what_is_late_or_whose_caller_left_is_not_begun(late: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        with opened(queue=2, deadline=1 if late else 30) as pool:
            held, second = Held(), Held()
            first = asyncio.create_task(result(pool, held))
            await until(held.begun.is_set)
            waiting = asyncio.create_task(result(pool, second))
            await until(lambda: pool.waiting == 1)
            if not late:
                waiting.cancel()
            with pytest.raises(DeadlineExceeded if late else asyncio.CancelledError):
                await waiting
            assert pool.waiting == 1  # it keeps its place until its turn, so that the queue stays bounded
            held.go.set()
            await asyncio.wait([first])
            await until(lambda: pool.admitted == 0)
            assert not second.begun.is_set()
            assert cancelled(pool) == 1
            first.exception()

    run(test())
    gc.collect()
    assert not caplog.records  # asyncio tells of an exception that nobody looked at


def test_whoever_is_refused_is_told_to_come_back_behind_those_before() -> None:

    async def test() -> None:
        with opened(workers=1, clock=lambda: 1000.0) as pool:  # no second passes meanwhile
            held = Held()
            first = await start(pool, held)
            told: list[int] = []
            for _ in range(2000):
                with pytest.raises(Overloaded) as caught:
                    await start(pool, held)
                told.append(caught.value.retry_after or 0)
            assert told == sorted(told)
            assert set(told) == set(range(1, 31))  # and no later, for those who never come back
            held.go.set()
            await first.result()

    run(test())


def test_a_call_is_computed_once_for_all_who_wait_for_it() -> None:
    async def test() -> None:
        with opened() as pool:
            held = Held()
            call = await start(pool, held)
            first = asyncio.create_task(call.result())
            assert call.join()
            second = asyncio.create_task(call.result())
            await until(held.begun.is_set)
            first.cancel()
            await asyncio.wait([first])
            held.go.set()
            assert await second == "done"

    run(test())


@pytest.mark.parametrize("others", [0, 1])
def test_a_call_is_begun_as_long_as_one_waits_for_it(others: int) -> None:
    async def test() -> None:
        with opened(queue=1) as pool:
            held, second = Held(), Held()
            first = asyncio.create_task(result(pool, held))
            await until(held.begun.is_set)
            call = await start(pool, second)
            waiting = [asyncio.create_task(call.result())]
            for _ in range(others):
                assert call.join()
                waiting.append(asyncio.create_task(call.result()))
            await asyncio.sleep(0)
            waiting[0].cancel()
            await asyncio.wait([waiting[0]])
            assert call.join() is bool(others)  # one that will never be begun is no use to anybody
            held.go.set()
            second.go.set()
            await asyncio.wait([first])
            await until(lambda: pool.admitted == 0)
            assert second.begun.is_set() is bool(others)
            assert cancelled(pool) == (0 if others else 1)
            await asyncio.wait(waiting)

    run(test())


def test_whoever_joins_late_has_a_deadline_of_its_own() -> None:
    clock = [1000.0]

    async def test() -> None:
        with opened(queue=1, deadline=30, clock=lambda: clock[0]) as pool:
            held, second = Held(), Held()
            first = asyncio.create_task(result(pool, held))
            await until(held.begun.is_set)
            call = await start(pool, second)
            clock[0] += 29
            assert call.join()
            clock[0] += 29  # the first has waited for 58 seconds, the second for 29
            held.go.set()
            second.go.set()
            await asyncio.wait([first])
            assert await call.result() == "done"

    run(test())


def test_a_caller_who_leaves_is_told_apart_from_one_who_is_late() -> None:
    async def test() -> None:
        with opened() as pool:
            held, left = Held(), asyncio.Event()
            waiting = asyncio.create_task((await start(pool, held)).result(left.wait))
            await until(held.begun.is_set)
            left.set()
            with pytest.raises(ClientDisconnected):
                await waiting
            held.go.set()
            await until(lambda: pool.admitted == 0)

    run(test())


def test_callers_who_leave_cannot_make_the_queue_grow() -> None:
    async def test() -> None:
        with opened(queue=3) as pool:
            held = Held()
            first = asyncio.create_task(result(pool, held))
            await until(held.begun.is_set)
            refused = 0
            for _ in range(50):
                task = asyncio.create_task(result(pool, lambda: None))
                await asyncio.sleep(0)
                task.cancel()
                refused += isinstance((await asyncio.gather(task, return_exceptions=True))[0], Overloaded)
            assert refused == 47
            assert pool._executor._work_queue.qsize() == 3
            held.go.set()
            await first

    run(test())


def test_stuck_is_full_and_silent_for_longer_than_the_deadline() -> None:
    async def test() -> None:
        with opened(deadline=1) as pool:
            assert not pool.is_stuck()
            held = Held()
            task = asyncio.create_task(result(pool, held))
            await until(held.begun.is_set)
            await until(pool.is_stuck)
            held.go.set()
            await asyncio.wait([task])
            assert task.exception() is None or isinstance(task.exception(), DeadlineExceeded)
            await until(lambda: not pool.is_stuck())

    run(test())


def test_a_closed_pool_says_that_it_drains() -> None:
    async def test() -> None:
        with opened() as pool:
            pool.close()
            assert pool.draining
            with pytest.raises(Draining) as caught:
                await result(pool, lambda: None)
            assert caught.value.retry_after == 1
            assert pool.admitted == 0

    run(test())


def test_twins_share_a_job_until_it_is_forgotten() -> None:
    async def test() -> None:
        with opened(queue=2) as pool:
            held = Held()
            first, joined = await pool.submit(held, key=("image", "model"))
            assert not joined
            assert await pool.submit(Held(), key=("image", "model")) == (first, True)
            assert pool.admitted == 1
            pool.forget("image")
            other, joined = await pool.submit(lambda: "another", key=("image", "model"))
            assert not joined
            held.go.set()
            assert await first.result() == "done"
            assert await other.result() == "another"
            await until(lambda: not pool.joinable)

    run(test())


@pytest.mark.parametrize("how", ["late", "left"])
def test_a_permit_comes_back_with_the_thread_and_not_with_its_caller(how: str) -> None:
    async def test() -> None:
        with opened(workers=2, queue=9, deadline=1 if how == "late" else 30) as pool:
            held = [Held(), Held()]
            waiting = [asyncio.create_task(result(pool, call, lane="batch")) for call in held]
            await until(lambda: all(call.begun.is_set() for call in held))
            for task in waiting:
                if how == "left":
                    task.cancel()
                with pytest.raises(DeadlineExceeded if how == "late" else asyncio.CancelledError):
                    await task
            others = [asyncio.create_task(result(pool, lambda: "next", lane="batch")) for _ in range(5)]
            await asyncio.sleep(0.02)
            assert pool.admitted == 2
            for call in held:
                call.go.set()
            if how == "left":
                assert await asyncio.gather(*others) == ["next"] * 5
            await asyncio.wait(others)
            await until(lambda: pool.admitted == 0)
            assert await result(pool, lambda: "free", lane="batch") == "free"

    run(test())


def test_a_hung_pool_is_stuck_however_much_is_submitted_and_batches_do_not_wait_for_ever() -> None:
    async def test() -> None:
        with opened(workers=2, queue=100, deadline=1) as pool:
            held = [Held(), Held()]
            jobs = [await start(pool, call, lane="batch") for call in held]
            await until(lambda: all(call.begun.is_set() for call in held))
            others = []
            async with asyncio.timeout(30):
                while not pool.is_stuck():
                    others.append(asyncio.create_task(result(pool, lambda: None, lane="batch")))
                    others.append(asyncio.create_task(result(pool, lambda: None)))
                    await asyncio.sleep(0.01)
            with pytest.raises(DeadlineExceeded):
                await result(pool, lambda: None, lane="batch")
            outcomes = await asyncio.gather(*others, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {DeadlineExceeded}
            for call in held:
                call.go.set()
            await until(lambda: not pool.is_stuck())
            await asyncio.gather(*(job.result() for job in jobs))

    run(test())


def test_one_hung_worker_of_two_is_not_stuck() -> None:
    async def test() -> None:
        with opened(workers=2, deadline=1) as pool:
            held = Held()
            job = await start(pool, held)
            await asyncio.sleep(1.1)
            assert not pool.is_stuck()
            held.go.set()
            await job.result()

    run(test())


def test_a_batch_waits_its_turn_behind_another_and_interactive_jobs_do_not() -> None:
    async def test() -> None:
        with opened(queue=1) as pool:
            order: list[str] = []
            held = Held()
            first = await start(pool, held, lane="batch")
            batch = [asyncio.create_task(result(pool, order.append, name, lane="batch")) for name in ("b1", "b2")]
            await asyncio.sleep(0)
            interactive = await start(pool, order.append, "i")
            held.go.set()
            await asyncio.gather(first.result(), interactive.result(), *batch)
            assert order == ["i", "b1", "b2"]

    run(test())


def test_a_pool_that_closes_refuses_what_waits_for_a_permit() -> None:
    async def test() -> None:
        with opened() as pool:
            held = Held()
            job = await start(pool, held, lane="batch")
            await until(held.begun.is_set)
            waiting = asyncio.create_task(result(pool, lambda: None, lane="batch"))
            await asyncio.sleep(0)
            closing = asyncio.create_task(asyncio.to_thread(pool.close))
            await until(lambda: pool.draining)
            held.go.set()
            assert await job.result() == "done"
            with pytest.raises(Draining):
                await waiting
            await closing

    run(test())
