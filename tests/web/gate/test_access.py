"""The rate limiter."""

import asyncio
import contextlib
import gc
import logging
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import limits.aio.storage.memory
import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from eyespot.errors import InvalidSetting, RateLimited
from eyespot.memory import breaker
from eyespot.web import limiter as limiting
from eyespot.web.limiter import Limiter
from tests.services import RedisServer, redis_server


class Clock:
    """What `time` is to the limiter and to its storage in memory."""

    def __init__(self, wall: float = 1_700_000_000.0) -> None:
        self.wall = wall
        self.uptime = 1000.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.uptime

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.uptime += seconds


@contextlib.contextmanager
def fake_clock(wall: float = 1_700_000_000.0) -> Iterator[Clock]:
    clock = Clock(wall)
    with pytest.MonkeyPatch.context() as patch:
        for module in (limiting, breaker, limits.aio.storage.memory):
            patch.setattr(module, "time", clock)
        yield clock


@pytest.fixture
def clock() -> Iterator[Clock]:
    with fake_clock() as clock:
        yield clock


@contextlib.asynccontextmanager
async def limiter(rate: str, url: str = "memory://") -> AsyncIterator[Limiter]:
    opened = Limiter.open(rate, url)
    try:
        yield opened
    finally:
        await opened.close()


async def refusal(limiter: Limiter, who: str = "key:alice", cost: int = 1) -> RateLimited | None:
    try:
        await limiter.charge(who, cost)
    except RateLimited as refused:
        return refused
    return None


async def passed(limiter: Limiter, who: str, requests: int) -> int:
    """How many of these requests were not refused."""
    return sum([await refusal(limiter, who) is None for _ in range(requests)])


def test_one_too_many_is_refused(clock: Clock) -> None:
    async def scenario() -> None:
        async with limiter("3/minute") as three:
            assert await passed(three, "key:alice", 3) == 3
            refused = await refusal(three)
            assert refused
            assert (refused.status, refused.limit) == (429, 3)
            seconds = refused.retry_after
            assert refused.detail == f"3 requests per 1 minute are allowed; try again in {seconds} s."
            assert await passed(three, "key:bob", 4) == 3

    asyncio.run(scenario())


PARTS_OF_A_PERIOD = st.sampled_from([0, 0.25, 0.5, 1]) | st.floats(0, 2.5)


@given(
    st.integers(1, 8),
    st.sampled_from([1, 7, 60, 3600]),
    PARTS_OF_A_PERIOD,
    st.lists(st.tuples(PARTS_OF_A_PERIOD, st.integers(1, 12)), min_size=2, max_size=10),
)
@example(amount=1, period=60, start=1 / 3, bursts=[(1 / 3, 1), (0, 1)])  # at the very moment when a window begins
def test_there_is_room_after_the_time_that_was_told_and_not_before(
    amount: int, period: int, start: float, bursts: list[tuple[float, int]]
) -> None:
    async def scenario(clock: Clock) -> None:
        async with limiter(f"{amount} per {period} seconds") as some:
            for pause, requests in bursts:
                clock.advance(pause * period)
                if await passed(some, "key:alice", requests) == requests:
                    continue
                refused = await refusal(some)
                assert refused
                assert refused.retry_after
                if refused.retry_after > 1:
                    clock.advance(refused.retry_after - 1.001)
                    assert await refusal(some)
                    clock.advance(1.002)
                else:
                    clock.advance(1.001)
                assert not await refusal(some)

    with fake_clock(1_700_000_000 + start * period) as clock:
        asyncio.run(scenario(clock))


