"""When to send a request again: `Retry-After`, or exponential backoff with jitter."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0  # seconds
_MAX_SECONDS = 1e9  # more overflows a float, or the timeout of a lock


def retry_after(header: str | None) -> int | None:
    """Seconds from now, of a header that holds seconds or a date (RFC 9110, 10.2.3); None if it holds neither."""
    if not header:
        return None
    if header.isdecimal():
        return int(min(float(header), _MAX_SECONDS))  # int() alone refuses 4301 digits
    try:
        return max(0, round((parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()))
    except (ValueError, TypeError, OverflowError):  # TypeError: a date without a zone; OverflowError: the year 0
        return None


def pause(attempt: int, header: str | None = None) -> float:
    """Seconds to wait after an attempt, the first being 0; random, so that clients do not come back together."""
    if seconds := retry_after(header):  # 0 would mean to ask as fast as the server can refuse
        return seconds + random.random()  # noqa: S311
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 9)) * random.uniform(0.5, 1)  # noqa: S311
