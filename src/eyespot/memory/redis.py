"""Opens the Redis that EYESPOT_CACHE_URL names."""

from typing import Any
from urllib.parse import urlsplit

from eyespot.errors import InvalidSetting

_SOCKET_SECONDS = 1


def open_redis(url: str) -> Any:
    """A `redis.asyncio.Redis`, which connects with its first command.

    Raises:
        InvalidSetting: the URL is invalid. The message does not quote it: it may contain a password.
    """
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    try:
        pool: Any = BlockingConnectionPool.from_url(
            url,
            retry=Retry(NoBackoff(), 1),  # reconnects within the request when an idle connection was cut
            socket_timeout=_SOCKET_SECONDS,
            socket_connect_timeout=_SOCKET_SECONDS,
        )
        pool.make_connection()  # raises TypeError for an unknown option
        if not (urlsplit(url).path.strip("/") or "0").isdecimal():  # redis-py takes database 0 for it
            raise ValueError
    except (ValueError, TypeError):
        raise InvalidSetting(
            "EYESPOT_CACHE_URL: invalid Redis URL; expected redis://user:password@host:6379/0, with special "
            "characters in the password percent-encoded"
        ) from None
    return Redis.from_pool(pool)