@given(
    st.integers(2, 8),
    st.integers(2, 8),
    st.sampled_from([7, 60, 3600]),
    PARTS_OF_A_PERIOD,
    st.lists(st.tuples(PARTS_OF_A_PERIOD, st.integers(1, 8)), min_size=1, max_size=6),
)
def test_there_is_room_for_a_batch_after_the_time_that_was_told_and_not_before(
    amount: int, cost: int, period: int, start: float, bursts: list[tuple[float, int]]
) -> None:
    cost = min(cost, amount)

    async def scenario(clock: Clock) -> None:
        async with limiter(f"{amount} per {period} seconds") as some:
            for pause, requests in bursts:
                clock.advance(pause * period)
                await passed(some, "key:alice", requests)
                refused = await refusal(some, cost=cost)
                if not refused:
                    continue
                assert refused.retry_after
                if refused.retry_after > 1:
                    clock.advance(refused.retry_after - 1.001)
                    assert await refusal(some, cost=cost)
                    clock.advance(1.002)
                else:
                    clock.advance(1.001)
                assert not await refusal(some, cost=cost)

    with fake_clock(1_700_000_000 + start * period) as clock:
        asyncio.run(scenario(clock))


def test_a_burst_is_counted_exactly(clock: Clock) -> None:
    async def scenario() -> int:
        async with limiter("10/hour") as ten:
            answers = await asyncio.gather(*(refusal(ten) for _ in range(50)))
            return answers.count(None)

    assert asyncio.run(scenario()) == 10


def test_a_request_that_the_second_refuses_is_not_charged_to_the_hour(clock: Clock) -> None:
    async def scenario() -> None:
        async with limiter("3/hour;1/second") as both:
            for _ in range(3):
                assert await passed(both, "key:alice", 5) == 1
                clock.advance(2)
            refused = await refusal(both)
            assert refused
            assert refused.limit == 3

    asyncio.run(scenario())


def test_the_time_that_is_told_is_that_of_the_longest_wait(clock: Clock) -> None:
    async def scenario() -> None:
        async with limiter("1 per 3 seconds;2 per 2 hours") as both:
            assert await passed(both, "key:alice", 1) == 1
            clock.advance(7)
            assert await passed(both, "key:alice", 1) == 1
            refused = await refusal(both)  # by both
            assert refused
            assert refused.detail.startswith("2 requests per 2 hours are allowed; try again in ")
            assert refused.retry_after
            assert refused.retry_after > 60

    asyncio.run(scenario())


@pytest.mark.parametrize("jump", [-3600, 3600, -3])
def test_a_clock_that_jumps_locks_nobody_out(clock: Clock, jump: float) -> None:
    async def scenario() -> None:
        async with limiter("2/minute") as two:
            assert await passed(two, "key:alice", 3) == 2
            clock.wall += jump
            assert await passed(two, "key:alice", 3) == 2

    asyncio.run(scenario())


def test_a_clock_that_is_slewed_changes_nothing(clock: Clock) -> None:
    async def scenario() -> None:
        async with limiter("2/hour") as two:
            assert await passed(two, "key:alice", 3) == 2
            for _ in range(10):
                clock.advance(10)
                clock.wall -= 0.5
                assert await passed(two, "key:alice", 1) == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("address:2001:db8::1", "address:2001:db8:0:0:ffff::2", True),
        ("address:2001:db8::1", "address:2001:db8:0:1::1", False),
        ("address:fe80::1%eth0", "address:fe80::2%eth0", True),
        ("address:192.0.2.1", "address:192.0.2.2", False),
        ("address:::ffff:192.0.2.1", "address:::ffff:192.0.2.2", False),
        ("address:None", "address:testclient", False),
        ("key:alice", "key:bob", False),
        ("key:192.0.2.1", "address:192.0.2.1", False),
    ],
)
def test_who_is_counted_together(clock: Clock, one: str, other: str, together: bool) -> None:
    async def scenario() -> None:
        async with limiter("1/minute") as single:
            assert await passed(single, one, 2) == 1
            assert await passed(single, other, 1) == (0 if together else 1)

    asyncio.run(scenario())


