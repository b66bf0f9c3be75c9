"""Clients are counted exactly, whatever the clock, the Redis or the number of clients does."""

import asyncio
import contextlib
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from eyespot.errors import InvalidSetting, RateLimited
from eyespot.memory.breaker import TIMEOUT_SECONDS
from eyespot.memory.rate_limiter import Rate, RateLimiter
from tests.memory.helpers import Clock, events, eventually
from tests.services import RedisServer, redis_server


def limiter(rates: str, clock: Clock | None = None, **options: int) -> RateLimiter:
    return RateLimiter([Rate.parse(rate) for rate in rates.split(";")], clock=clock or Clock(), **options)


async def refusal(
    limiter: RateLimiter, client: str = "key:alice", cost: int = 1, charged: int = 0
) -> RateLimited | None:
    try:
        await limiter.charge(client, cost, charged=charged)
    except RateLimited as refused:
        return refused
    return None


async def passed(limiter: RateLimiter, client: str, requests: int) -> int:
    """How many of these requests were allowed."""
    return sum([await refusal(limiter, client) is None for _ in range(requests)])


def test_one_too_many_is_refused() -> None:
    async def scenario() -> None:
        three = limiter("3/minute")
        assert await passed(three, "key:alice", 3) == 3
        refused = await refusal(three)
        assert refused
        assert (refused.status, refused.limit, refused.retry_after) == (429, 3, 20)
        assert refused.detail == "The limit is 3 requests per minute; try again in 20 s."
        assert await passed(three, "key:bob", 4) == 3

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "sentence", "seconds"),
    [
        ("100/minute", "100 requests per minute", 60),
        ("1/hour", "1 request per hour", 3600),
        ("5 per 2 hours", "5 requests per 2 hours", 7200),
        (" 1 per 1 Days ", "1 request per day", 86400),
        ("7per3MONTHS", "7 requests per 3 months", 3 * 30 * 86400),
        ("10/second", "10 requests per second", 1),
        ("10 / year", "10 requests per year", 360 * 86400),
    ],
)
def test_a_rate_is_read_and_written(text: str, sentence: str, seconds: int) -> None:
    rate = Rate.parse(text)
    assert (str(rate), rate.seconds) == (sentence, seconds)


@pytest.mark.parametrize("separator", [";", ",", "|", " ; "])
def test_several_rates_hold_together(separator: str) -> None:
    assert RateLimiter.open(f"10/second{separator}7/hour", "memory://").largest_cost == 7


@pytest.mark.parametrize(
    "rate",
    [
        *("", "100", "minute", "100/fortnight", "-1/minute", "0/minute", "1/second;0/hour", "a/s", "1/second;"),
        *("1 per 0 hours", "1/s", "1/minutess", "1.5/minute", "²/minute", f"{'9' * 5000}/minute"),
    ],
)
def test_an_invalid_rate_is_refused(rate: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_RATE_LIMIT: '.*' is not a rate such as 100/minute"):
        RateLimiter.open(rate, "memory://")


def test_an_invalid_redis_is_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_CACHE_URL: "):
        RateLimiter.open("1/minute", "redis://host:port/0")


PARTS_OF_A_PERIOD = st.sampled_from([0, 0.25, 0.5, 1]) | st.floats(0, 2.5)


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 1),
    st.sampled_from([1, 7, 60, 3600]),
    st.lists(st.tuples(PARTS_OF_A_PERIOD, st.integers(1, 12)), min_size=1, max_size=10),
)
@example(amount=1, cost=1, charged=0, period=60, bursts=[(1 / 3, 1), (0, 1)])
@example(amount=8, cost=8, charged=1, period=60, bursts=[(0, 1)])
def test_a_retry_is_allowed_after_the_announced_time_and_not_before(
    amount: int, cost: int, charged: int, period: int, bursts: list[tuple[float, int]]
) -> None:
    cost = min(cost, amount)
    charged = min(charged, cost - 1)

    async def retry(some: RateLimiter) -> RateLimited | None:
        """As a batch is charged: one request before its images are known."""
        return (charged and await refusal(some, cost=charged)) or await refusal(some, cost=cost, charged=charged)

    async def scenario() -> None:
        clock = Clock()
        some = limiter(f"{amount} per {period} seconds", clock)
        for pause, requests in bursts:
            clock.advance(pause * period)
            await passed(some, "key:alice", requests)
            refused = await refusal(some, cost=cost, charged=charged)
            if not refused:
                continue
            assert refused.retry_after
            clock.advance(refused.retry_after - 1)
            if not charged:
                assert await refusal(some, cost=cost)
            clock.advance(1)
            assert not await retry(some)

    asyncio.run(scenario())


