"""Many images, concurrency, and what closing leaves behind."""

import asyncio
import io
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eyespot.client import AsyncClient, Client
from eyespot.errors import (
    REFUSALS,
    ImageTooLarge,
    NoImage,
    Overloaded,
    ServerUnavailable,
    TooManyImages,
    UnsupportedFormat,
)
from eyespot.types import Recognition
from eyespot.vision.engines import Features, Logits, Pixels
from tests import makers
from tests.client.conftest import Connect
from tests.client.scripts import RECOGNITION, Script, address, breaks, hangs, nobody, refuses, says
from tests.requests import IMAGE, image
from tests.serving import FakeEngine, Served, serve_fake, until


def test_many_images_are_answered_in_order_with_errors_in_place(
    connect: Connect, served: Served, tmp_path: Path
) -> None:
    images = [makers.encode(makers.flat((20 + number, 20)), "PNG") for number in range(30)]
    sources: list[Any] = [*images[:10], b"no image", *images[10:20], tmp_path / "none.jpg", *images[20:]]
    answers = list(connect(served).predict_many(sources, concurrency=3, top_k=1))
    wrong = answers.pop(10), answers.pop(20)
    assert [type(error) for error in wrong] == [UnsupportedFormat, FileNotFoundError]
    assert [answer.image.width for answer in answers] == list(range(20, 50))
    assert {len(answer.predictions) for answer in answers} == {1}


@pytest.mark.parametrize(
    "code", ["internal", "deadline-exceeded", "broken-image", "image-too-large", "too-many-pixels"]
)
def test_an_error_of_one_image_is_yielded(connect: Connect, script: Script, code: str) -> None:
    script.answers = [refuses(REFUSALS[code]())]
    answers = list(connect(script.url).predict_many([IMAGE, IMAGE]))
    assert [type(answer) for answer in answers] == [REFUSALS[code]] * 2


@pytest.mark.parametrize("code", ["unauthorized", "forbidden", "overloaded", "rate-limited", "invalid-parameter"])
def test_an_error_of_all_images_is_raised(connect: Connect, script: Script, code: str) -> None:
    script.answers = [refuses(REFUSALS[code]())]
    with pytest.raises(REFUSALS[code]):
        list(connect(script.url, retry_seconds=0).predict_many(itertools.repeat(IMAGE, 100)))
    until(lambda: not connect.running())


def test_many_images_and_no_server_is_one_error(connect: Connect) -> None:
    with nobody() as bound, pytest.raises(ServerUnavailable):
        list(connect(address(bound)).predict_many(itertools.repeat(IMAGE, 100)))
    until(lambda: not connect.running())


