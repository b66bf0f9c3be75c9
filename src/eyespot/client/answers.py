"""What an answer means: the dataclass that it holds, or the exception that the server raised."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from eyespot.client import retry
from eyespot.errors import REFUSALS, NotEyespot, Refusal, ServerUnavailable
from eyespot.types import Batch, BatchItem, Problem, Recognition

T = TypeVar("T")

RETRIED = {429, 502, 503}  # 502: a load balancer whose server has just gone
_UNAVAILABLE = {*RETRIED, 504}

_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def parse(kind: type[T], answer: httpx.Response) -> T:
    """The body of a successful answer. Raises what the server raised, found by its code."""
    if answer.is_success:
        return read(kind, answer)
    raise _refusal(read(Problem, answer), retry.retry_after(answer.headers.get("Retry-After")))


def outcomes(batch: Batch) -> list[Recognition | Refusal]:
    """Each image's result or refusal. Raises `NotEyespot` for a server that does not say anything yet."""
    return [_refusal(item.problem) if item.problem else _recognition(item, batch) for item in batch.results]


def _recognition(item: BatchItem, batch: Batch) -> Recognition:
    if not (item.says and item.image):
        raise NotEyespot("the server is older than this client; update it")
    found = item.groups or [], item.predictions or []
    return Recognition(item.says, *found, item.image, batch.model, bool(item.cached), batch.request_id)


def read(kind: type[T], answer: httpx.Response) -> T:
    """The body of any answer. Raises `NotEyespot`, or `ServerUnavailable` for a load balancer without a server."""
    try:
        value: T = _adapter(kind).validate_json(answer.content)
        return value
    except ValidationError as error:
        status = f"{answer.status_code} {answer.reason_phrase}".strip()
        target = f" (Location: {answer.headers['Location']})" if answer.has_redirect_location else ""
        failure, advice = _failure(answer.status_code)
        detail = f"{public(answer.url)} answered {status}{target}, which is not an eyespot response; {advice}"
        raise failure(detail, status=answer.status_code) from error


def public(url: httpx.URL) -> httpx.URL:
    """The URL without a password, for messages."""
    return url.copy_with(userinfo=b"", query=None)


def _failure(status: int) -> tuple[type[NotEyespot | ServerUnavailable], str]:
    if status in _UNAVAILABLE:
        return ServerUnavailable, "does eyespot run behind this proxy?"
    if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
        return NotEyespot, "does a proxy limit the size of a body?"
    return NotEyespot, "is the URL right, and the server as new as this client?"


def _refusal(problem: Problem, retry_after: int | None = None) -> Refusal:
    kind = REFUSALS.get(problem.code, Refusal)
    refusal = kind(
        problem.detail,
        limit=problem.limit,
        value=problem.value,
        retry_after=retry_after,
        request_id=problem.request_id,
    )
    # A newer server may send a code that has no class here.
    vars(refusal).update(status=problem.status, code=problem.code, title=problem.title)
    refusal.add_note(f"request id {problem.request_id}")
    return refusal