@given(
    st.integers(1, 1000), st.sampled_from(["second", "minute", "7 days", "year"]), st.floats(0, 1e9), st.integers(1, 5)
)
def test_a_burst_is_counted_exactly(amount: int, period: str, start: float, rounds: int) -> None:
    async def scenario() -> None:
        clock = Clock()
        clock.advance(start)
        some = limiter(f"{amount} per {period}", clock)
        for _ in range(rounds):
            assert await passed(some, "key:alice", amount + 3) == amount
            clock.advance(Rate.parse(f"1 per {period}").seconds)

    asyncio.run(scenario())


def test_requests_at_once_are_counted_exactly() -> None:
    async def scenario() -> int:
        ten = limiter("10/hour")
        answers = await asyncio.gather(*(refusal(ten) for _ in range(50)))
        return answers.count(None)

    assert asyncio.run(scenario()) == 10


@pytest.mark.parametrize("rates", ["3/hour;1/second", "1/second;3/hour"])
def test_a_request_that_one_rate_refuses_is_charged_to_none(rates: str) -> None:
    async def scenario() -> None:
        clock = Clock()
        both = limiter(rates, clock)
        for _ in range(3):
            assert await passed(both, "key:alice", 5) == 1
            clock.advance(1)
        refused = await refusal(both)
        assert refused
        assert (refused.limit, refused.retry_after) == (3, 1197)

    asyncio.run(scenario())


def test_the_longest_wait_is_announced() -> None:
    async def scenario() -> None:
        clock = Clock()
        both = limiter("1 per 3 seconds;2 per 2 hours", clock)
        for _ in range(2):
            assert await passed(both, "key:alice", 1) == 1
            clock.advance(3)
        clock.advance(-1)
        refused = await refusal(both)  # by both
        assert refused
        assert refused.detail == "The limit is 2 requests per 2 hours; try again in 3595 s."

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
def test_who_is_counted_together(one: str, other: str, together: bool) -> None:
    async def scenario() -> None:
        single = limiter("1/minute")
        assert await passed(single, one, 2) == 1
        assert await passed(single, other, 1) == (0 if together else 1)

    asyncio.run(scenario())


def test_clients_that_are_not_limited_any_more_take_no_memory() -> None:
    async def scenario() -> None:
        clock = Clock()
        single = limiter("1/second", clock)
        for client in range(100):
            await single.charge(f"key:{client}")
        assert len(single._arrivals) == 100
        clock.advance(1)
        await single.charge("key:last")
        assert len(single._arrivals) == 1

    asyncio.run(scenario())


def test_of_too_many_clients_the_least_recently_active_are_forgotten() -> None:
    async def scenario() -> None:
        single = limiter("1/hour", max_clients=100)
        for client in range(1000):
            await single.charge(f"key:{client}")
            assert await refusal(single, "key:0")
            assert len(single._arrivals) <= 100
        assert [await refusal(single, f"key:{client}") is None for client in (999, 950, 500)] == [False, False, True]

    asyncio.run(scenario())


def test_redis_is_imported_only_for_a_redis() -> None:
    script = "import sys; from eyespot.web.app import RateLimiter; RateLimiter.open('1/second', 'memory://')\n"
    subprocess.run([sys.executable, "-c", f"{script}assert 'redis' not in sys.modules"], check=True, timeout=60)


# In a Redis

PATIENT = 30  # seconds: a Redis that works is not lost because this machine is busy


