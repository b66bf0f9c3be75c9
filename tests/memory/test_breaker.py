"""A store that is slow or away costs one request a moment, and the others nothing; a Redis is opened from its URL."""

import asyncio
import gc
import logging
import traceback
from typing import Any

import pytest

from eyespot.errors import InvalidSetting
from eyespot.memory.breaker import CircuitBreaker, StoreUnavailable, open_redis
from tests.memory.helpers import Clock, events


class Store:
    """Answers, fails or hangs, and counts the calls."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.calls = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def ask(self) -> str:
        self.calls += 1
        await self.answers.wait()
        if self.failure:
            raise self.failure
        return "answer"


async def outcome(breaker: CircuitBreaker, store: Store) -> str | None:
    try:
        return await breaker.call(store.ask)
    except StoreUnavailable:
        return None


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "eyespot")
    return caplog


def test_a_failing_store_is_tried_again_by_one_request_after_the_cooldown(log: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        clock, store = Clock(), Store(ConnectionError("refused"))
        breaker = CircuitBreaker("store", timeout=30, clock=clock)
        assert await outcome(breaker, store) is None
        assert (breaker.is_open, breaker.failure) == (True, "refused")
        clock.advance(0.9)
        assert await outcome(breaker, store) is None
        assert store.calls == 1
        clock.advance(0.1)
        assert not breaker.is_open
        assert await asyncio.gather(*(outcome(breaker, store) for _ in range(5))) == [None] * 5
        assert store.calls == 2
        assert events(log) == ["store_lost"]
        store.failure = None
        clock.advance(1)
        answers = await asyncio.gather(*(outcome(breaker, store) for _ in range(5)))
        assert answers == ["answer", None, None, None, None]
        assert await outcome(breaker, store) == "answer"
        assert breaker.failure is None
        assert events(log) == ["store_lost", "store_found"]

    asyncio.run(scenario())


def test_a_slow_store_is_a_failure(log: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        store = Store()
        store.answers.clear()
        breaker = CircuitBreaker("store", clock=Clock())
        assert [await outcome(breaker, store) for _ in range(3)] == [None] * 3
        assert store.calls == 1
        await breaker.close()

    asyncio.run(scenario())
    (record,) = [record for record in log.records if record.name == "eyespot"]
    assert (record.message, record.levelno) == ("store_lost", logging.WARNING)
    assert vars(record)["facts"] == {"reason": "no answer within 50 ms"}


def test_a_call_that_fails_after_its_timeout_is_not_reported_by_asyncio() -> None:
    reports: list[Any] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        store = Store(ConnectionError())
        store.answers.clear()
        breaker = CircuitBreaker("store", timeout=0)
        assert await outcome(breaker, store) is None
        late = asyncio.all_tasks() - {asyncio.current_task()}
        store.answers.set()
        assert await asyncio.wait(late, timeout=30) == (late, set())
        del late
        gc.collect()

    asyncio.run(scenario())
    assert reports == []


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@host:port/0",
        "redis://:hunter2/@localhost:6379",
        "redis://:hunter2/more@host/0",
        "redis://:hunter2@host/0?nonsense=1",
        "redis://:hunter2@host/zero",
        "redis://:hunter2@[::1/0",
        "rediss://:hunter2@host/0?ssl_cert_reqs=maybe",
    ],
)
def test_an_invalid_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_CACHE_URL: the value is not a Redis URL") as raised:
        open_redis(url)
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("url", "database"),
    [("redis://host", 0), ("redis://user:secret@host:6379/7", 7), ("rediss://host/3?ssl_cert_reqs=none", 3)],
)
def test_the_url_chooses_the_database(url: str, database: int) -> None:
    assert (open_redis(url).connection_pool.connection_kwargs.get("db") or 0) == database
