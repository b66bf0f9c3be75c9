"""API keys, client addresses, rate limits, and the middleware that holds requests to them."""

import asyncio
import contextlib
import gc
import logging
import pickle
import random
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import limits.aio.storage.memory
import pytest
import redis
from fastapi import Depends, FastAPI, Request, Response
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.routing import Route

from eyespot.errors import InvalidSetting, RateLimited
from eyespot.recognizer import Trace
from eyespot.telemetry import Metrics
from eyespot.web import access
from eyespot.web import limiter as limiting
from eyespot.web.access import Admission, Key, Keys, cors_origins, require_admin
from eyespot.web.addresses import client_address, trusted_networks
from eyespot.web.gate import problems
from eyespot.web.gate.request_log import RequestLog
from eyespot.web.limiter import Limiter
from tests.services import RedisServer, redis_server

SECRET = "correct-horse"
CLIENT = "203.0.113.9"
PROXIES = trusted_networks("10.0.0.0/8, 192.0.2.7, 2001:db8:aa::/48")


# Keys


def test_keys_are_found_by_their_secrets() -> None:
    keys = Keys.read("alice:correct-horse,bob.b-2_:battery#staple=:admin, ")
    assert keys.find(b"correct-horse") == Key("alice", admin=False)
    assert keys.find(b"battery#staple=") == Key("bob.b-2_", admin=True)
    for wrong in (b"", b"alice", b"correct-hors", b"correct-horse ", b"battery#staple=:admin", "gr\xfc\xdfe".encode()):
        assert keys.find(wrong) is None


@pytest.mark.parametrize("text", [None, ""])
def test_without_the_setting_there_are_no_keys(text: str | None) -> None:
    assert not Keys.read(text)
    assert Keys.read("alice:correct-horse")


