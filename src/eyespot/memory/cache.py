"""Results by image, cached in this process or in a Redis that several replicas share.

A key is the sha256 of the image and a `variant`: everything else that the result depends on.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakValueDictionary

from cachetools import LRUCache

from eyespot.errors import CacheUnavailable
from eyespot.memory.breaker import COOLDOWN_SECONDS, TIMEOUT_SECONDS, CircuitBreaker, StoreUnavailable, open_redis
from eyespot.telemetry import Metrics, event

MEMORY_BYTES = 64 * 1024 * 1024
_ENTRY_BYTES = 400  # of an entry besides its value: the key, the places in two dictionaries, the order
_TTL_SECONDS = 7 * 24 * 3600
_MAX_PUTS = 1000  # on their way to Redis
_QUIET_SECONDS = 60  # between two `cache_refused` events


class MemoryCache:
    """The most recently used values, up to `max_bytes`. For use from the event loop only."""

    def __init__(self, max_bytes: int) -> None:
        self._entries: LRUCache[tuple[str, str], bytes] = LRUCache(max_bytes, lambda value: len(value) + _ENTRY_BYTES)

    async def get(self, sha256: str, variant: str) -> bytes | None:
        return self._entries.get((sha256, variant))

    def put(self, sha256: str, variant: str, value: bytes) -> None:
        if len(value) + _ENTRY_BYTES <= self._entries.maxsize:
            self._entries[sha256, variant] = value

    async def drop(self, sha256: str) -> bool:
        """Remove all variants; whether there were any."""
        dropped = [key for key in self._entries if key[0] == sha256]  # a few milliseconds when full, and rare
        for key in dropped:
            del self._entries[key]
        return bool(dropped)

    def state(self) -> tuple[bool, str]:
        """Whether the cache works, and details for the operator."""
        used, limit = (round(size / 2**20, 1) for size in (self._entries.currsize, self._entries.maxsize))
        return True, f"in memory, {len(self._entries)} answers, {used} of {limit} MiB"

    async def close(self) -> None:
        self._entries.clear()


class RedisCache:
    """One hash per image with a field per variant, so that `drop` reaches the variants of other replicas too.

    Reads wait for Redis as long as the circuit breaker allows, and fail as misses. Writes run in the background.
    """

    def __init__(self, url: str, metrics: Metrics, *, timeout: float = TIMEOUT_SECONDS) -> None:
        from redis.exceptions import ResponseError

        self._client = open_redis(url)
        self._response_error = ResponseError
        self._metrics = metrics
        self._breaker = CircuitBreaker("cache", timeout=timeout)
        self._puts: set[asyncio.Task[Any]] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by sha256
        self._quiet_until = -math.inf

    async def get(self, sha256: str, variant: str) -> bytes | None:
        """The value; None also if Redis is unavailable."""
        value: bytes | None = await self._call(lambda: self._client.hget(_key(sha256), variant))
        return value

    def put(self, sha256: str, variant: str, value: bytes) -> None:
        if not self._breaker.is_open and len(self._puts) < _MAX_PUTS:
            task = self._in_order(sha256, lambda: self._put(_key(sha256), variant, value))
            self._puts.add(task)
            task.add_done_callback(self._puts.discard)

    async def _put(self, key: str, variant: str, value: bytes) -> None:
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.hset(key, variant, value)
            pipeline.expire(key, _TTL_SECONDS)
            await pipeline.execute()

    async def drop(self, sha256: str) -> bool:
        """As in memory, those of unfinished puts too; raises `CacheUnavailable` if some may be left."""
        dropped = await self._in_order(sha256, lambda: self._client.delete(_key(sha256)))
        if dropped is None:
            raise CacheUnavailable(retry_after=COOLDOWN_SECONDS)
        return bool(dropped)

    def _in_order(self, sha256: str, command: Callable[[], Awaitable[Any]]) -> asyncio.Task[Any]:
        """Send a command once the image's earlier ones have finished: on another connection it could overtake them."""
        lock = self._locks.setdefault(sha256, asyncio.Lock())

        async def locked() -> Any:
            async with lock:
                return await command()

        return asyncio.create_task(self._call(locked))

    async def _call(self, command: Callable[[], Awaitable[Any]]) -> Any:
        """The reply; None if Redis is unavailable or refuses the command."""

        async def call() -> Any:
            try:
                return await command()
            except self._response_error as error:  # such as out of memory: Redis is up, the breaker stays closed
                self._metrics.cache_errors.inc()
                if time.monotonic() > self._quiet_until:
                    self._quiet_until = time.monotonic() + _QUIET_SECONDS
                    event("cache_refused", logging.WARNING, reason=str(error))

        if self._breaker.is_open:
            return None
        try:
            return await self._breaker.call(call)
        except StoreUnavailable:
            self._metrics.cache_errors.inc()
            return None

    def state(self) -> tuple[bool, str]:
        failure = self._breaker.failure
        return not failure, f"redis, lost: {failure}" if failure else "redis"

    async def close(self) -> None:
        await asyncio.gather(*self._puts)
        await self._breaker.close()
        await self._client.aclose()


def _key(sha256: str) -> str:
    return f"eyespot:answers:{sha256}"


Cache = MemoryCache | RedisCache


def open_cache(url: str, metrics: Metrics) -> Cache | None:
    """The cache at `memory://`, `memory://?max_bytes=N` or `redis://…`, or none for `off`; raises `InvalidSetting`."""
    if url == "off":
        return None
    if url.startswith("memory:"):
        return MemoryCache(int(url.partition("=")[2] or MEMORY_BYTES))
    return RedisCache(url, metrics)
