"""What every request passes before the API sees it; none of it knows about images."""

import re
from collections.abc import Awaitable, Callable

from fastapi import Request
from starlette.types import Scope

_PROBE = re.compile(r"/(?:livez|readyz|metrics|v2/(?:health/(?:live|ready)|models/[^/]+(?:/versions/[^/]+)?/ready))")


def is_probe(scope: Scope) -> bool:
    """Whether this asks for health or metrics: it needs no key, is not charged, and leaves neither log nor span."""
    return _PROBE.fullmatch(scope["path"]) is not None


def header(scope: Scope, name: bytes) -> str | None:
    """The first header with this lower-case name. Starlette's `Headers` takes ten times as long."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def disconnected(request: Request) -> Callable[[], Awaitable[object]]:
    """What returns when the client has closed its connection; to be called once.

    `Protocol` sets a future. Under another server only `receive` reports it, which needs its own task: 30 µs.
    """
    future = request.scope["state"].get("disconnected")
    return (lambda: future) if future else request.receive