def test_a_file_may_hold_the_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(
        b"\xef\xbb\xbf# whose, and what for\r\nalice:correct-horse # of a team, not a person\r\n\r\n"
        b"  # bob:correct-horse\r\nbob:battery#staple:admin,carol:secret-of-carol\n"
    )
    keys = Keys.read(f"@{file}")
    assert keys.find(b"correct-horse") == Key("alice", admin=False)
    assert keys.find(b"battery#staple") == Key("bob", admin=True)
    assert keys.find(b"secret-of-carol") == Key("carol", admin=False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SECRET, "key 1: before the colon"),
        (f":{SECRET}", "key 1: before the colon"),
        (f"{SECRET}:", "key 1: its secret"),
        (f"{SECRET}:alice", "key 1: its secret"),  # the wrong way round
        (f"al ice:{SECRET}", "key 1: before the colon"),
        (f"\xe4lice:{SECRET}", "key 1: before the colon"),
        (f"{'a' * 65}:{SECRET}", "key 1: before the colon"),
        ("alice:7-chars", "key 1: its secret"),
        (f"alice:{SECRET} {SECRET}", "key 1: its secret"),
        (f"alice:{SECRET}\xe4", "key 1: its secret"),
        (f"alice:{SECRET}\udcff", "key 1: its secret"),  # what Python makes of a byte that is no UTF-8
        (f"alice:{SECRET}:", "key 1: after the secret"),
        (f"alice:{SECRET}:Admin", "key 1: after the secret"),
        (f"alice:{SECRET}:admin:{SECRET}", "key 1: after the secret"),
        (f"alice:{SECRET}, ,alice:battery-staple", "key 2: its name is that of an earlier one"),
        (f"alice:{SECRET},bob:{SECRET}", "key 2: its secret is that of an earlier one"),
        (" , ", "there is no key in it"),
        ("@/nowhere/keys", "cannot read its file: No such file"),
        (f"@alice:{SECRET}", "cannot read its file: No such file"),
        ("@", "cannot read its file"),
        ("@a\0b", "no text"),
    ],
)
def test_a_wrong_key_is_told_without_a_secret(text: str, reason: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_API_KEYS: ") as raised:
        Keys.read(text)
    assert reason in str(raised.value)
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


@pytest.mark.parametrize("content", [b"", b"# alice:correct-horse\n", b"alice:correct-horse\n\xff\xfe"])
def test_a_wrong_file_is_told_without_a_secret(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_API_KEYS: ") as raised:
        Keys.read(f"@{file}")
    assert SECRET not in "".join(traceback.format_exception(raised.value))


@given(st.text(st.sampled_from("ab1:,#@ \n\xe4"), max_size=40))
def test_any_text_is_keys_or_a_wrong_setting(text: str) -> None:
    with contextlib.suppress(InvalidSetting):
        Keys.read(text)


def test_no_secret_is_kept() -> None:
    keys = Keys.read(f"alice:{SECRET}")
    assert SECRET.encode() not in pickle.dumps(keys)


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = set()

    def compare_digest(known: bytes, sent: bytes) -> bool:
        compared.add(known)
        return known == sent

    monkeypatch.setattr(access, "hmac", SimpleNamespace(compare_digest=compare_digest))
    keys = Keys.read(",".join(f"key{i}:secret-of-{i}" for i in range(5)))
    assert keys.find(b"secret-of-0") == Key("key0", admin=False)
    assert len(compared) == 5


# Client addresses


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        (None, [], None),
        (None, [CLIENT], None),
        ("testclient", [CLIENT], "testclient"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", [CLIENT], CLIENT),
        ("192.0.2.7", [CLIENT], CLIENT),
        ("192.0.2.8", [CLIENT], "192.0.2.8"),
        ("::ffff:10.0.0.1", [CLIENT], CLIENT),
        ("::ffff:192.0.2.8", [CLIENT], "192.0.2.8"),
        ("2001:db8:aa::1", ["2001:DB8::0:1"], "2001:db8::1"),
        ("10.0.0.1", [f"1.1.1.1, {CLIENT}"], CLIENT),
        ("10.0.0.1", ["1.1.1.1", CLIENT], CLIENT),
        ("10.0.0.1", [f"1.1.1.1, {CLIENT},10.9.9.9", "2001:db8:aa::2 , 10.0.0.2"], CLIENT),
        ("10.0.0.1", ["10.0.0.4, 10.0.0.3", "10.0.0.2"], "10.0.0.4"),
        ("10.0.0.1", [f"{CLIENT}, 10.0.0.3, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [f"{CLIENT}, unknown"], "10.0.0.1"),
        ("10.0.0.1", [f"{CLIENT}, "], "10.0.0.1"),
        ("10.0.0.1", [f"{CLIENT}:5678"], CLIENT),
        ("10.0.0.1", [f'"{CLIENT}:5678"'], CLIENT),
        ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]:80"], "2001:db8::1"),
        ("10.0.0.1", ['"[2001:db8::1]:80"'], "2001:db8::1"),
        ("10.0.0.1", [f"::ffff:{CLIENT}"], CLIENT),
        ("10.0.0.1", [f"[::ffff:{CLIENT}]:80"], CLIENT),
        ("10.0.0.1", [f"{CLIENT}:"], "10.0.0.1"),
        ("10.0.0.1", [f"{CLIENT}:http"], "10.0.0.1"),
        ("10.0.0.1", [f"[{CLIENT}]:80"], "10.0.0.1"),
        ("10.0.0.1", ["[2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]80"], "10.0.0.1"),
        ("10.0.0.1", ["[2001:db8::1]:http"], "10.0.0.1"),
        ("10.0.0.1", ["fe80::1%\nforged=1"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.09"], "10.0.0.1"),
        ("10.0.0.1", ["256.0.0.1"], "10.0.0.1"),
    ],
)
def test_the_client_is_the_nearest_that_is_no_proxy(
    peer: str | None, forwarded: list[str], address: str | None
) -> None:
    assert client_address(peer, forwarded, PROXIES) == address


ADDRESSES = st.ip_addresses().map(str)
HEADERS = st.lists(
    st.text(st.characters(max_codepoint=255))
    | st.text(st.sampled_from('0123456789abcdef.:,[]"% '))
    | st.lists(ADDRESSES, max_size=4).map(", ".join),
    max_size=4,
)


@given(HEADERS)
def test_who_is_not_trusted_cannot_choose_an_address(forwarded: list[str]) -> None:
    for peer in (CLIENT, "2001:db8::9"):
        assert client_address(peer, forwarded, PROXIES) == peer
        assert client_address(peer, forwarded, ()) == peer
    assert client_address(f"::ffff:{CLIENT}", forwarded, ()) == CLIENT


@given(HEADERS)
def test_what_a_client_sends_to_a_proxy_changes_nothing(forged: list[str]) -> None:
    assert client_address("10.0.0.1", [*forged, CLIENT], PROXIES) == CLIENT
    joined = ",".join([*forged, CLIENT, " 10.0.0.2"])
    assert client_address("10.0.0.1", [joined], PROXIES) == CLIENT


@given(HEADERS)
def test_the_client_is_always_an_address(forwarded: list[str]) -> None:
    address = client_address("10.0.0.1", forwarded, trusted_networks("0.0.0.0/0, ::/0"))
    assert address is not None
    assert str(ip_address(address)) == address
    assert "%" not in address


@pytest.mark.parametrize(
    ("entries", "address"),
    [
        ([CLIENT, *["10.0.0.9"] * 29], CLIENT),
        (["10.0.0.8", *["10.0.0.9"] * 29], "10.0.0.8"),
        ([CLIENT, *["10.0.0.9"] * 30], "10.0.0.1"),
        (["10.0.0.9"] * 31, "10.0.0.1"),
        (["10.0.0.9"] * 6000, "10.0.0.1"),
        (["10.0.0.9"] * 6000 + [CLIENT, *["10.0.0.9"] * 29], CLIENT),
        (["unknown"] * 8000 + ["10.0.0.9"] * 30, "10.0.0.1"),
    ],
    ids=["29 proxies", "30 proxies", "a client too far", "31 proxies", "6000 proxies", "forged", "forged nonsense"],
)
def test_thirty_hops_are_read_and_after_more_the_peer_counts(entries: list[str], address: str) -> None:
    for separator in (",", ", "):
        assert client_address("10.0.0.1", [separator.join(entries)], PROXIES) == address
    assert client_address("10.0.0.1", entries, PROXIES) == address


@pytest.mark.parametrize("text", [None, ""])
def test_nobody_is_trusted_unless_configured(text: str | None) -> None:
    assert trusted_networks(text) == ()


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("10.1.2.3/8", "10.255.0.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1/32", "2001:db8:ffff::1"),
        ("::1", "::1"),
        ("::ffff:192.0.2.0/120", "192.0.2.255"),
        ("0.0.0.0/0", "255.1.2.3"),
    ],
)
def test_networks(text: str, inside: str) -> None:
    assert any(ip_address(inside) in network for network in trusted_networks(f"172.16.0.0/12 , {text}"))
    assert trusted_networks(text) == trusted_networks(f" {text} ")


@pytest.mark.parametrize("text", ["*", "proxy", "10.0.0.0/33", "10.0.0.0/8,", "10.0.0.0/8;::1", "10.0.0", "a\0b"])
def test_a_wrong_network_is_told(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_TRUSTED_PROXIES: .* such as 10\.0\.0\.0/8"):
        trusted_networks(text)


# Origins


def test_origins() -> None:
    assert cors_origins(None) == cors_origins("") == []
    assert cors_origins("*") == ["*"]
    origins = ["https://example.org", "http://localhost:3000", "http://[::1]:80", "capacitor://localhost"]
    assert cors_origins(" , ".join(origins)) == origins
    assert cors_origins("HTTPS://Example.ORG") == ["https://example.org"]


@pytest.mark.parametrize(
    "text",
    [
        *("example.org", "https://example.org/", "https://example.org/page", "https://user@example.org", "null", ","),
        *("https://*.example.org", "https://example.org,*", "https://example.org:port", "https://", "//example.org"),
        "https://a.org https://b.org",
    ],
)
def test_a_wrong_origin_is_told(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_CORS_ORIGINS: .* such as https://example\.org"):
        cors_origins(text)


# Rate limits


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
        await limiter.check(who, cost)
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
                await single.check(f"key:{client}")
            assert len(storage.storage) == 100
            clock.advance(11)
            await single.check("key:last")
            await asyncio.sleep(0)
            assert len(storage.storage) == len(storage.locks) == 1

    asyncio.run(scenario())


def test_clients_without_number_take_no_memory_without_bound(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiting, "_MOST_COUNTERS", 100)

    async def scenario() -> None:
        async with limiter("1/hour") as single:
            storage: Any = vars(vars(single)["_counters"])["_storage"]
            for client in range(1000):
                await single.check(f"key:{client}")
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
    script = f"import sys\nfrom eyespot.web.access import Limiter\n{check}\nLimiter.open('1/second', 'memory://')\n"
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


# The middleware


def app_with(keys: str = "", rate: str = "", trusted: str = "") -> FastAPI:
    """An app that answers every path with what the middleware made of the request."""
    app = FastAPI(openapi_url=None)
    app.state.recognizer = SimpleNamespace(metrics=Metrics(), pool=SimpleNamespace(draining=False))
    problems.install(app)
    app.add_middleware(
        Admission,
        keys=Keys.read(keys),
        trusted=trusted_networks(trusted),
        limiter=Limiter.open(rate, "memory://") if rate else None,
    )
    app.add_middleware(RequestLog, paths=frozenset({"/predict"}))

    @app.get("/admin", dependencies=[Depends(require_admin)])
    async def admin() -> str:
        return "done"

    @app.get("/{path:path}")
    async def everything(request: Request) -> dict[str, object]:
        state = request.state
        return {"address": state.trace.address, "key": state.key, "admin": state.admin, "facts": state.facts}

    return app


def ask(app: FastAPI, path: str = "/predict", peer: str = CLIENT, **headers: str) -> httpx.Response:
    async def scenario() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(peer, 50000))
        async with httpx.AsyncClient(transport=transport, base_url="http://eyespot") as client:
            return await client.get(path, headers=[(name.replace("_", "-"), value) for name, value in headers.items()])

    return asyncio.run(scenario())


OPEN = [
    "/",
    "/docs",
    "/openapi.json",
    "/favicon.ico",
    "/static/a.js",
    "/livez",
    "/readyz",
    "/metrics",
    "/v2/health/live",
]
KEYS = f"alice:{SECRET},root:battery-staple:admin"


def test_without_settings_everything_is_open_and_a_key_is_ignored() -> None:
    app = app_with()
    for headers in ({}, {"x_api_key": "whatever"}, {"authorization": "Bearer whatever"}):
        reply = ask(app, **headers)
        assert reply.json() == {"address": CLIENT, "key": None, "admin": False, "facts": {}}


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {SECRET}"},
        {"authorization": f"bEARER   {SECRET} "},
        {"Authorization": f"Bearer {SECRET}", "x_api_key": "of-another-gateway"},
        {"x_api_key": SECRET},
        {"authorization": "Bearer of-another-gateway", "x_api_key": SECRET},
        {"X_API_Key": f" {SECRET}", "authorization": "Basic YTpi"},
    ],
)
def test_a_key_opens(headers: dict[str, str]) -> None:
    reply = ask(app_with(KEYS), **headers)
    assert reply.json() == {"address": CLIENT, "key": "alice", "admin": False, "facts": {"key": "alice"}}


def test_an_admin_key_is_told_from_the_others() -> None:
    assert ask(app_with(KEYS), x_api_key="battery-staple").json()["admin"] is True


@pytest.mark.parametrize("path", ["/predict", "/static", "/v2/health", "/livez/", "/nowhere", "/docs/x", "/v2/models"])
@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ({}, "An API key is needed"),
        ({"authorization": f"Basic {SECRET}"}, "An API key is needed"),
        ({"authorization": SECRET}, "An API key is needed"),
        ({"x_api_key": "alice"}, "The API key is not valid"),
        ({"x_api_key": ""}, "The API key is not valid"),
        ({"x_api_key": f"alice:{SECRET}"}, "The API key is not valid"),
        ({"authorization": f"Bearer {SECRET.upper()}"}, "The API key is not valid"),
    ],
)
def test_without_a_valid_key_there_is_no_answer(path: str, headers: dict[str, str], sentence: str) -> None:
    reply = ask(app_with(KEYS), path, **headers)
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")
    assert reply.json()["detail"] == f"{sentence}; send it as `Authorization: Bearer KEY` or as `X-API-Key: KEY`."
    assert reply.headers["www-authenticate"] == 'Bearer realm="eyespot"'
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("path", OPEN)
def test_probes_and_pages_need_no_key_and_have_no_limit(path: str) -> None:
    app = app_with(KEYS, rate="1/hour")
    for _ in range(3):
        assert ask(app, path).status_code == 200


