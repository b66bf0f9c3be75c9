"""The client for programs: `Client`, and `AsyncClient` for asyncio.

What a request is, when it is sent again, and what its answer means is written once, as generators of steps; the two
classes only take the steps, each in its own way.
"""

import asyncio
import hashlib
import os
import random
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable
from contextlib import aclosing, closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Literal, Self, TypeAlias, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from eyespot import __version__
from eyespot.encoding import ImageSource, encoded
from eyespot.errors import (
    REFUSALS,
    EyespotError,
    NoAnswer,
    NoImage,
    NotEyespot,
    NotFound,
    Refusal,
    ServerSilent,
    ServerUnavailable,
    Unauthorized,
)
from eyespot.ordered import in_order
from eyespot.types import Label, ModelCard, Problem, Readiness, Recognition

DEFAULT_URL = "http://127.0.0.1:8000"

Lang: TypeAlias = Literal["en", "zh"]
T = TypeVar("T")
Step: TypeAlias = httpx.Request | float | Callable[[], Any]
"""To be sent and answered with the response; seconds to wait; or work that blocks, answered with its result."""
Steps: TypeAlias = Generator[Step, Any, T]

_RECOGNITION = TypeAdapter(Recognition)
_LABELS = TypeAdapter(list[Label])
_MODEL = TypeAdapter(ModelCard)
_READINESS = TypeAdapter(Readiness)
_PROBLEM = TypeAdapter(Problem)

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_LAST_PORT = 65535
_CONNECT_SECONDS = 5
_SENT_AGAIN = {429, 502, 503}  # 502: a balancer whose server has just gone
_MOST_BROKEN = 4  # connections that may break before a request is given up
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0  # seconds, where the server does not say how long
_LONGEST_WAIT = 1e9  # seconds; what a header says beyond does not fit into a float, or into a lock


