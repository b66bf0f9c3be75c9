"""Errors as `application/problem+json` (RFC 9457), below `/v2` as `{"error": …}`; delayed in a flood."""

import asyncio
import time
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from eyespot.errors import InvalidParameter, MethodNotAllowed, NotFound, Overloaded, Refusal
from eyespot.telemetry import child
from eyespot.types import TYPE_URI, Check, Problem
from eyespot.values import complaint, shown

MEDIA_TYPE = "application/problem+json"
_PROBLEM = TypeAdapter(Problem)
_PER_SECOND = 50  # refusals of an overloaded server
_BURST = 50
_MAX_SECONDS = 4


def problem(refusal: Refusal, request_id: str, checks: list[Check] | None = None) -> Problem:
    """The problem that tells the client of a refusal."""
    return Problem(
        type=TYPE_URI + refusal.code,
        title=refusal.title,
        status=refusal.status,
        detail=refusal.detail,
        code=refusal.code,
        request_id=request_id,
        limit=refusal.limit,
        value=refusal.value,
        checks=checks,
    )


def document(refusal: Refusal, request_id: str, checks: list[Check] | None = None) -> bytes:
    """The JSON of a problem."""
    return _PROBLEM.dump_json(problem(refusal, request_id, checks), exclude_none=True)


def response(
    request: Request, refusal: Refusal, checks: list[Check] | None = None, *, counted: bool = True
) -> Response:
    """The response to a refused request; `counted=False` for a normal answer (a probe, a cache lookup)."""
    state = request.state
    state.facts["code"] = refusal.code
    if counted:
        child(request.app.state.metrics.refusals, refusal.code).inc()
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    if f"{request.scope['path']}/".startswith("/v2/"):  # the Open Inference Protocol
        return Response(to_json({"error": refusal.detail}), refusal.status, headers, "application/json")
    return Response(document(refusal, state.trace.request_id, checks), refusal.status, headers, MEDIA_TYPE)


async def _http_error(request: Request, error: Any) -> Response:
    path = request.url.path[:200]
    if error.status_code == MethodNotAllowed.status:
        allowed = ", ".join(_methods(request)) or "GET, HEAD"  # what static files support
        answer = response(request, MethodNotAllowed(f"{path} does not support {request.method}; use {allowed}."))
        answer.headers["Allow"] = allowed
        return answer
    return response(request, NotFound(f"There is nothing at {path}; see /docs."))


async def _invalid(request: Request, error: Any) -> Response:
    """For what FastAPI checks itself: the schemas are those of `/openapi.json`."""
    operations = request.app.openapi()["paths"][request.scope["route"].path].values()
    schemas = {one["name"]: one["schema"] for operation in operations for one in operation.get("parameters", ())}
    reasons = [complaint(name := one["loc"][-1], shown(one["input"]), schemas[name]) for one in error.errors()]
    return response(request, InvalidParameter(f"{'; '.join(reasons)}."))


class Pace:
    """A queue of refusals that moves at a fixed rate, after a burst that is answered at once.

    A client that ignores Retry-After asks again as soon as it is refused. Answered at once, 300 of those took 40 % of
    the CPU that the admitted images need.
    """

    _next = 0.0  # when a refusal that comes now is answered, unless it is within the burst

    def delay(self, now: float) -> float:
        """Seconds until it is the turn of a refusal that comes now, at most 4."""
        self._next = min(max(self._next, now - _BURST / _PER_SECOND) + 1 / _PER_SECOND, now + _MAX_SECONDS)
        return max(0.0, self._next - now)


def handlers() -> dict[Any, Any]:
    """FastAPI's `exception_handlers`."""
    pace = Pace()

    async def refused(request: Request, refusal: Refusal) -> Response:
        refusal.__traceback__ = None  # whose frames hold the body
        if isinstance(refusal, Overloaded):
            await asyncio.sleep(pace.delay(time.monotonic()))
        return response(request, refusal)

    return {Refusal: refused, HTTPException: _http_error, RequestValidationError: _invalid}


def _methods(request: Request) -> list[str]:
    """The methods of all routes at this path (FastAPI names those of the first); none below a mounted app."""
    # A mounted app has changed the request's own scope.
    scope = {"type": "http", "path": request.scope["path"], "method": request.method}
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    here = [route for route in routes if route.matches(scope)[0] is not Match.NONE]
    return sorted({method for route in here for method in route.methods or ()})
