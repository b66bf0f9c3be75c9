"""Calls wait for threads in a bounded queue, and threads that hang are noticed."""

import asyncio
import threading
from contextlib import suppress

import pytest

from eyespot.memory.threads import BoundedThreads, Busy
from tests.memory.helpers import eventually


def test_one_call_too_many_is_refused_and_a_cancelled_one_is_not_begun() -> None:
    async def scenario() -> None:
        go, begun = threading.Event(), list[int]()

        def call(number: int) -> int:
            begun.append(number)
            assert go.wait(30)
            return number

        async def refused() -> None:
            with pytest.raises(Busy):
                async with asyncio.timeout(5):
                    await threads.run(call, -1)

        threads = BoundedThreads("test", 2, max_waiting=3)
        calls = [asyncio.create_task(threads.run(call, number)) for number in range(5)]
        await eventually(lambda: len(begun) == 2)
        await refused()
        for cancelled in (calls[0], calls[3]):  # one that has begun, whose thread stays busy, and one that waits
            cancelled.cancel()
        calls.append(asyncio.create_task(threads.run(call, 5)))
        await asyncio.sleep(0.01)
        await refused()
        go.set()
        assert await asyncio.gather(*calls[1:3], *calls[4:]) == [1, 2, 4, 5]
        assert sorted(begun) == [0, 1, 2, 4, 5]
        threads.close()

    asyncio.run(scenario())


def test_threads_that_hang_are_not_waited_for() -> None:
    async def scenario() -> None:
        go = threading.Event()
        threads = BoundedThreads("test", 1, max_waiting=3, hang_seconds=0.01)
        hanging = asyncio.create_task(threads.run(go.wait, 30))
        await asyncio.sleep(0)
        with suppress(TimeoutError, Busy):  # a call that gives up is no progress
            async with asyncio.timeout(0.02):
                await threads.run(go.wait, 30)
        assert threads.hang
        with pytest.raises(Busy):
            async with asyncio.timeout(5):
                await threads.run(go.wait, 30)
        go.set()
        assert await hanging
        assert not threads.hang
        assert await threads.run(go.wait, 30)
        threads.close()

    asyncio.run(scenario())


def test_an_error_reaches_the_caller() -> None:
    async def scenario() -> None:
        threads = BoundedThreads("test", 1, max_waiting=1)
        with pytest.raises(ZeroDivisionError):
            await threads.run(divmod, 1, 0)
        threads.close()

    asyncio.run(scenario())