class _Calls:
    """What both clients share: settings, and the steps of each call."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30,
        retry_seconds: float = 60,
        ask_first: int | None = 200_000,
    ) -> None:
        """A client of the server at `url`, by default EYESPOT_URL or http://127.0.0.1:8000.

        `api_key` is by default EYESPOT_API_KEY. `timeout` is the seconds that the server may be silent; `retry_seconds`
        those for which a request that is refused for the moment (429, 503) is sent again altogether. Of an image of
        more bytes than `ask_first`, only the sha256 is sent at first, in case the server knows it; None sends all.

        Raises:
            ServerUnavailable: `url` is no address.
            Unauthorized: `api_key` holds what no key can.
        """
        self.url = _address((url or os.environ.get("EYESPOT_URL") or DEFAULT_URL).strip())
        key = (api_key or os.environ.get("EYESPOT_API_KEY") or "").strip()  # a file's last line ends with a newline
        if not (key.isascii() and key.isprintable()):
            raise Unauthorized("The API key holds characters that no key has.")
        self._retry_seconds = retry_seconds
        self._ask_first = ask_first
        https, local = self.url.scheme == "https", self.url.host in _THIS_MACHINE
        options: dict[str, Any] = {
            "base_url": self.url,
            "headers": {
                "User-Agent": f"eyespot/{__version__}",
                **({"Authorization": f"Bearer {key}"} if key else {}),
            },
            "timeout": httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS), pool=None),
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30),
            "verify": https,  # certificates take longer to load than most answers do
            # What runs on this machine is not asked for through a proxy, whatever kind of proxy it is.
            "mounts": {str(self.url): None} if local else {},
            "trust_env": https or not local,
        }
        self._http = self._open(options)

    def _open(self, options: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _predict(self, image: ImageSource, top_k: int, min_confidence: float, lang: Lang) -> Steps[Recognition]:
        data: bytes = yield partial(encoded, image)
        if not data:
            raise NoImage("The image is empty: 0 bytes.")
        params = {"top_k": top_k, "min_confidence": min_confidence, "lang": lang}
        until = time.monotonic() + self._retry_seconds
        if self._ask_first is not None and len(data) > self._ask_first:
            sha256: str = yield lambda: hashlib.sha256(data).hexdigest()
            try:
                known = yield from self._ask("GET", f"results/{sha256}", until, params=params)
                return self._parsed(_RECOGNITION, known)
            except NotFound:
                pass
        headers = {"Content-Type": "application/octet-stream"}
        answer = yield from self._ask("POST", "predict", until, params=params, content=data, headers=headers)
        return self._parsed(_RECOGNITION, answer)

    def _labels(self, lang: Lang) -> Steps[list[Label]]:
        until = time.monotonic() + self._retry_seconds
        answer = yield from self._ask("GET", "labels", until, params={"lang": lang})
        return self._parsed(_LABELS, answer)

    def _model(self) -> Steps[ModelCard]:
        answer = yield from self._ask("GET", "model", time.monotonic() + self._retry_seconds)
        return self._parsed(_MODEL, answer)

    def _health(self) -> Steps[Readiness]:
        try:
            answer = yield self._http.build_request("GET", "readyz", params={"verbose": ""})
        except httpx.RequestError as error:
            raise self._no_answer(error) from error
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and (problem := _problem(answer)):
            return Readiness(False, problem.checks)
        if not answer.is_success:
            raise self._refused(answer)
        return self._parsed(_READINESS, answer)

    def _ask(self, method: str, path: str, until: float, **parts: Any) -> Steps[httpx.Response]:
        """The answer to a request, sent again while it is worth it, but not after `until`."""
        attempt = broken = 0
        while True:
            pause = _pause(attempt)
            attempt += 1
            reason: EyespotError
            try:
                answer: httpx.Response = yield self._http.build_request(method, path, **parts)
            except httpx.RequestError as error:
                reason, broken = self._no_answer(error), broken + 1
                if isinstance(reason, ServerSilent) or broken >= _MOST_BROKEN or time.monotonic() + pause > until:
                    raise reason from error
            else:
                if answer.is_success:
                    return answer
                reason = self._refused(answer)
                pause = _asked_for(answer, pause)
                if answer.status_code not in _SENT_AGAIN or time.monotonic() + pause > until:
                    raise reason
            yield pause

    def _parsed(self, kind: TypeAdapter[T], answer: httpx.Response) -> T:
        try:
            return kind.validate_json(answer.content)
        except ValidationError as error:
            raise NotEyespot(f"{_shown(answer.url)} answered something else than an eyespot does.") from error

    def _refused(self, answer: httpx.Response) -> EyespotError:
        """The exception that the server raised, found by its code."""
        problem = _problem(answer)
        if not problem:
            what = f"{_shown(answer.url)} answered {answer.status_code} {answer.reason_phrase}".strip()
            where = f", and points to {answer.headers['Location']}" if answer.is_redirect else ""
            kind = ServerUnavailable if answer.status_code in {*_SENT_AGAIN, 504} else NotEyespot
            return kind(f"{what}{where}; that is not what an eyespot says.")
        refusal = REFUSALS.get(problem.code, Refusal)(
            problem.detail,
            limit=problem.limit,
            value=problem.value,
            retry_after=_seconds(answer.headers.get("Retry-After")),
        )
        # A newer server may have another kind.
        vars(refusal).update(status=problem.status, code=problem.code, title=problem.title)
        refusal.add_note(f"request id {problem.request_id}")
        return refusal

    def _no_answer(self, error: httpx.RequestError) -> NoAnswer:
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return ServerSilent(f"{_shown(self.url)} did not answer in time.")
        return ServerUnavailable(f"No eyespot answers at {_shown(self.url)}: {str(error) or type(error).__name__}.")


class Client(_Calls):
    """A client of one server; it may be used by several threads at once.

    Every call raises what the server raised, found by its code (`errors.Refusal` and its kinds), or:
        ServerUnavailable: there is no server, or the connection broke.
        ServerSilent: it did not answer in time.
        NotEyespot: it answered something else than an eyespot does.

    Example:
        with Client() as client:
            print(client.predict("cat.jpg").predictions[0].label)
    """

    _http: httpx.Client

    def _open(self, options: dict[str, Any]) -> httpx.Client:
        self._closed = threading.Event()
        self._left = {self._closed}  # and one for each `predict_many`, set when it is left
        return httpx.Client(**options)

    def predict(
        self, image: ImageSource, *, top_k: int = 3, min_confidence: float = 0, lang: Lang = "en"
    ) -> Recognition:
        """What is in one image. Raises `OSError` when its file cannot be read."""
        return self._take(self._predict(image, top_k, min_confidence, lang))

    def predict_many(
        self,
        images: Iterable[ImageSource],
        *,
        concurrency: int = 8,
        top_k: int = 3,
        min_confidence: float = 0,
        lang: Lang = "en",
    ) -> Generator[Recognition | EyespotError | OSError, None, None]:
        """What is in each of many images, in their order; `images` may be without end.

        For an image that cannot be recognised or read, the exception is yielded in its place. One that concerns all of
        them is raised: no server, no key, a wrong parameter, no place for longer than `retry_seconds`. At most 2 x
        `concurrency` images are held; an answer is handed out when the next image has been taken, or there is none.
        """
        left = threading.Event()

        def ask(image: ImageSource) -> Recognition:
            return self._take(self._predict(image, top_k, min_confidence, lang), left)

        self._left.add(left)
        try:
            with closing(in_order(ask, images, concurrency, ahead=2 * concurrency)) as answers:
                for _, future in answers:
                    try:
                        yield future.result()
                    except (Refusal, OSError) as error:
                        yield of_one_image(error)
        finally:
            left.set()  # or the end of the program would wait for what is sent again
            self._left.discard(left)

    def labels(self, lang: Lang = "en") -> list[Label]:
        """Every class that the server's network knows, in the order of class_id."""
        return self._take(self._labels(lang))

    def model(self) -> ModelCard:
        """Which network answers, how good it is, and what it accepts."""
        return self._take(self._model())

    def health(self) -> Readiness:
        """Whether the server is ready, and what that depends on; asked once."""
        return self._take(self._health())

    def close(self) -> None:
        """Close the connections; what waits to be sent again is given up."""
        for left in tuple(self._left):
            left.set()
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, steps: Steps[T], left: threading.Event | None = None) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._take_one(step, left or self._closed)
                except httpx.RequestError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    def _take_one(self, step: Step, left: threading.Event) -> Any:
        if isinstance(step, httpx.Request):
            return self._http.send(step)
        if not isinstance(step, float):
            return step()
        if left.wait(step):
            raise ServerUnavailable("The client was closed.")
        return None


