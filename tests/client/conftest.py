"""Both clients, the scripted server, and real servers around a fake engine."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from eyespot.client import AsyncClient
from tests.client.scripts import HurriedAsyncClient, HurriedClient, Script, Scripted, serve_scripts
from tests.serving import Served, serve_fake


class InLoop:
    """An `AsyncClient` that is called as a `Client` is."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return (lambda *args, **kw: self._runner.run(found(*args, **kw))) if callable(found) else found

    def predict_many(self, images: Any, **options: Any) -> Iterator[Any]:
        answers = self._client.predict_many(images, **options)

        async def following() -> Any:
            return await anext(answers)

        try:
            while True:
                try:
                    answer = self._runner.run(following())
                except StopAsyncIteration:
                    return
                yield answer
        finally:
            self._runner.run(answers.aclose())


class Connect:
    """Makes clients of one kind, which do not wait between retries."""

    def __init__(self, kind: str, runner: asyncio.Runner) -> None:
        self.kind = kind
        self._runner = runner
        self.clients: list[Any] = []

    def __call__(self, served: Served | str | None = None, **options: Any) -> Any:
        url = served.url if isinstance(served, Served) else served
        if self.kind == "Client":
            self.clients.append(HurriedClient(url, **options))
        else:
            self.clients.append(InLoop(HurriedAsyncClient(url, **options), self._runner))
        return self.clients[-1]

    def running(self) -> set[Any]:
        """The threads and tasks that are left of a `predict_many`."""

        async def tasks() -> set[Any]:
            return asyncio.all_tasks() - {asyncio.current_task()}

        threads = {thread for thread in threading.enumerate() if thread.name.startswith("eyespot-ordered")}
        return threads | self._runner.run(tasks())


@pytest.fixture(params=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    with asyncio.Runner() as runner:
        connect = Connect(request.param, runner)
        yield connect
        for client in connect.clients:
            client.close()


@pytest.fixture(scope="module")
def scripted() -> Iterator[Scripted]:
    with serve_scripts() as served:
        yield served


@pytest.fixture
def script(scripted: Scripted) -> Iterator[Script]:
    """A new script for each test, on one server."""
    scripted.script = Script(scripted.url)
    yield scripted.script
    scripted.script.go.set()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve_fake(workers=4, queue=8) as served:
        yield served


@pytest.fixture(scope="module")
def caching() -> Iterator[Served]:
    with serve_fake(cache_url="memory://") as served:
        yield served
