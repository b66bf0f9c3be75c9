"""The client for programs: `Client`, and `AsyncClient` for asyncio."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Generator, Iterable
from contextlib import aclosing, closing
from copy import copy
from functools import wraps
from typing import Any, ParamSpec, Self, TypeVar, Unpack

import httpx

from eyespot.client.calls import Calls, Options, Outcome, check_several
from eyespot.errors import ServerUnavailable
from eyespot.images import ImageSource
from eyespot.ordered import in_order

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(call: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """The call as a plain method; its coroutine never suspends, because each step of `Client` blocks."""

    @wraps(call)
    def method(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            call(*args, **kwargs).send(None)
        except StopIteration as done:
            result: T = done.value
            return result
        raise AssertionError("a step of Client suspended")

    return method


class Client(Calls[httpx.Client]):
    """A client of one server, for any number of threads.

    Every call raises the exception that the server raised (a kind of `errors.Refusal`), or:
        ServerUnavailable: no server answers, or the connection broke.
        ServerSilent: the server did not answer in time.
        NotEyespot: the answer is not eyespot's.

    Example:
        with Client() as client:
            print(client.predict("cat.jpg").says.label)
    """

    _http: httpx.Client

    predict = _blocking(Calls._predict)
    predict_batch = _blocking(Calls._predict_batch)
    explain = _blocking(Calls._explain)
    labels = _blocking(Calls._labels)
    model = _blocking(Calls._model)
    health = _blocking(Calls._health)
    _ask = _blocking(Calls._outcome)

    def predict_many(
        self, images: Iterable[ImageSource], *, concurrency: int = 8, **options: Unpack[Options]
    ) -> Generator[Outcome, None, None]:
        """Recognise many images, in order; `images` may be endless, `options` are those of `predict`.

        An error of one image is yielded in its place. An error of all images is raised: no server, no key, an invalid
        parameter, an overload that outlasts `retry_seconds`. At most 2 x `concurrency` images are held; an answer is
        yielded once the next image has been taken, or there is none.
        """
        check_several(images, "predict_many")
        one = copy(self)  # shares the connections; its pauses end with this generator
        one._stop = threading.Event()
        self._stops.add(one._stop)
        try:

            def ask(image: ImageSource) -> Outcome:
                return one._ask(one._predict(image, **options))

            with closing(in_order(ask, images, concurrency, 2 * concurrency)) as answers:
                for _, future in answers:
                    yield future.result()
        finally:
            one._stop.set()  # the interpreter joins its threads at exit, and they may be waiting to retry
            self._stops.discard(one._stop)

    def close(self) -> None:
        """Close the connections; a call that waits to retry fails at once."""
        for stop in tuple(self._stops):
            stop.set()
        if self._owned:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, http_client: httpx.Client | None, **options: Any) -> None:
        self._http = http_client or httpx.Client(**options)
        self._stop = threading.Event()
        self._stops = {self._stop}  # and one of each running `predict_many`

    async def _send(self, request: httpx.Request) -> httpx.Response:
        return self._http.send(request)

    async def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise ServerUnavailable("The client was closed.")

    async def _work(self, function: Callable[[], T]) -> T:
        return function()


class AsyncClient(Calls[httpx.AsyncClient]):
    """`Client` for asyncio: the same calls, as coroutines.

    Example:
        async with AsyncClient() as client:
            print((await client.predict("cat.jpg")).says.label)
    """

    _http: httpx.AsyncClient

    predict = Calls._predict
    predict_batch = Calls._predict_batch
    explain = Calls._explain
    labels = Calls._labels
    model = Calls._model
    health = Calls._health

    async def predict_many(
        self,
        images: Iterable[ImageSource] | AsyncIterable[ImageSource],
        *,
        concurrency: int = 8,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Outcome, None]:
        """As `Client.predict_many`."""
        check_several(images, "predict_many")
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        permits = asyncio.Semaphore(concurrency)

        async def ask(image: ImageSource) -> Outcome:
            async with permits:
                return await self._outcome(self._predict(image, **options))

        pending: deque[asyncio.Task[Outcome]] = deque()
        try:
            async with aclosing(_iterate(images)) as sources:
                async for image in sources:
                    pending.append(asyncio.create_task(ask(image)))
                    while pending and (len(pending) >= 2 * concurrency or pending[0].done()):
                        yield await pending.popleft()
            while pending:
                yield await pending.popleft()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def close(self) -> None:
        """Close the connections."""
        if self._owned:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _iterate(images: Iterable[ImageSource] | AsyncIterable[ImageSource]) -> AsyncGenerator[ImageSource, None]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image