@contextlib.asynccontextmanager
async def shared(
    rates: str, url: str, clock: Clock | None = None, store_timeout: float = PATIENT
) -> AsyncIterator[RateLimiter]:
    opened = RateLimiter(
        [Rate.parse(rate) for rate in rates.split(";")], url, timeout=store_timeout, clock=clock or Clock()
    )
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO", "eyespot")
    return caplog


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.mark.needs("redis-server")
def test_servers_count_together_in_a_redis(log: pytest.LogCaptureFixture, server: RedisServer) -> None:
    async def scenario() -> None:
        async with shared("5/hour;100/day", server.url) as one, shared("5/hour;100/day", server.url) as other:
            assert await passed(one, "address:192.0.2.1", 3) == 3
            assert await passed(other, "address:192.0.2.1", 3) == 2
            refused = await refusal(one, "address:192.0.2.1")
            assert refused
            assert refused.retry_after
            assert 660 <= refused.retry_after <= 720
            assert refused.limit == 5
            assert await passed(other, "key:alice", 1) == 1
            assert await refusal(one, "key:alice", cost=4) is None
            assert await refusal(other, "key:alice", cost=1)
            answers = await asyncio.gather(*(refusal(one, "key:many") for _ in range(200)))
            assert answers.count(None) == 5
            assert {answer.limit for answer in answers if answer} == {5}

    asyncio.run(scenario())
    with redis.Redis(port=server.port) as client:
        keys = client.keys()
        assert len(keys) == 6
        assert all(key.startswith(b"eyespot:limit:") for key in keys)
        assert all(0 < client.ttl(key) <= 86400 for key in keys)
    assert events(log) == []


numbers = itertools.count()


@pytest.mark.needs("redis-server")
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_a_redis_counts_as_this_process_does(server: RedisServer, costs: list[int]) -> None:
    async def scenario() -> None:
        here = limiter("20/year;9/month")
        async with shared("20/year;9/month", server.url) as there:
            client = f"key:{next(numbers)}"
            for cost in costs:
                one, other = await refusal(here, client, cost), await refusal(there, client, cost)
                assert (one and one.limit) == (other and other.limit)
                assert not one or abs((one.retry_after or 0) - ((other and other.retry_after) or 0)) <= 60

    asyncio.run(scenario())


@pytest.mark.needs("redis-server")
def test_a_redis_whose_clock_was_set_back_locks_nobody_out(server: RedisServer) -> None:
    async def scenario() -> RateLimited | None:
        async with shared("2/hour", server.url) as two:
            assert await refusal(two, "key:early") is None
            with redis.Redis(port=server.port) as client:
                client.set("eyespot:limit:key:early:2/3600", "1e12")
            return await refusal(two, "key:early")

    refused = asyncio.run(scenario())
    assert refused
    assert refused.retry_after == 1800


@pytest.mark.needs("redis-server")
def test_a_redis_that_ends_and_comes_back(log: pytest.LogCaptureFixture) -> None:
    async def scenario(server: RedisServer) -> None:
        clock = Clock()
        async with shared("2/hour", server.url, clock) as two:
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
def test_a_redis_that_hangs_for_a_while(log: pytest.LogCaptureFixture) -> None:
    async def scenario(server: RedisServer) -> None:
        clock = Clock()
        async with shared("2/hour", server.url, clock, store_timeout=1) as two:
            assert await passed(two, "key:alice", 1) == 1
            server.pause()
            assert await passed(two, "key:alice", 5) == 2
            assert events(log) == ["rate_limit_storage_lost"]
            server.resume()
            async with asyncio.timeout(30):
                while events(log) != ["rate_limit_storage_lost", "rate_limit_storage_found"]:
                    clock.advance(1)
                    await passed(two, "key:carol", 1)
            assert await passed(two, "key:bob", 5) == 2

    with redis_server() as server:
        asyncio.run(scenario(server))


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


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


@pytest.mark.parametrize(
    ("handler", "timeout"), [(silence, TIMEOUT_SECONDS), (farewell, PATIENT), (http, PATIENT), (no_rights, PATIENT)]
)
def test_a_redis_that_misbehaves_refuses_nobody_and_is_left_alone(
    log: pytest.LogCaptureFixture, handler: Handler, timeout: float
) -> None:
    connections = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await handler(reader, writer)
        writer.close()

    async def scenario() -> None:
        clock = Clock()
        async with await asyncio.start_server(connected, "127.0.0.1", 0) as listening:
            url = f"redis://:hunter2@127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            async with shared("2/hour", url, clock, timeout) as two:
                assert await passed(two, "key:alice", 5) == 2
                await eventually(lambda: connections > 0)
                tried = connections
                assert tried <= 2  # at once, and once more
                clock.advance(0.9)
                assert await passed(two, "key:alice", 5) == 0
                assert connections == tried
                clock.advance(0.1)
                assert await passed(two, "key:alice", 5) == 0
                assert connections >= tried

    asyncio.run(scenario())
    (record,) = [record for record in log.records if record.name == "eyespot"]
    assert record.message == "rate_limit_storage_lost"
    reason = vars(record)["facts"]["reason"]
    assert reason
    assert "hunter2" not in reason
