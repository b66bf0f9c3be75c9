"""Every refusal becomes `application/problem+json` (RFC 9457) here, and nowhere else."""

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.routing import Match, Mount

from eyespot import errors, types
from eyespot.errors import InvalidParameter, MethodNotAllowed, NotFound, Refusal
from eyespot.types import Check, Problem

MEDIA_TYPE = "application/problem+json"
_PROBLEM = TypeAdapter(Problem)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def problem(refusal: Refusal, request_id: str, checks: list[Check] | None = None) -> Problem:
    """The refusal as a problem."""
    return Problem(
        type=types.TYPE_URI + refusal.code,
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
    """The refusal as the JSON of a problem."""
    return _PROBLEM.dump_json(problem(refusal, request_id, checks), exclude_none=True)


def response(request: Request, refusal: Refusal, checks: list[Check] | None = None) -> Response:
    """The refusal as an answer to the request."""
    state = request.state
    state.facts["code"] = refusal.code
    request.app.state.recognizer.metrics.refused.labels(refusal.code).inc()
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    return Response(document(refusal, state.request_id, checks), refusal.status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every exception that a route raises with a problem."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        return response(request, refusal)

    @app.exception_handler(HTTPException)
    async def not_routed(request: Request, error: HTTPException) -> Response:
        if error.status_code == MethodNotAllowed.status:
            answer = response(request, MethodNotAllowed(f"{request.url.path[:200]} does not answer {request.method}."))
            answer.headers["Allow"] = ", ".join(_methods(request)) or "GET, HEAD"  # which static files answer
            return answer
        return response(request, NotFound(f"There is nothing at {request.url.path[:200]}; /docs lists what there is."))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return response(request, InvalidParameter(f"{first['loc'][-1]}: {first['msg']}."))


def _methods(request: Request) -> list[str]:
    """The methods of every route at this path (FastAPI names those of the first); none below a mounted app."""
    routes = [route for route in request.app.routes if not isinstance(route, Mount)]
    scope = {"type": "http", "path": request.scope["path"]}  # a mounted app has changed the request's own
    return [
        method
        for method in _METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]


def documented(*kinds: type[Refusal]) -> dict[int | str, dict[str, Any]]:
    """The refusals that a route can answer with, as OpenAPI responses with one example for each code."""
    by_status: dict[int | str, dict[str, Any]] = {}
    all_kinds: tuple[type[Refusal], ...] = (*kinds, errors.Internal)
    for kind in all_kinds:
        answer = by_status.setdefault(
            kind.status,
            {"description": "", "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}},
        )
        sentence = kind().detail
        answer["description"] = "; ".join(filter(None, [answer["description"], f"`{kind.code}`"]))
        answer["content"][MEDIA_TYPE].setdefault("examples", {})[kind.code] = {
            "summary": sentence,
            "value": _example(kind),
        }
        if kind.status in (429, 503):
            answer["headers"] = {
                "Retry-After": {"description": "Seconds, at least 1.", "schema": {"type": "integer", "minimum": 1}}
            }
    return by_status


def _example(kind: type[Refusal]) -> dict[str, Any]:
    return {
        "type": types.TYPE_URI + kind.code,
        "title": kind.title,
        "status": kind.status,
        "detail": kind().detail,
        "code": kind.code,
        "request_id": "6f1c0e9ad3b14a57",
    }


def schemas() -> dict[str, Any]:
    """JSON schemas of the problem, for the components of the OpenAPI document."""
    schema = _PROBLEM.json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), "Problem": schema}
