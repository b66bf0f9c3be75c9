"""The outermost layer: request id, trace, access line, metrics, and a reply to what nothing else caught."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Collection

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eyespot.errors import Draining, Internal
from eyespot.job import ClientDisconnected
from eyespot.telemetry import Metrics, Trace, child, event
from eyespot.web.gate import header, problems
from eyespot.web.gate.pretty import pretty_json

CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that disconnected; only the log shows it
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNLOGGED = {"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}
# What the eight steps are called in Server-Timing.
_DESCRIPTIONS = {
    "admit": "key and rate limit",
    "read": "read the body",
    "cache": "look up the answer",
    "queue": "wait for a worker",
    "decode": "decode the image",
    "infer": "run the model",
    "audit": "write the audit row",
    "respond": "render the answer",
}
_TIMINGS = {step: f'{step};desc="{text}";dur=' for step, text in _DESCRIPTIONS.items()}


class RequestLog:
    """Puts a `Trace` and the facts of the access line into the request's state, and writes both when it ends."""

    def __init__(self, app: ASGIApp, paths: Collection[str]) -> None:
        self.app = app
        self._paths = frozenset(paths)  # of routes; they name a request that is refused before routing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state, services = scope.setdefault("state", {}), scope["app"].state
        state["trace"] = trace = _trace(scope)
        state["facts"] = {}
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
            self._write(scope, status or CLIENT_CLOSED_REQUEST, trace, services.metrics)

    def _write(self, scope: Scope, status: int, trace: Trace, metrics: Metrics) -> None:
        unrouted = scope["path"] if scope["path"] in self._paths else "unmatched"
        route = getattr(scope.get("route"), "path", unrouted)
        seconds = time.monotonic() - trace.started
        child(metrics.requests, route, status).inc()
        child(metrics.request_seconds, route).observe(seconds)
        metrics.observe_steps(trace.steps)
        if route not in _UNLOGGED:
            facts = {"method": scope["method"], "route": route, "status": status, "ms": round(seconds * 1000, 1)}
            if trace.steps:
                facts["steps"] = trace.milliseconds()
            if trace.cache:
                facts["cache"] = trace.cache
            facts |= {"client": trace.address, "request_id": trace.request_id}
            event("request_answered", **facts, **scope["state"]["facts"])


def _trace(scope: Scope) -> Trace:
    """With the client's own request id, when that cannot break a log line."""
    given = header(scope, b"x-request-id")
    request_id = given if given and _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    arrived = scope["state"].get("arrived") or time.monotonic()  # set by `Protocol`
    return Trace(request_id, scope["client"][0] if scope.get("client") else None, started=arrived, mark=arrived)


def _headers(trace: Trace) -> list[tuple[bytes, bytes]]:
    """Request id, X-Cache, and the milliseconds of each step so far (W3C Server Timing)."""
    timings = [f"{_TIMINGS[step]}{seconds * 1000:.1f}" for step, seconds in trace.steps.items()]
    timings.append(f"total;dur={(time.monotonic() - trace.started) * 1000:.1f}")
    headers = [
        (b"x-content-type-options", b"nosniff"),
        (b"x-request-id", trace.request_id.encode()),
        (b"server-timing", ", ".join(timings).encode()),
    ]
    return [*headers, (b"x-cache", trace.cache.encode())] if trace.cache else headers
