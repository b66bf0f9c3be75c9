"""When to send a request again: `Retry-After`, or exponential backoff with jitter."""

import random
import socket
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

_LOST = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)
_LOST_IN_TLS = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
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


def pause(attempt: int, left: float, header: str | None = None) -> float | None:
    """Seconds to wait after an attempt, the first being 0, or None if longer than `left`.

    Without Retry-After, it is clipped to `left`. Random, so that clients do not come back together.
    """
    if seconds := retry_after(header):  # 0 would mean to ask as fast as the server can refuse
        wanted = seconds + random.random()  # noqa: S311
        return wanted if wanted <= left else None
    wanted = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 9)) * random.uniform(0.5, 1)  # noqa: S311
    return min(wanted, left) if left > 0 else None


def is_temporary(error: BaseException | None) -> bool:
    """Whether a server may answer later: the connection was refused or lost, except for DNS and certificate errors."""
    if not isinstance(error, _LOST):
        return False
    reason = error.__cause__.args[0] if error.__cause__ and error.__cause__.args else None  # httpcore keeps it there
    return isinstance(reason, _LOST_IN_TLS) or not isinstance(reason, socket.gaierror | ssl.SSLError)
