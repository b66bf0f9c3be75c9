"""Where answers are remembered: in this process, or in a Redis that several replicas share."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit
from weakref import WeakValueDictionary

from cachetools import LRUCache

from eyespot.errors import CacheUnavailable, InvalidSetting
from eyespot.memory.breaker import COOLDOWN_SECONDS, CircuitBreaker, StoreUnavailable
from eyespot.telemetry import Metrics, event

MEMORY_BYTES = 64 * 1024 * 1024
_ENTRY_BYTES = 400  # what an entry takes beside its value: the key, two dictionaries' places, the order
_KEPT_SECONDS = 7 * 24 * 3600
_MAX_PUTTING = 1000  # answers on their way into Redis; more are not remembered
_SILENT_SECONDS = 60  # between two events that say that Redis refuses something


class Cache(Protocol):
    """Answers by the sha256 of the image and `variant`, which stands for all else that they depend on.

    What is not there, or cannot be had, is None; only `drop` raises.
    """

    async def get(self, sha256: str, variant: str) -> bytes | None: ...

    def put(self, sha256: str, variant: str, value: bytes) -> None: ...

    async def drop(self, sha256: str) -> bool:
        """Forget every variant, with what is being put; whether there was any.

        Raises:
            CacheUnavailable: some may still be there.
        """
        ...

    def state(self) -> tuple[bool, str]:
        """Whether it works, and what there is to say of it."""
        ...

    async def close(self) -> None: ...


def open_cache(url: str, metrics: Metrics) -> Cache | None:
    """The cache at that address: `memory://`, `memory://?max_bytes=N`, `redis://…`, `rediss://…`, or None for `off`.

    Raises:
        InvalidSetting: this is no such address.
    """
    if url == "off":
        return None
    if url.startswith("memory:"):
        return MemoryCache(_max_bytes(url))
    try:
        return RedisCache(url, metrics)
    except (ValueError, TypeError):  # whose words may repeat a part of a password
        raise InvalidSetting(
            "EYESPOT_CACHE_URL: this is no address such as redis://user:password@host:6379/0; what is neither letter "
            "nor digit in a password is written as %XX"
        ) from None


def _max_bytes(url: str) -> int:
    parts = urlsplit(url)
    given = parse_qs(parts.query, keep_blank_values=True)
    text = given.pop("max_bytes", [str(MEMORY_BYTES)])[-1]
    if given or parts.netloc or parts.path or not text.isdecimal():
        raise InvalidSetting(f"EYESPOT_CACHE_URL={url}: write memory:// or memory://?max_bytes={MEMORY_BYTES}")
    return int(text)


class MemoryCache:
    """The most recently used entries, within a number of bytes. Used from the event loop only."""

    def __init__(self, max_bytes: int) -> None:
        self._entries: LRUCache[tuple[str, str], bytes] = LRUCache(
            max_bytes, getsizeof=lambda value: len(value) + _ENTRY_BYTES
        )

    async def get(self, sha256: str, variant: str) -> bytes | None:
        return self._entries.get((sha256, variant))

    def put(self, sha256: str, variant: str, value: bytes) -> None:
        if len(value) + _ENTRY_BYTES <= self._entries.maxsize:
            self._entries[sha256, variant] = value

    async def drop(self, sha256: str) -> bool:
        dropped = [name for name in self._entries if name[0] == sha256]  # some milliseconds when full, and seldom
        for name in dropped:
            del self._entries[name]
        return bool(dropped)

    def state(self) -> tuple[bool, str]:
        have, room = (round(size / 2**20, 1) for size in (self._entries.currsize, self._entries.maxsize))
        return True, f"in memory, {len(self._entries)} answers, {have} of {room} MiB"

    async def close(self) -> None:
        self._entries.clear()


class RedisCache:
    """Entries in Redis, kept for seven days at most, or less when Redis needs the room.

    Each image is a hash with a field for each variant, so that a deletion reaches those of other replicas too, which
    may run another version, model or precision.

    A Redis that is slow or gone costs a request 50 ms at most; until it answers again all is a miss. What is put
    is sent in the background.
    """

    def __init__(self, url: str, metrics: Metrics) -> None:
        from redis import asyncio as redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import ResponseError

        # One more attempt: a connection that was cut while it was idle is opened anew within the same request.
        self._client = redis.Redis.from_url(
            url, retry=Retry(NoBackoff(), 1), socket_timeout=COOLDOWN_SECONDS, socket_connect_timeout=COOLDOWN_SECONDS
        )
        pool: Any = self._client.connection_pool
        pool.make_connection()  # raises when there is an option that it does not know
        if not (urlsplit(url).path.strip("/") or "0").isdecimal():
            raise ValueError("a database of Redis has a number")
        self._refused = ResponseError
        self._metrics = metrics
        self._remote = CircuitBreaker("cache")
        self._putting: set[asyncio.Task[Any]] = set()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by sha256
        self._silent_until = -math.inf

    async def get(self, sha256: str, variant: str) -> bytes | None:
        value: bytes | None = await self._ask(lambda: self._client.hget(_key(sha256), variant))
        return value

    def put(self, sha256: str, variant: str, value: bytes) -> None:
        if not self._remote.is_left_alone and len(self._putting) < _MAX_PUTTING:
            task = self._in_turn(sha256, lambda: self._put(sha256, variant, value))
            self._putting.add(task)
            task.add_done_callback(self._putting.discard)

    async def _put(self, sha256: str, variant: str, value: bytes) -> None:
        key = _key(sha256)
        async with self._client.pipeline(transaction=True) as both:
            both.hset(key, variant, value)
            both.expire(key, _KEPT_SECONDS)
            await both.execute()

    async def drop(self, sha256: str) -> bool:
        dropped = await self._in_turn(sha256, lambda: self._client.delete(_key(sha256)))
        if dropped is None:
            raise CacheUnavailable(retry_after=COOLDOWN_SECONDS)
        return bool(dropped)

    def _in_turn(self, sha256: str, command: Callable[[], Awaitable[Any]]) -> asyncio.Task[Any]:
        """Send a command once all before it for the image have ended, those included that nobody waits for any more.

        They go over several connections, so that Redis might otherwise drop first and put then.
        """
        turn = self._turns.setdefault(sha256, asyncio.Lock())

        async def send() -> Any:
            async with turn:
                return await command()

        return asyncio.ensure_future(self._ask(send))

    async def _ask(self, command: Callable[[], Awaitable[Any]]) -> Any:
        """What Redis answers, or None when it cannot be had."""

        async def ask() -> Any:
            try:
                return await command()
            except self._refused as error:  # it is there, and does not do this: it is full, say
                self._tell(error)
                return None

        if self._remote.is_left_alone:
            return None
        try:
            return await self._remote.ask(ask)
        except StoreUnavailable:
            self._metrics.cache_errors.inc()
            return None

    def _tell(self, refusal: Exception) -> None:
        self._metrics.cache_errors.inc()
        if time.monotonic() > self._silent_until:
            self._silent_until = time.monotonic() + _SILENT_SECONDS
            event("cache_refused", logging.WARNING, reason=str(refusal))

    def state(self) -> tuple[bool, str]:
        lost = self._remote.lost
        return not lost, f"redis, lost: {lost}" if lost else "redis"

    async def close(self) -> None:
        await asyncio.gather(*self._putting)
        await self._remote.close()
        await self._client.aclose()


def _key(sha256: str) -> str:
    return f"eyespot:answers:{sha256}"
