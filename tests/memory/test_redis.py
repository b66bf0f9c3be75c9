"""A Redis is opened from its URL, and a password in it is never quoted."""

import traceback

import pytest

from eyespot.errors import InvalidSetting
from eyespot.memory.redis import open_redis


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@host:port/0",
        "redis://:hunter2/@localhost:6379",
        "redis://:hunter2/more@host/0",
        "redis://:hunter2@host/0?nonsense=1",
        "redis://:hunter2@host/zero",
        "redis://:hunter2@[::1/0",
    ],
)
def test_an_invalid_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^EYESPOT_CACHE_URL: invalid Redis URL") as raised:
        open_redis(url)
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("url", "database"),
    [("redis://host", 0), ("redis://user:secret@host:6379/7", 7), ("rediss://host/3?ssl_cert_reqs=none", 3)],
)
def test_the_url_chooses_the_database(url: str, database: int) -> None:
    assert (open_redis(url).connection_pool.connection_kwargs.get("db") or 0) == database
