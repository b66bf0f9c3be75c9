"""The calls that both clients share: requests, retries, and what an answer means.

A call is a coroutine over three steps: `_send` a request, `_wait`, and `_work` for what blocks. Those of `Calls` are
asyncio's; `Client` replaces them with blocking ones.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from eyespot._version import __version__
from eyespot.client import retry
from eyespot.errors import (
    REFUSALS,
    EyespotError,
    NotEyespot,
    NotFound,
    Refusal,
    ServerSilent,
    ServerUnavailable,
    Unauthorized,
)
from eyespot.images import ImageSource, to_bytes
from eyespot.types import Label, ModelCard, Problem, Readiness, Recognition

Lang: TypeAlias = Literal["en", "zh"]
Outcome: TypeAlias = Recognition | EyespotError | OSError
T = TypeVar("T")

_CONNECT_SECONDS = 5
_RETRIED = {429, 502, 503}  # 502: a load balancer whose server has just gone

_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


class Options(TypedDict, total=False):
    """The options of `predict`."""

    top_k: int
    min_confidence: float
    lang: Lang


class Calls:
    """The base of both clients."""

    _http: Any  # httpx.AsyncClient, or httpx.Client

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30,
        retry_seconds: float = 60,
        ask_first: int | None = 200_000,
    ) -> None:
        """A client of `url`, by default EYESPOT_URL or http://127.0.0.1:8000, with `api_key` or EYESPOT_API_KEY.

        The server may be silent for `timeout` seconds. For at most `retry_seconds`, 429, 502 and 503 are retried after
        `Retry-After`, and a connection that is refused or breaks after growing pauses. An image of more bytes than
        `ask_first` is uploaded only if the server has no cached answer for its sha256; None uploads at once. Raises
        `ServerUnavailable` for an invalid URL, and `Unauthorized` for a key that is not printable ASCII.
        """
        self.url = _parse_url((url or os.environ.get("EYESPOT_URL") or "http://127.0.0.1:8000").strip())
        key = (api_key or os.environ.get("EYESPOT_API_KEY") or "").strip()  # a file's last line ends with a newline
        if not (key.isascii() and key.isprintable()):
            raise Unauthorized("The API key has characters other than printable ASCII.")
        self._retry_seconds = retry_seconds
        self._ask_first = ask_first
        https, local = self.url.scheme == "https", self.url.host in ("localhost", "127.0.0.1", "::1")
        authorization = {"Authorization": f"Bearer {key}"} if key else {}
        self._open(
            base_url=self.url,
            headers={"User-Agent": f"eyespot/{__version__}", **authorization},
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS), pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30),
            verify=https,  # loading certificates takes longer than most answers
            mounts={str(self.url): None} if local else {},  # no proxy of any kind for this machine
            trust_env=https or not local,
        )

    def _open(self, **options: Any) -> None:
        self._http = httpx.AsyncClient(**options)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        answer: httpx.Response = await self._http.send(request)
        return answer

    def _now(self) -> float:
        return time.monotonic()

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _work(self, function: Callable[[], T]) -> T:
        return await asyncio.to_thread(function)

    async def _predict(
        self, image: ImageSource, *, top_k: int = 3, min_confidence: float = 0, lang: Lang = "en"
    ) -> Recognition:
        """Recognise one image. Raises `OSError` if its file cannot be read."""
        data = await self._work(partial(to_bytes, image))
        params = {"top_k": top_k, "min_confidence": min_confidence, "lang": lang}
        until = self._now() + self._retry_seconds
        if self._ask_first is not None and len(data) > self._ask_first:
            sha256 = await self._work(lambda: hashlib.sha256(data).hexdigest())
            with suppress(NotFound):
                return _parse(Recognition, await self._retry("GET", f"results/{sha256}", until, params=params))
        headers = {"Content-Type": "application/octet-stream"}
        answer = await self._retry("POST", "predict", until, params=params, content=data, headers=headers)
        return _parse(Recognition, answer)

    async def _outcome(self, options: Options, image: ImageSource) -> Outcome:
        """The recognition of an image, or the error that concerns it alone; other errors are raised."""
        try:
            return await self._predict(image, **options)
        except (Refusal, OSError) as error:
            if isinstance(error, Refusal) and not error.per_image:
                raise
            return error

    async def _labels(self, lang: Lang = "en") -> list[Label]:
        """All classes of the server's model, ordered by class_id."""
        return _parse(list[Label], await self._retry("GET", "labels", params={"lang": lang}))

    async def _model(self) -> ModelCard:
        """The server's model: name, digest, accuracy and limits."""
        return _parse(ModelCard, await self._retry("GET", "model"))

    async def _health(self) -> Readiness:
        """Whether the server is ready, and every check; never retried."""
        answer = await self._request("GET", "readyz", params={"verbose": ""})
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return Readiness(False, _read(Problem, answer).checks)
        return _parse(Readiness, answer)

    async def _retry(self, method: str, path: str, until: float | None = None, **parts: Any) -> httpx.Response:
        """The last answer to a request that is sent until it is answered for good, or the clock reaches `until`."""
        until = until or self._now() + self._retry_seconds
        attempt = 0
        while True:
            try:
                answer = await self._request(method, path, **parts)
            except ServerUnavailable as error:
                pause = retry.pause(attempt, until - self._now())
                if pause is None or not retry.is_temporary(error.__cause__):
                    raise
            else:
                pause = retry.pause(attempt, until - self._now(), answer.headers.get("Retry-After"))
                if pause is None or answer.status_code not in _RETRIED:
                    return answer
            await self._wait(pause)
            attempt += 1

    async def _request(self, method: str, path: str, **parts: Any) -> httpx.Response:
        try:
            return await self._send(self._http.build_request(method, path, **parts))
        except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
            raise ServerSilent(f"{_public(self.url)} did not answer in time.") from error
        except httpx.RequestError as error:
            reason = str(error) or type(error).__name__
            raise ServerUnavailable(f"No eyespot answers at {_public(self.url)}: {reason}.") from error