@given(
    st.lists(
        st.sampled_from(["authorization", "x-api-key", "cookie"]).flatmap(
            lambda name: st.tuples(st.just(name.encode()), st.binary(max_size=20) | st.just(b"Bearer \xff"))
        )
    )
)
def test_hostile_headers_are_no_key(headers: list[tuple[bytes, bytes]]) -> None:
    answers: list[Any] = []

    async def app(*_: object) -> None:
        raise AssertionError

    async def send(message: Any) -> None:
        answers.append(message)

    state = {"facts": {}, "request_id": "1", "trace": Trace("1")}
    scope = {"type": "http", "path": "/predict", "headers": headers, "client": None, "state": state, "app": app_with()}
    asyncio.run(Admission(app, Keys.read(KEYS), (), None)(scope, None, send))  # type: ignore[arg-type]
    assert answers[0]["status"] == 401


def test_no_request_is_more_than_one_guess_of_each_kind() -> None:
    guesses = [f"guess-number-{i}" for i in range(9)]
    random.Random(1).shuffle(guesses)
    headers = [(b"x-api-key", guess.encode()) for guess in [*guesses[:4], SECRET, *guesses[4:]]]
    app = app_with(KEYS)

    async def scenario() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://eyespot") as client:
            return await client.get("/predict", headers=headers)

    assert asyncio.run(scenario()).status_code == 401


