"""Retry-After and the pauses between retries."""

from datetime import UTC
from email.utils import format_datetime

from hypothesis import given
from hypothesis import strategies as st

from eyespot.client.retry import pause, retry_after

_DATES = st.datetimes().map(lambda date: format_datetime(date.replace(tzinfo=UTC), usegmt=True))
_ODD_DATES = st.from_regex(r"\A[A-Z][a-z]{2}, \d{1,20} [A-Z][a-z]{2} \d{1,20} \d{1,9}:\d\d:\d\d [+-]?\w{0,9}\Z")
_NEARLY = st.from_regex(r"\A(Mon, )?\d\d Jan \d{1,25} \d\d:\d\d(:\d\d)? ([+-]\d{1,25}|GMT|)\Z")


@given(st.text() | st.integers().map(str) | _DATES | _ODD_DATES | _NEARLY | st.floats().map(str))
def test_any_retry_after_is_seconds_or_nothing(header: str) -> None:
    seconds = retry_after(header)
    assert seconds is None or 0 <= seconds < 10**12
    assert 0 < pause(0, 10**13, header) < 10**12
