"""The access line: what the log keeps of a request."""

import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from starlette.types import Scope

from eyespot.telemetry import Trace, event
from eyespot.web.gate import header

_LONGEST_ID = 36  # characters of a request id for people: a UUID


def facts_of(scope: Scope, route: str, status: int, trace: Trace) -> dict[str, Any]:
    """The facts of the access line, once the request has ended."""
    ms = round((time.monotonic() - trace.started) * 1000, 1)
    facts = {"method": scope["method"], "route": route, "status": status, "ms": ms}
    if trace.steps:
        facts["steps"] = trace.milliseconds()
    if trace.cache:
        facts["cache"] = trace.cache
    facts |= {"client": trace.address, "request_id": trace.request_id, **scope["state"]["facts"]}
    if trace.traceparent:
        facts["trace_id"] = trace.traceparent[3:35]
    return facts


def write(scope: Scope, facts: Mapping[str, Any]) -> None:
    """Log the facts, and for people a line of them."""
    event("request_answered", line=partial(_line, scope, facts), **facts)


def _line(scope: Scope, facts: Mapping[str, Any], columns: int) -> str:
    """The access line for people: status, method, path, duration, size of the body, outcome, request id."""
    size, images, refused = header(scope, b"content-length"), facts.get("images"), facts.get("refused")
    sent = f"{math.ceil(int(size) / 1000):,} kB" if size else ""
    batch = f"{refused} of {images} refused" if refused else f"{images} images" if images else ""
    outcome = facts.get("code") or facts.get("cache") or batch
    request_id = _shorten(facts["request_id"], _LONGEST_ID)
    head = f"{facts['status']} {facts['method']:<7} "
    tail = f" {facts['ms']:>7} ms {sent:>8}  {outcome:<19} {request_id}"
    width = columns - len(head) - len(tail)
    return f"{head}{_shorten(quote(scope['path']), width):<{width}}{tail}"


def _shorten(text: str, width: int) -> str:
    """The text without its middle, if it has more characters than `width`."""
    half = max(1, (width - 1) // 2)
    return text if len(text) <= width else f"{text[:half]}…{text[-half:]}"