def test_a_limit_holds_for_each_key_and_else_for_each_address(clock: Clock) -> None:
    app = app_with(KEYS, rate="2/hour")

    def statuses(**sent: str) -> list[int]:
        return [ask(app, **sent).status_code for _ in range(3)]

    assert statuses(x_api_key=SECRET) == [200, 200, 429]
    assert statuses(x_api_key=SECRET, peer="192.0.2.1") == [429, 429, 429]
    assert statuses(x_api_key="battery-staple") == [200, 200, 429]
    assert statuses(x_api_key="a-wrong-key") == [401, 401, 429]
    assert statuses() == [429, 429, 429]
    assert statuses(peer="192.0.2.1") == [401, 401, 429]


def test_without_keys_a_limit_holds_for_each_address(clock: Clock) -> None:
    app = app_with(rate="1/hour", trusted="10.0.0.0/8")
    assert ask(app).status_code == 200
    reply = ask(app, x_api_key="whatever")
    problem = reply.json()
    assert (reply.status_code, problem["code"], problem["limit"]) == (429, "rate-limited", 1)
    assert problem["detail"] == f"1 requests per 1 hour are allowed; try again in {reply.headers['retry-after']} s."
    assert ask(app, x_forwarded_for="192.0.2.1").status_code == 429
    assert ask(app, peer="10.0.0.1", x_forwarded_for="192.0.2.1").status_code == 200
    assert ask(app, peer="10.0.0.2", x_forwarded_for="192.0.2.1").status_code == 429


