"""How often anybody may ask."""

import asyncio
import math
import time
from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from eyespot.errors import InvalidSetting, RateLimited
from eyespot.memory.breaker import COOLDOWN_SECONDS, CircuitBreaker, StoreUnavailable
from eyespot.web.gate.addresses import parse_address


class Limiter:
    """Refuses who sends more requests than anybody may."""

    def __init__(self, counters: "_MemoryCounters | _RedisCounters", least: Any) -> None:
        """`least` is the rate with the smallest amount."""
        self._counters = counters
        self._least = least

    @classmethod
    def open(cls, rate: str, storage_url: str) -> "Limiter":
        """Limits such as `100/minute` or `10/second;1000/hour`, counted in a `redis://…` or, else, in this process.

        Raises:
            InvalidSetting: the rate or the URL is wrong.
        """
        from limits import aio, parse_many

        try:
            rates = parse_many(rate)
        except ValueError:
            rates = []
        if not rates or not all(each.amount for each in rates):
            raise InvalidSetting(f"EYESPOT_RATE_LIMIT: {rate!r} is no rate such as 100/minute or 10/second;1000/hour")
        least = min(rates, key=lambda each: int(each.amount))
        # Two counters for each client. The moving window keeps the time of every request: in a Redis by the clock of
        # the server that asks; in memory, a thread looks through each client's.
        strategy = aio.strategies.SlidingWindowCounterRateLimiter
        memory = aio.storage.MemoryStorage()
        in_memory = _MemoryCounters(_Counters(strategy(memory), rates), memory)
        if not storage_url.startswith(("redis://", "rediss://")):
            return cls(in_memory, least)
        storage, pool = _open_redis(storage_url)
        return cls(_RedisCounters(_Counters(strategy(storage), rates), pool, in_memory), least)

    async def charge(self, who: str, cost: int = 1, *, charged: int = 0) -> None:
        """Count a request of `key:NAME` or `address:ADDRESS`, or `cost` of them.

        Raises:
            RateLimited: it is one too many.
        """
        refusal = await self._counters.refusal(_counted_as(who), cost - charged)
        if refusal:
            raise refusal

    @property
    def largest_cost(self) -> int:
        """The most requests that can ever pass at once."""
        return int(self._least.amount)

    async def close(self) -> None:
        """Close the connections to the Redis."""
        await self._counters.close()


def _counted_as(who: str) -> str:
    """IPv6 counts by /64, of which one customer has at least one whole."""
    kind, _, address = who.partition(":")
    if kind == "address" and ":" in address:
        known = parse_address(address)
        if isinstance(known, IPv6Address):
            return f"address:{IPv6Network((int(known), 64), strict=False)}"
    return who


class _Counters:
    """Requests counted by a strategy of `limits`, in a storage of it."""

    def __init__(self, strategy: Any, rates: Iterable[Any]) -> None:
        self._strategy = strategy
        # The shortest first, so that what is refused for a second's sake is not charged to the hour.
        self._rates = sorted(rates, key=lambda rate: int(rate.get_expiry()))

    async def refusal(self, who: str, cost: int) -> RateLimited | None:
        for rate in self._rates:
            if not await self._strategy.hit(rate, who, cost=cost):
                return await self._refusal(who, rate, cost)
        return None

    async def _refusal(self, who: str, broken: Any, cost: int) -> RateLimited:
        """With the time until all the rates have room again."""
        longest = 1
        for rate in self._rates:
            seconds = math.ceil(await self._seconds_to_room(rate, who, cost))
            if seconds > longest:
                longest, broken = seconds, rate
        return RateLimited(
            f"{_told(broken)} are allowed; try again in {longest} s.", limit=broken.amount, retry_after=longest
        )

    async def _seconds_to_room(self, rate: Any, who: str, cost: int) -> float:
        """Until `cost` more requests are let through; not positive when that is now.

        The strategy's own `get_window_stats` says now when the window has begun within the same millisecond.
        """
        window = rate.get_expiry()
        counters = await self._strategy.storage.get_sliding_window(rate.key_for(who), window)
        previous, previous_ends_in, current, current_ends_in = counters
        most = rate.amount - cost + 1
        free = most - current
        if free <= 0:  # then it becomes the previous one
            return float(current_ends_in - window + window * max(0, 1 - most / current))
        return float(previous_ends_in - window * free / previous) if previous else 0.0  # whose weight goes down to 0


def _told(rate: Any) -> str:
    return f"{rate.amount} requests per {rate.multiples} {rate.GRANULARITY.name}{'s' if rate.multiples > 1 else ''}"


_SET_BACK_SECONDS = 2  # more than a clock is slewed by between two requests
_SWEEP_SECONDS = 10
_MOST_COUNTERS = 100_000  # 33 MB


class _MemoryCounters:
    """Counters of this process."""

    def __init__(self, counters: _Counters, storage: Any) -> None:
        self._counters = counters
        self._storage = storage
        self._ahead = time.time() - time.monotonic()
        self._swept = time.monotonic()

    async def refusal(self, who: str, cost: int) -> RateLimited | None:
        now = time.monotonic()
        # The storage goes by the wall clock. Set back by an hour, that would keep a full counter full for an hour.
        ahead = time.time() - now
        if self._ahead - ahead > _SET_BACK_SECONDS or len(self._storage.storage) > _MOST_COUNTERS:
            await self._storage.reset()
        self._ahead = ahead
        self._sweep_seldom(now)
        return await self._counters.refusal(who, cost)

    def _sweep_seldom(self, now: float) -> None:
        """Keep the storage from looking through all its counters at every request: 1.3 ms with those of 10 000 clients.

        It does so whenever its timer is not pending.
        """
        if now - self._swept >= _SWEEP_SECONDS:
            self._swept = now
            self._storage.timer = None
        else:
            self._storage.timer = asyncio.Future()

    async def close(self) -> None:
        pass


class _RedisCounters:
    """Counters that servers share; while the Redis that has them does not answer, those of this process."""

    def __init__(self, counters: _Counters, pool: Any, fallback: _MemoryCounters) -> None:
        self._counters = counters
        self._pool = pool
        self._fallback = fallback
        self._remote = CircuitBreaker("rate_limit_storage")

    async def refusal(self, who: str, cost: int) -> RateLimited | None:
        try:
            return await self._remote.ask(lambda: self._counters.refusal(who, cost))
        except StoreUnavailable:
            return await self._fallback.refusal(who, cost)

    async def close(self) -> None:
        await self._remote.close()
        await self._pool.aclose()


def _open_redis(url: str) -> tuple[Any, Any]:
    """A storage of `limits`, and its connections."""
    from limits import aio
    from redis.asyncio import BlockingConnectionPool
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    try:
        pool: Any = BlockingConnectionPool.from_url(
            url,
            socket_timeout=COOLDOWN_SECONDS,
            socket_connect_timeout=COOLDOWN_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        storage = aio.storage.RedisStorage(
            f"async+{url}", implementation="redispy", key_prefix="eyespot:limit", connection_pool=pool
        )
    except ValueError:  # its text may hold a part of the password
        example = "redis://localhost:6379/0"
        raise InvalidSetting(f"EYESPOT_CACHE_URL: this is no URL of a Redis, such as {example}") from None
    return storage, pool