def _parse_url(url: str) -> httpx.URL:
    shown = url.rpartition("@")[2]  # without a password
    try:
        parsed = httpx.URL(url if "://" in url else f"http://{url}").copy_with(query=None, fragment=None)
        parsed.raw_host.decode().encode("idna")  # connecting does it too, and its error is not httpx's
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ServerUnavailable(f"{shown} is not a valid URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 0) > 65535:
        raise ServerUnavailable(f"{shown} is not a valid URL, such as http://127.0.0.1:8000")
    return parsed


def _public(url: httpx.URL) -> httpx.URL:
    return url.copy_with(userinfo=b"", query=None)  # a password stays out of messages


def _parse(kind: type[T], answer: httpx.Response) -> T:
    """The body of a successful answer. Raises what the server raised, found by its code."""
    if answer.is_success:
        return _read(kind, answer)
    problem = _read(Problem, answer)
    retry_after = retry.retry_after(answer.headers.get("Retry-After"))
    error = REFUSALS.get(problem.code, Refusal)
    refusal = error(problem.detail, limit=problem.limit, value=problem.value, retry_after=retry_after)
    # A newer server may send a code that has no class here.
    vars(refusal).update(status=problem.status, code=problem.code, title=problem.title)
    refusal.add_note(f"request id {problem.request_id}")
    raise refusal


def _read(kind: type[T], answer: httpx.Response) -> T:
    try:
        value: T = _adapter(kind).validate_json(answer.content)
        return value
    except ValidationError as error:
        status = f"{answer.status_code} {answer.reason_phrase}".strip()
        target = f", Location: {answer.headers['Location']}" if answer.is_redirect else ""
        failure = ServerUnavailable if answer.status_code in {*_RETRIED, 504} else NotEyespot
        raise failure(f"{_public(answer.url)} did not answer as eyespot does: {status}{target}") from error