def test_the_log_learns_of_a_proxy() -> None:
    app = app_with(trusted="10.0.0.0/8, ::/0")
    forwarded = ask(app, peer="10.0.0.1", x_forwarded_for="1.1.1.1, 192.0.2.1").json()
    assert (forwarded["address"], forwarded["facts"]) == ("192.0.2.1", {"peer": "10.0.0.1"})
    for peer in ("10.0.0.1", "::ffff:10.0.0.1"):
        assert ask(app, peer=peer).json()["facts"] == {}
    direct = ask(app, peer="192.0.2.1", x_forwarded_for="1.1.1.1").json()
    assert (direct["address"], direct["facts"]) == ("192.0.2.1", {})


@pytest.mark.parametrize(
    ("keys", "sent", "status", "sentence"),
    [
        (KEYS, "battery-staple", 200, None),
        (KEYS, SECRET, 403, "The API key alice is no admin key."),
        (KEYS, "a-wrong-key", 401, None),
        ("", "battery-staple", 403, "Admin routes are closed until EYESPOT_API_KEYS names an admin key."),
    ],
)
def test_admin_routes_need_an_admin_key(keys: str, sent: str, status: int, sentence: str | None) -> None:
    reply = ask(app_with(keys), "/admin", x_api_key=sent)
    assert reply.status_code == status
    if sentence:
        assert (reply.json()["code"], reply.json()["detail"]) == ("forbidden", sentence)


def test_no_browser_guesses_at_a_reply_of_any_status() -> None:
    app = app_with()
    app.router.routes.insert(
        0, Route("/status/{of:int}", lambda request: Response(status_code=request.path_params["of"]))
    )
    for status in (200, 204, 206, 304, 307, 400, 404, 499, 500, 503):
        reply = ask(app, f"/status/{status}")
        assert (reply.status_code, reply.headers.get_list("x-content-type-options")) == (status, ["nosniff"])


def test_what_is_no_request_passes_through() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    asyncio.run(Admission(app, Keys.read(KEYS), (), None)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == [{"type": "lifespan"}]