class AsyncClient(_Calls):
    """`Client` for asyncio: the same calls, to be awaited.

    Example:
        async with AsyncClient() as client:
            print((await client.predict("cat.jpg")).predictions[0].label)
    """

    _http: httpx.AsyncClient

    def _open(self, options: dict[str, Any]) -> httpx.AsyncClient:
        return httpx.AsyncClient(**options)

    async def predict(
        self, image: ImageSource, *, top_k: int = 3, min_confidence: float = 0, lang: Lang = "en"
    ) -> Recognition:
        """As `Client.predict`."""
        return await self._take(self._predict(image, top_k, min_confidence, lang))

    async def predict_many(
        self,
        images: Iterable[ImageSource] | AsyncIterable[ImageSource],
        *,
        concurrency: int = 8,
        top_k: int = 3,
        min_confidence: float = 0,
        lang: Lang = "en",
    ) -> AsyncGenerator[Recognition | EyespotError | OSError, None]:
        """As `Client.predict_many`."""
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        places = asyncio.Semaphore(concurrency)

        async def ask(image: ImageSource) -> Recognition:
            async with places:
                return await self.predict(image, top_k=top_k, min_confidence=min_confidence, lang=lang)

        async def answer(task: asyncio.Task[Recognition]) -> Recognition | EyespotError | OSError:
            try:
                return await task
            except (Refusal, OSError) as error:
                return of_one_image(error)

        pending: deque[asyncio.Task[Recognition]] = deque()
        try:
            async with aclosing(_each(images)) as each:
                async for image in each:
                    pending.append(asyncio.create_task(ask(image)))
                    while pending and (len(pending) >= 2 * concurrency or pending[0].done()):
                        yield await answer(pending.popleft())
            while pending:
                yield await answer(pending.popleft())
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def labels(self, lang: Lang = "en") -> list[Label]:
        """As `Client.labels`."""
        return await self._take(self._labels(lang))

    async def model(self) -> ModelCard:
        """As `Client.model`."""
        return await self._take(self._model())

    async def health(self) -> Readiness:
        """As `Client.health`."""
        return await self._take(self._health())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _take(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._take_one(step)
                except httpx.RequestError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _take_one(self, step: Step) -> Any:
        if isinstance(step, httpx.Request):
            return await self._http.send(step)
        return await (asyncio.sleep(step) if isinstance(step, float) else asyncio.to_thread(step))


async def _each(images: Iterable[ImageSource] | AsyncIterable[ImageSource]) -> AsyncGenerator[ImageSource, None]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image


def of_one_image(error: Refusal | OSError) -> EyespotError | OSError:
    """The error, if it says something of one image alone; raised, if the next image would meet it too."""
    if isinstance(error, Refusal) and not error.per_image:
        raise error
    return error


def _shown(url: httpx.URL) -> httpx.URL:
    """The address for a message: without a password."""
    return url.copy_with(userinfo=b"", query=None)


def _address(url: str) -> httpx.URL:
    shown = url.rpartition("@")[2]  # before which there may be a password
    try:
        address = httpx.URL(url if "://" in url else f"http://{url}").copy_with(query=None, fragment=None)
        address.raw_host.decode().encode("idna")  # connecting does it too, and its error is none of httpx's
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ServerUnavailable(f"{shown} is no address: {error}") from error
    if address.scheme not in ("http", "https") or not address.host or (address.port or 0) > _LAST_PORT:
        raise ServerUnavailable(f"{shown} is no address such as http://127.0.0.1:8000")
    return address


def _problem(answer: httpx.Response) -> Problem | None:
    try:
        return _PROBLEM.validate_json(answer.content)
    except ValidationError:
        return None


def _seconds(retry_after: str | None) -> int | None:
    """The header Retry-After, which is in seconds or a date (RFC 9110, 10.2.3)."""
    if not retry_after:
        return None
    if retry_after.isdecimal():
        return int(min(float(retry_after), _LONGEST_WAIT))  # int alone refuses 4301 digits
    try:
        return max(0, round((parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()))
    except (ValueError, TypeError, OverflowError):  # TypeError: a date without a zone; OverflowError: the year 0
        return None


def _pause(attempt: int) -> float:
    """Seconds, longer each time, and never the same for two clients that were refused together."""
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 9)) * random.uniform(0.5, 1)  # noqa: S311


def _asked_for(answer: httpx.Response, pause: float) -> float:
    """The seconds that the server asks for, and up to one more, so that not all come back at its full seconds.

    After 0 it would be asked, and refuse, as fast as it can; then the pause is our own.
    """
    seconds = _seconds(answer.headers.get("Retry-After"))
    return seconds + random.random() if seconds else pause  # noqa: S311
