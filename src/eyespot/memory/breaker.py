"""The Redis at EYESPOT_CACHE_URL, and a circuit breaker for when it is slow or away."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

from eyespot.errors import InvalidSetting
from eyespot.telemetry import event

T = TypeVar("T")

TIMEOUT_SECONDS = 0.05
COOLDOWN_SECONDS = 1


class StoreUnavailable(Exception):
    """The store failed or timed out, now or less than a cooldown ago."""


class CircuitBreaker:
    """Limits each call to `timeout` seconds; after a failure, fails all for `COOLDOWN_SECONDS`, then tries one."""

    def __init__(
        self, name: str, *, timeout: float = TIMEOUT_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.failure: str | None = None
        self._name = name
        self._timeout = timeout
        self._clock = clock
        self._open_until = -math.inf
        self._calls: set[asyncio.Task[Any]] = set()

    @property
    def is_open(self) -> bool:
        return self._clock() < self._open_until

    async def call(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `operation()` returns; raises `StoreUnavailable` if it fails or is late, or the breaker is open."""
        if self.is_open:
            raise StoreUnavailable
        if self.failure:
            self._open_until = self._clock() + COOLDOWN_SECONDS  # no other request tries meanwhile
        # A late call is not cancelled: a connection that takes longer than the timeout would never be made.
        call = asyncio.create_task(operation())
        self._calls.add(call)
        call.add_done_callback(self._finished)
        await asyncio.wait({call}, timeout=self._timeout)
        error = call.exception() if call.done() else TimeoutError(f"no answer within {self._timeout * 1000:g} ms")
        if error:
            reason = str(error) or type(error).__name__
            if not self.failure:
                event(f"{self._name}_lost", logging.WARNING, reason=reason)
            self.failure, self._open_until = reason, self._clock() + COOLDOWN_SECONDS
            raise StoreUnavailable from error
        if self.failure:
            self.failure, self._open_until = None, -math.inf
            event(f"{self._name}_found")
        return call.result()

    def _finished(self, call: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # or asyncio logs that nobody retrieved it

    async def close(self) -> None:
        """Cancel the calls that are still running."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)


def open_redis(url: str) -> Any:
    """A `redis.asyncio.Redis`, which connects with its first command; raises `InvalidSetting` if the URL is invalid."""
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError

    try:
        pool: Any = BlockingConnectionPool.from_url(
            url,
            retry=Retry(NoBackoff(), 1),  # reconnects within the request when an idle connection was cut
            socket_timeout=1,
            socket_connect_timeout=1,
        )
        pool.make_connection()  # raises TypeError for an unknown option
        if not (urlsplit(url).path.strip("/") or "0").isdecimal():  # redis-py takes database 0 for it
            raise ValueError
    except (ValueError, TypeError, RedisError):  # the messages may quote a password
        raise InvalidSetting(
            "EYESPOT_CACHE_URL: the value is not a Redis URL such as redis://USER:PASSWORD@HOST:6379/0; percent-encode "
            "special characters in the password"
        ) from None
    return Redis.from_pool(pool)
