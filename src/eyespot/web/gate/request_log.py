"""The outermost layer: request id, trace, access line, metrics, and a reply to what nothing else caught."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Iterable
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eyespot.errors import Draining, Internal, NotFound
from eyespot.job import ClientDisconnected
from eyespot.telemetry import STEPS, Metrics, Trace, child, event
from eyespot.web.gate import access_line, header, is_probe, problems
from eyespot.web.gate.pretty import pretty_json
from eyespot.web.gate.tracing import read_traceparent

CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that disconnected; only the log shows it
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}  # any other counts as `other`
_OTHER = "other"
_TIMINGS = {step: f'{step};desc="{text}";dur=' for step, text in STEPS.items()}


class RequestLog:
    """Puts a `Trace` and the facts of the access line into the request's state, and writes both when it ends."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state, services = scope.setdefault("state", {}), scope["app"].state
        state["trace"] = trace = _trace(scope)
        state["facts"] = {}
        span = services.spans.begin(trace) if services.spans and not is_probe(scope) else None
        status = 0
        if (header(scope, b"user-agent") or "").startswith("curl/"):
            send = pretty_json(send)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_headers(trace)]
                if services.pool.draining:
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except asyncio.CancelledError:  # the server stops waiting for this request
            state["facts"]["cut_off"] = True
            if not status:
                await problems.response(Request(scope), Draining(retry_after=1))(scope, receive, answer)
        except (ClientDisconnect, ClientDisconnected):
            pass  # within its body, or while it waited
        except Exception as error:
            event("request_failed", logging.ERROR, exc_info=error, request_id=trace.request_id)
            if not status:
                await problems.response(Request(scope), Internal())(scope, receive, answer)
        finally:
            route, status = _route(scope), status or CLIENT_CLOSED_REQUEST
            _measure(scope, route, status, trace, services.metrics)
            if not is_probe(scope):
                facts = access_line.facts_of(scope, route, status, trace)
                access_line.write(scope, facts)
                if span:
                    services.spans.end(span, trace, scope, facts)


def _measure(scope: Scope, route: str, status: int, trace: Trace, metrics: Metrics) -> None:
    method = scope["method"] if scope["method"] in _METHODS else _OTHER
    child(metrics.request_duration, route, method, status).observe(time.monotonic() - trace.started)
    metrics.observe_steps(trace.steps)


def begin_at_zero(metrics: Metrics, routes: Iterable[Any], documented: str) -> None:
    """Create the series of each route's success, and of all that POST answers at the path `documented`.

    `rate()` does not see the request that creates a series.
    """
    child(metrics.request_duration, _OTHER, "GET", NotFound.status)
    for route in routes:
        success = getattr(route, "status_code", None) or 200
        for method in getattr(route, "methods", {"GET"}) - {"HEAD"}:
            others = route.responses if (method, route.path) == ("POST", documented) else ()
            for status in sorted({success, *others}):
                child(metrics.request_duration, route.path, method, status)


def _route(scope: Scope) -> str:
    """The template of the route, also of a request that was refused before routing; `other` for an unknown path."""
    route = scope.get("route")
    if isinstance(route, APIRoute):
        return route.path
    # A mounted app has changed the request's own scope.
    asked = {"type": "http", "path": scope["path"], "method": scope["method"]}
    found = (route for route in scope["app"].routes if route.matches(asked)[0] is not Match.NONE)
    return getattr(next(found, None), "path", _OTHER)


def _trace(scope: Scope) -> Trace:
    """With the client's own request id, when that cannot break a log line."""
    given = header(scope, b"x-request-id")
    request_id = given if given and _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    arrived = scope["state"].get("arrived") or time.monotonic()  # set by `Protocol`
    address = scope["client"][0] if scope.get("client") else None
    traceparent = read_traceparent(scope["headers"])
    return Trace(request_id, address, started=arrived, mark=arrived, traceparent=traceparent)


def _headers(trace: Trace) -> list[tuple[bytes, bytes]]:
    """Request id, X-Cache, and the milliseconds of each step so far (W3C Server Timing)."""
    timings = [f"{_TIMINGS[step]}{seconds * 1000:.1f}" for step, seconds in trace.steps.items()]
    timings.append(f"total;dur={(time.monotonic() - trace.started) * 1000:.1f}")
    headers = [
        (b"x-content-type-options", b"nosniff"),
        (b"x-request-id", trace.request_id.encode()),
        (b"server-timing", ", ".join(timings).encode()),
    ]
    if trace.cache:
        headers.append((b"x-cache", trace.cache.encode()))
    if trace.traceparent:
        headers.append((b"traceparent", trace.traceparent.encode()))
    return headers