class Crowded(FakeEngine):
    """It knows how many it sees at once at most."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._now = self.most = 0

    def infer(
        self, pixels: Pixels, *, features: bool = False, exclusive: bool = False
    ) -> tuple[Logits, Features | None]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        answer = super().infer(pixels, features=features, exclusive=exclusive)
        time.sleep(0.005)  # for one too many to come in
        with self._lock:
            self._now -= 1
        return answer


def test_at_most_twice_the_concurrency_of_endless_images_is_held(connect: Connect) -> None:
    engine = Crowded()
    engine.go.clear()
    taken, handed, held = 0, 0, list[int]()

    def images() -> Iterator[bytes]:
        nonlocal taken
        for number in itertools.count():
            taken += 1
            held.append(taken - handed)
            yield image(number)

    def release() -> None:
        for _ in range(3):
            assert engine.started.acquire(timeout=30)
        until(lambda: taken >= 6)
        engine.go.set()

    with serve_fake(engine, workers=12, queue=12) as crowded:
        releaser = threading.Thread(target=release)
        releaser.start()
        client = connect(crowded)
        answers = client.predict_many(images(), concurrency=3)
        for answer in itertools.islice(answers, 40):
            handed += 1
            assert isinstance(answer, Recognition)
        releaser.join()
        assert max(held) == 6
        assert engine.most == 3
        answers.close()
        until(lambda: not connect.running())
        client.close()


def test_closing_early_drops_what_has_not_begun(connect: Connect, script: Script) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if int(handler.headers["Content-Length"]) > len(IMAGE):
            return hangs(script)(handler)
        until(lambda: len(script.requests) >= 4 or script.go.is_set())
        return says(200, RECOGNITION)(handler)

    script.answers = [answer]
    images = itertools.chain([IMAGE] * 3, itertools.repeat(image(0)))
    answers = connect(script.url).predict_many(images, concurrency=4)
    assert len(list(itertools.islice(answers, 3))) == 3
    answers.close()
    script.go.set()  # which breaks the connections
    until(lambda: not connect.running())
    assert len(script.requests) <= 3 + 4


def test_closing_the_client_ends_all_waits_for_a_retry(script: Script) -> None:
    waiting = threading.Semaphore(0)

    class Patient(Client):
        async def _wait(self, seconds: float) -> None:
            waiting.release()
            await super()._wait(seconds)

    def ask() -> None:
        with pytest.raises(ServerUnavailable, match="The client was closed"):
            list(client.predict_many(itertools.repeat(IMAGE), concurrency=2))
        told.set()

    told = threading.Event()
    script.answers = [refuses(Overloaded(), Retry_After="300")]
    client = Patient(script.url, retry_seconds=1000)
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert waiting.acquire(timeout=30)
    assert waiting.acquire(timeout=30)
    client.close()
    assert told.wait(30)
    thread.join()


@pytest.mark.parametrize("call", ["predict_many", "predict_batch"])
@pytest.mark.parametrize(
    "image",
    ["cat.jpg", Path("cat.jpg"), IMAGE, bytearray(IMAGE), io.BytesIO(IMAGE), makers.flat(), np.asarray(makers.flat())],
    ids=lambda image: type(image).__name__,
)
def test_one_image_is_not_several(connect: Connect, script: Script, call: str, image: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{call} takes several images; use predict for one, or pass \[image\]$"):
        list(getattr(connect(script.url), call)(image))
    assert script.requests == []


@pytest.mark.parametrize("call", ["predict_many", "predict_batch"])
def test_an_array_may_hold_several_images(connect: Connect, served: Served, call: str) -> None:
    images = np.zeros((3, 20, 30, 3), np.uint8)
    assert [answer.image.width for answer in getattr(connect(served), call)(images)] == [30] * 3


def test_a_batch_is_one_request_with_errors_in_place(connect: Connect, served: Served, tmp_path: Path) -> None:
    images = [makers.encode(makers.flat((20 + number, 20)), "PNG") for number in range(4)]
    sources = [images[0], b"no image", images[1], tmp_path / "none.jpg", b"", *images[2:]]
    answers = connect(served).predict_batch(sources, top_k=1)
    wrong = [answers.pop(1), answers.pop(2), answers.pop(2)]
    assert [type(error) for error in wrong] == [UnsupportedFormat, FileNotFoundError, NoImage]
    assert {answer.request_id for answer in answers} == {wrong[0].request_id}
    assert [answer.image.width for answer in answers] == [20, 21, 22, 23]
    assert {(type(answer), len(answer.predictions), answer.model.name) for answer in answers} == {
        (Recognition, 1, "fake")
    }


def test_a_batch_without_images_sends_nothing(connect: Connect, script: Script, tmp_path: Path) -> None:
    client = connect(script.url)
    assert client.predict_batch([]) == []
    assert [type(error) for error in client.predict_batch([tmp_path / "none.jpg"])] == [FileNotFoundError]
    assert script.requests == []


def test_the_images_of_a_batch_are_shrunk(connect: Connect) -> None:
    with serve_fake(max_bytes=20_000, workers=4) as small:
        client = connect(small)
        whole = client.predict_batch([makers.jpeg(), IMAGE], shrink=False)
        assert [type(answer) for answer in whole] == [ImageTooLarge, Recognition]
        assert whole[0].request_id == whole[1].request_id
        for _ in range(2):  # at first it does not know the limit
            answers = client.predict_batch([makers.jpeg(), IMAGE, b"no image" * 10_000])
            assert [type(answer) for answer in answers] == [Recognition, Recognition, ImageTooLarge]
            assert answers[0].image.format == "PNG"
        client.close()


def test_an_option_that_does_not_exist_is_an_error(connect: Connect, script: Script) -> None:
    with pytest.raises(TypeError, match="topk"):
        connect(script.url).predict_batch([IMAGE], topk=1)
    assert script.requests == []


def test_a_batch_of_too_many_images_is_refused(connect: Connect, served: Served) -> None:
    with pytest.raises(TooManyImages, match="more than 64"):
        connect(served).predict_batch([IMAGE] * 65)


def test_a_batch_is_retried(connect: Connect, script: Script) -> None:
    model = RECOGNITION["model"]
    item = {"index": 0, **{name: RECOGNITION[name] for name in ("says", "groups", "predictions", "image", "cached")}}
    batch = {"results": [item], "model": model, "request_id": "request-1"}
    script.answers = [refuses(Overloaded(), Retry_After="1"), breaks, says(200, batch)]
    client = connect(script.url)
    assert [answer.to_dict() for answer in client.predict_batch([IMAGE], lang="zh")] == [RECOGNITION]
    assert [request.path for request in script.requests] == ["/predict/batch?lang=zh"] * 3
    assert len({request.size for request in script.requests}) == 1


def test_concurrency_is_at_least_one(connect: Connect, script: Script) -> None:
    with pytest.raises(ValueError, match="must be"):
        list(connect(script.url).predict_many([IMAGE], concurrency=0))


def test_images_may_come_from_an_async_iterable(served: Served) -> None:
    async def images() -> AsyncIterator[bytes]:
        for number in range(20):
            await asyncio.sleep(0)
            yield makers.encode(makers.flat((20 + number, 20)), "PNG")

    async def test() -> list[int]:
        async with AsyncClient(served.url) as client:
            return [answer.image.width async for answer in client.predict_many(images(), concurrency=3)]

    assert asyncio.run(test()) == list(range(20, 40))


def test_a_cancelled_task_cancels_its_requests(script: Script) -> None:
    script.answers = [hangs(script)]

    async def ask(client: AsyncClient, images: Iterable[bytes]) -> None:
        async for _ in client.predict_many(images, concurrency=3):
            pass

    async def test() -> set[Any]:
        async with AsyncClient(script.url) as client:
            asking = asyncio.create_task(ask(client, itertools.repeat(IMAGE)))
            await asyncio.to_thread(until, lambda: len(script.requests) == 3)
            asking.cancel()
            await asyncio.wait([asking])
            return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(test()) == set()


def test_the_event_loop_runs_while_a_file_is_read(served: Served) -> None:
    """A pipe is read for as long as nobody writes into it."""

    class Slow(io.RawIOBase):
        def read(self, _: int = -1) -> bytes:
            assert written.wait(30)
            return IMAGE

    written = threading.Event()

    async def test() -> Recognition:
        async with AsyncClient(served.url) as client:
            asking = asyncio.create_task(client.predict(Slow()))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            written.set()
            return await asking

    assert asyncio.run(test()).image.width == 300


def test_several_threads_share_a_client(served: Served) -> None:
    together = threading.Barrier(4)
    seen: list[int] = []

    def ask() -> None:
        together.wait(30)
        seen.extend(client.predict(IMAGE).image.width for _ in range(5))

    with Client(served.url) as client:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == [300] * 20