def test_counters_that_have_expired_take_no_memory(clock: Clock) -> None:
    async def scenario() -> None:
        async with limiter("1/second") as single:
            storage: Any = vars(vars(single)["_counters"])["_storage"]
            for client in range(100):
                await single.charge(f"key:{client}")
            assert len(storage.storage) == 100
            clock.advance(11)
            await single.charge("key:last")
            await asyncio.sleep(0)
            assert len(storage.storage) == len(storage.locks) == 1

    asyncio.run(scenario())


def test_clients_without_number_take_no_memory_without_bound(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiting, "_MOST_COUNTERS", 100)

    async def scenario() -> None:
        async with limiter("1/hour") as single:
            storage: Any = vars(vars(single)["_counters"])["_storage"]
            for client in range(1000):
                await single.charge(f"key:{client}")
                assert len(storage.storage) <= 101

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "rate", ["", "100", "minute", "100/fortnight", "-1/minute", "0/minute", "1/second;0/hour", "a/s"]
)
def test_a_wrong_rate_is_told(rate: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_RATE_LIMIT: .* such as 100/minute"):
        Limiter.open(rate, "memory://")


@pytest.mark.parametrize("url", ["redis://:hunter2/@localhost:6379", "redis://localhost:port/0", "redis://[::1/0"])
def test_a_wrong_url_is_told_without_its_password(url: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_CACHE_URL: ") as raised:
        Limiter.open("1/minute", url)
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


def test_libraries_are_loaded_with_the_first_limit() -> None:
    check = "assert not {'limits', 'redis'} & sys.modules.keys(), sys.modules.keys()"
    script = f"import sys\nfrom eyespot.web.limiter import Limiter\n{check}\nLimiter.open('1/second', 'memory://')\n"
    subprocess.run([sys.executable, "-c", f"{script}assert 'redis' not in sys.modules"], check=True, timeout=60)


# Rate limits in a Redis


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that works is not lost because this machine is busy."""
    monkeypatch.setattr(breaker, "TIMEOUT_SECONDS", 30)


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "eyespot"]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level("INFO", "eyespot"):
        yield caplog


@pytest.mark.needs("redis-server")
def test_servers_count_together_in_a_redis(patient: None, log: pytest.LogCaptureFixture) -> None:
    async def scenario(url: str) -> None:
        async with limiter("5/minute;100/hour", url) as one, limiter("5/minute;100/hour", url) as other:
            assert await passed(one, "address:192.0.2.1", 3) == 3
            assert await passed(other, "address:192.0.2.1", 3) == 2
            refused = await refusal(one, "address:192.0.2.1")
            assert refused
            assert refused.retry_after
            assert 1 <= refused.retry_after <= 60
            assert refused.limit == 5
            assert await passed(other, "key:alice", 1) == 1
            assert await refusal(one, "key:alice", cost=4) is None
            assert await refusal(other, "key:alice", cost=1)
            answers = await asyncio.gather(*(refusal(one, "key:many") for _ in range(200)))
            assert answers.count(None) == 5
            assert min(answer.retry_after or 0 for answer in answers if answer) > 30

    with redis_server() as server:
        asyncio.run(scenario(server.url))
        with redis.Redis(port=server.port) as client:
            keys: Any = client.keys()
            assert keys
            assert all(key.startswith(b"eyespot:limit:") and client.ttl(key) > 0 for key in keys)
    assert events(log) == []


@pytest.mark.needs("redis-server")
def test_a_redis_that_ends_and_comes_back(patient: None, clock: Clock, log: pytest.LogCaptureFixture) -> None:
    async def scenario(server: RedisServer) -> None:
        async with limiter("2/hour", server.url) as two:
            assert await passed(two, "key:alice", 3) == 2
            assert events(log) == []
            server.kill()
            for expected in (2, 0, 0):
                assert await passed(two, "key:alice", 3) == expected
                clock.advance(1)
            assert events(log) == ["rate_limit_storage_lost"]
            server.start()
            assert await passed(two, "key:alice", 3) == 2
            assert events(log) == ["rate_limit_storage_lost", "rate_limit_storage_found"]

    with redis_server() as server:
        asyncio.run(scenario(server))


@pytest.mark.needs("redis-server")
def test_a_redis_that_hangs_for_a_while(
    clock: Clock, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(server: RedisServer) -> None:
        async with limiter("2/hour", server.url) as two:
            with monkeypatch.context() as patience:
                patience.setattr(breaker, "TIMEOUT_SECONDS", 30)
                assert await passed(two, "key:alice", 1) == 1
            server.pause()
            assert await passed(two, "key:alice", 5) == 2
            assert events(log) == ["rate_limit_storage_lost"]
            server.resume()
            clock.advance(1)
            monkeypatch.setattr(breaker, "TIMEOUT_SECONDS", 30)
            assert await passed(two, "key:bob", 5) == 2
            assert events(log) == ["rate_limit_storage_lost", "rate_limit_storage_found"]

    with redis_server() as server:
        asyncio.run(scenario(server))


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FakeRedis:
    """A server that treats each connection in the same wrong way."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.connections = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self.handler(reader, writer)
        writer.close()

    @contextlib.asynccontextmanager
    async def limiter(self, rate: str) -> AsyncIterator[Limiter]:
        async with await asyncio.start_server(self.connected, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            async with limiter(rate, f"redis://:hunter2@127.0.0.1:{port}") as opened:
                yield opened
        await listening.wait_closed()


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def farewell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def no_rights(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        writer.write(b"-NOAUTH Authentication required.\r\n" * 10)


def test_a_redis_that_is_slow_delays_nobody(clock: Clock, log: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with FakeRedis(silence).limiter("2/hour") as two:
            assert await passed(two, "key:alice", 5) == 2

    asyncio.run(scenario())
    (record,) = [record for record in log.records if record.name == "eyespot"]
    assert (record.message, record.levelno) == ("rate_limit_storage_lost", logging.WARNING)
    assert vars(record)["facts"] == {"reason": "no answer within 50 ms"}


@pytest.mark.parametrize("handler", [farewell, http, no_rights])
def test_a_redis_that_fails_refuses_nobody_and_is_left_alone(
    clock: Clock, patient: None, log: pytest.LogCaptureFixture, handler: Handler
) -> None:
    async def scenario() -> None:
        server = FakeRedis(handler)
        async with server.limiter("2/hour") as two:
            assert await passed(two, "key:alice", 5) == 2
            assert server.connections == 1
            clock.advance(0.9)
            assert await passed(two, "key:alice", 5) == 0
            assert server.connections == 1
            clock.advance(0.1)
            assert await passed(two, "key:alice", 5) == 0
            assert server.connections == 2

    asyncio.run(scenario())
    (record,) = [record for record in log.records if record.name == "eyespot"]
    assert record.message == "rate_limit_storage_lost"
    reason = vars(record)["facts"]["reason"]
    assert reason
    assert "hunter2" not in reason


def test_one_request_at_a_time_tries_a_redis_that_is_lost(
    clock: Clock, patient: None, log: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        server = FakeRedis(farewell)
        async with server.limiter("2/hour") as two:
            await asyncio.gather(*(refusal(two) for _ in range(5)))
            before = server.connections
            clock.advance(1)
            await asyncio.gather(*(refusal(two) for _ in range(5)))
            assert server.connections == before + 1

    asyncio.run(scenario())
    assert events(log) == ["rate_limit_storage_lost"]


def test_an_attempt_that_fails_late_is_no_complaint_of_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "TIMEOUT_SECONDS", 0)
    complaints: list[Any] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with FakeRedis(farewell).limiter("2/hour") as two:
            assert await passed(two, "key:alice", 1) == 1
            late = asyncio.all_tasks() - {asyncio.current_task()}
            assert await asyncio.wait(late, timeout=30) == (late, set())
            del late
            gc.collect()

    asyncio.run(scenario())
    assert complaints == []
