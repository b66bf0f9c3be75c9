import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from eyespot import pool
from eyespot.errors import DeadlineExceeded, Draining, Overloaded
from eyespot.pool import ClientDisconnected, Plan, WorkerPool
from eyespot.telemetry import Metrics


@contextmanager
def opened(workers: int = 1, queue: int = 0, deadline: float = 30) -> Iterator[WorkerPool]:
    opened = WorkerPool(workers, queue, deadline, Metrics())
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
    return pool._metrics.registry.get_sample_value("eyespot_cancelled_total")


def run(test: Coroutine[None, None, None]) -> None:
    asyncio.run(test)


def test_a_result_and_an_exception_come_back() -> None:
    async def test() -> None:
        with opened() as pool:
            assert await pool.run(lambda a, b: a + b, 2, 3) == 5
            with pytest.raises(ZeroDivisionError):
                await pool.run(lambda: 1 / 0)
            assert await pool.run(lambda: "still here") == "still here"

    run(test())


def test_a_full_pool_refuses_at_once_and_says_when_to_come_back() -> None:
    async def test() -> None:
        with opened(workers=2, queue=3) as pool:
            held = [Held() for _ in range(5)]
            tasks = [asyncio.create_task(pool.run(call)) for call in held]
            await until(lambda: held[0].begun.is_set() and held[1].begun.is_set())
            assert pool.waiting == 3
            with pytest.raises(Overloaded) as caught:
                await pool.run(lambda: None)
            assert caught.value.retry_after is not None
            assert caught.value.retry_after >= 1
            assert caught.value.limit == 5
            for call in held:
                call.go.set()
            assert [await task for task in tasks] == ["done"] * 5
            assert await pool.run(lambda: "again") == "again"

    run(test())


def test_a_caller_who_gives_up_does_not_free_the_place() -> None:
    async def test() -> None:
        with opened() as pool:
            held = Held()
            task = asyncio.create_task(pool.run(held))
            await until(held.begun.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(Overloaded):
                await pool.run(lambda: None)
            held.go.set()
            await until(lambda: pool._taken == 0)
            assert await pool.run(lambda: "free") == "free"

    run(test())


def test_a_deadline_frees_the_caller_and_not_the_place() -> None:
    async def test() -> None:
        with opened(deadline=0.05) as pool:
            held = Held()
            with pytest.raises(DeadlineExceeded):
                await pool.run(held)
            with pytest.raises(Overloaded):
                await pool.run(lambda: None)
            held.go.set()
            await until(lambda: pool._taken == 0)

    run(test())


@pytest.mark.parametrize("late", [True, False], ids=["late", "left"])
def test_what_is_late_or_whose_caller_left_is_not_begun(late: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        with opened(queue=2, deadline=0.2 if late else 30) as pool:
            held, second = Held(), Held()
            first = asyncio.create_task(pool.run(held))
            await until(held.begun.is_set)
            waiting = asyncio.create_task(pool.run(second))
            await until(lambda: pool.waiting == 1)
            if not late:
                waiting.cancel()
            with pytest.raises(DeadlineExceeded if late else asyncio.CancelledError):
                await waiting
            assert pool.waiting == 1  # it keeps its place until its turn, so that the queue stays bounded
            held.go.set()
            await asyncio.wait([first])
            await until(lambda: pool._taken == 0)
            assert not second.begun.is_set()
            assert cancelled(pool) == 1
            first.exception()

    run(test())
    gc.collect()
    assert not caplog.records  # asyncio tells of an exception that nobody looked at


def test_whoever_is_refused_is_told_to_come_back_behind_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: 1000.0))  # no second passes meanwhile

    async def test() -> None:
        with opened(workers=1) as pool:
            held = Held()
            first = pool.start(held)
            told: list[int] = []
            for _ in range(2000):
                with pytest.raises(Overloaded) as caught:
                    pool.start(held)
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
            call = pool.start(held)
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
            first = asyncio.create_task(pool.run(held))
            await until(held.begun.is_set)
            call = pool.start(second)
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
            await until(lambda: pool._taken == 0)
            assert second.begun.is_set() is bool(others)
            assert cancelled(pool) == (0 if others else 1)
            await asyncio.wait(waiting)

    run(test())


def test_whoever_joins_late_has_a_deadline_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    async def test() -> None:
        with opened(queue=1, deadline=30) as pool:
            held, second = Held(), Held()
            first = asyncio.create_task(pool.run(held))
            await until(held.begun.is_set)
            call = pool.start(second)
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
            waiting = asyncio.create_task(pool.start(held).result(left.wait))
            await until(held.begun.is_set)
            left.set()
            with pytest.raises(ClientDisconnected):
                await waiting
            held.go.set()
            await until(lambda: pool._taken == 0)

    run(test())


def test_callers_who_leave_cannot_make_the_queue_grow() -> None:
    async def test() -> None:
        with opened(queue=3) as pool:
            held = Held()
            first = asyncio.create_task(pool.run(held))
            await until(held.begun.is_set)
            refused = 0
            for _ in range(50):
                task = asyncio.create_task(pool.run(lambda: None))
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
        with opened(deadline=0.05) as pool:
            assert not pool.is_stuck()
            held = Held()
            task = asyncio.create_task(pool.run(held))
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
                await pool.run(lambda: None)
            assert caught.value.retry_after == 1
            assert pool._taken == 0

    run(test())


def cgroup(tmp_path: Path, line: str, files: dict[str, str]) -> int:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(line)
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return pool.available_cpus(tmp_path / "proc", tmp_path / "cgroup")


@pytest.mark.parametrize(
    ("line", "files", "cpus"),
    [
        ("0::/\n", {"cpu.max": "max 100000"}, 16),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/host/path/that/is/not/here\n", {"cpu.max": "400000 100000"}, 4),
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "250000", "cpu/x/cpu.cfs_period_us": "100000"}, 3),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ("4:memory:/\n0::/\n", {"cpu.max": "garbage"}, 16),
        ("", {}, 16),
        ("0::/\n", {"cpu.max": "9900000 100000"}, 16),
    ],
)
def test_cpus_are_the_affinity_cut_to_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, files: dict[str, str], cpus: int
) -> None:
    monkeypatch.setattr(pool.os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(pool.os, "cpu_count", lambda: 99)
    assert cgroup(tmp_path, line, files) == cpus


@pytest.mark.parametrize(
    ("given", "cpus", "planned"),
    [
        ((None, None), 1, Plan(2, 1, 1, 1)),
        ((None, None), 2, Plan(3, 2, 1, 2)),
        ((None, None), 4, Plan(5, 4, 1, 4)),
        ((None, None), 8, Plan(9, 8, 1, 8)),
        ((None, None), 16, Plan(17, 16, 1, 16)),
        ((None, None), 64, Plan(65, 64, 1, 16)),
        ((None, 4), 8, Plan(3, 2, 4, 8)),
        ((2, None), 8, Plan(2, 2, 4, 8)),
        ((1, None), 64, Plan(1, 1, 64, 64)),
        ((3, None), 2, Plan(3, 3, 1, 2)),
        ((3, 5), 2, Plan(3, 3, 5, 5)),
        ((1, 1), 4, Plan(1, 1, 1, 1)),
        ((None, 32), 64, Plan(3, 2, 32, 32)),
    ],
)
def test_the_plan_uses_the_cpus_and_no_more(given: tuple[int | None, int | None], cpus: int, planned: Plan) -> None:
    assert pool.plan(*given, cpus=cpus) == planned
