"""Both clients against real servers: what they take, what they raise, when they ask again, what they leave behind."""

import asyncio
import http.server
import io
import itertools
import json
import math
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import eyespot
from eyespot import errors
from eyespot.client import AsyncClient, Client, Step, _asked_for, _seconds
from eyespot.errors import (
    REFUSALS,
    InvalidParameter,
    NoAnswer,
    NotEyespot,
    Overloaded,
    RateLimited,
    Refusal,
    ServerSilent,
    ServerUnavailable,
    TooSmall,
    Unauthorized,
    UnsupportedFormat,
)
from eyespot.types import Check, ImageInfo, Label, ModelCard, ModelInfo, Prediction, Readiness, Recognition
from eyespot.vision.engines import Features, Logits, Pixels
from eyespot.web.gate.problems import document
from tests import makers
from tests.requests import IMAGE, image
from tests.serving import FakeEngine, Served, serve_fake, serve_files, until

RECOGNITION = {
    "predictions": [{"class_id": 3, "wnid": "n00000003", "label": "class 3", "confidence": 0.9}],
    "image": {"sha256": "0" * 64, "format": "PNG", "width": 300, "height": 200},
    "model": {"name": "fake", "digest": "0" * 64, "engine": "fake", "precision": "f32"},
    "cached": False,
    "request_id": "request-1",
}
LABEL = {"class_id": 3, "wnid": "n00000003", "label": "class 3"}


class HurriedClient(Client):
    """It notes the seconds that it should wait, and does not wait."""

    def _take_one(self, step: Step, left: threading.Event) -> Any:
        if isinstance(step, float):
            vars(self).setdefault("pauses", []).append(step)
            step = 0.0
        return super()._take_one(step, left)


class HurriedAsyncClient(AsyncClient):
    """As `HurriedClient`."""

    async def _take_one(self, step: Step) -> Any:
        if isinstance(step, float):
            vars(self).setdefault("pauses", []).append(step)
            step = 0.0
        return await super()._take_one(step)


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


Connect = Callable[..., Any]


@pytest.fixture(params=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes a client, of each kind in turn, that does not wait between requests."""
    clients: list[Any] = []
    with asyncio.Runner() as runner:

        def connected(served: Served | str | None = None, **options: Any) -> Any:
            url = served.url if isinstance(served, Served) else served
            if request.param == "Client":
                clients.append(HurriedClient(url, **options))
            else:
                clients.append(InLoop(HurriedAsyncClient(url, **options), runner))
            return clients[-1]

        connected.running = lambda: _running(runner)  # type: ignore[attr-defined]
        yield connected
        for client in clients:
            client.close()


def _running(runner: asyncio.Runner) -> set[Any]:
    """The threads and tasks that are left of a `predict_many`."""

    async def tasks() -> set[Any]:
        return asyncio.all_tasks() - {asyncio.current_task()}

    threads = {thread for thread in threading.enumerate() if thread.name.startswith("eyespot-ordered")}
    return threads | runner.run(tasks())


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    size: int


@dataclass
class Script:
    """A server that answers with each of `answers` in turn, and from then on with the last."""

    url: str = ""
    answers: list[Callable[[Any], None]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)  # ends what hangs

    def answer(self, handler: Any) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        size = len(handler.rfile.read(int(headers.get("content-length", 0))))
        self.requests.append(Request(handler.command, handler.path, headers, size))
        said = self.answers[min(len(self.requests), len(self.answers)) - 1]
        said(handler)


@pytest.fixture(scope="module")
def scripts() -> Iterator[Script]:
    at: list[Script] = [Script()]

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet, or the second waits 40 ms for the first to be acknowledged

        def handle(self) -> None:
            with suppress(ConnectionError):  # of a client that did not wait
                super().handle()

        def do_GET(self) -> None:
            at[0].answer(self)

        def do_POST(self) -> None:
            at[0].answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with serve_files(Handler) as url:
        yield SimpleNamespace(at=at, url=url)  # type: ignore[misc]


@pytest.fixture
def script(scripts: Any) -> Iterator[Script]:
    """Another script for each test, on one server."""
    scripts.at[0] = Script(scripts.url)
    yield scripts.at[0]
    scripts.at[0].go.set()


def says(status: int, body: object, **headers: str) -> Callable[[Any], None]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def answer(handler: Any) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def refuses(refusal: Refusal, **headers: str) -> Callable[[Any], None]:
    return says(refusal.status, document(refusal, "request-1"), **headers)


def hangs(script: Script) -> Callable[[Any], None]:
    def answer(handler: Any) -> None:
        script.go.wait(60)
        handler.close_connection = True

    return answer


def cuts(handler: Any) -> None:
    """The connection breaks half-way through the answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"[" * 500)
    handler.close_connection = True


def leaves(handler: Any) -> None:
    """The connection ends after an answer that promised to keep it."""
    says(200, [LABEL])(handler)
    handler.close_connection = True


@contextmanager
def nobody() -> Iterator[str]:
    """An address at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def asked(served: Served) -> dict[tuple[str, int], int]:
    """How many requests of each route and status a server has answered."""
    with served.client() as client:
        text = client.get("/metrics").text
    found = re.findall(r'^eyespot_requests_total{route="(.+?)",status="(\d+)"} (\d+)', text, re.MULTILINE)
    return {(route, int(status)): int(count) for route, status, count in found if route != "/metrics"}


class Mosaic(FakeEngine):
    """Its logits are the levels of some places, each in one channel and with its weight, so that any change is seen."""

    def infer(
        self, pixels: Pixels, *, features: bool = False, exclusive: bool = False
    ) -> tuple[Logits, Features | None]:
        _, seen = super().infer(pixels, features=features, exclusive=exclusive)
        ten = [(row, column, (row + column) % 3) for row in (0, 1) for column in range(5)]
        size = [side // count for side, count in zip(pixels.shape[1:3], (2, 5), strict=True)]
        patches = [
            pixels[:, row * size[0] : (row + 1) * size[0], column * size[1] : (column + 1) * size[1], channel]
            for row, column, channel in ten
        ]
        means = np.stack([patch.mean((1, 2)) for patch in patches], 1)
        return (means * np.linspace(0.02, 0.04, 10)).astype(np.float32), seen


@pytest.fixture(scope="module")
def mosaic() -> Iterator[Served]:
    with serve_fake(Mosaic(), workers=4, queue=8) as served:
        yield served


@pytest.fixture(scope="module")
def remembering() -> Iterator[Served]:
    with serve_fake(cache_url="memory://") as served:
        yield served


def assert_same(one: Recognition, other: Recognition) -> None:
    """The same answer, but for the last levels of a pixel."""
    assert (one.image.width, one.image.height) == (other.image.width, other.image.height)
    assert_alike(one, other, within=0.01)


def assert_alike(one: Recognition, other: Recognition, within: float) -> None:
    confidences = [{at.class_id: at.confidence for at in answer.predictions} for answer in (one, other)]
    assert confidences[0] == pytest.approx(confidences[1], abs=within)


# What an image may be.

PHOTOGRAPH = makers.jpeg()
AS_BYTES: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "BytesIO": io.BytesIO,
}


@pytest.mark.parametrize("kind", AS_BYTES)
def test_encoded_bytes_are_sent_as_they_are(connect: Connect, mosaic: Served, kind: str) -> None:
    answer = connect(mosaic).predict(AS_BYTES[kind](PHOTOGRAPH))
    assert answer.image.sha256 == connect(mosaic).predict(PHOTOGRAPH).image.sha256
    assert (answer.image.format, answer.image.width, answer.image.height) == ("JPEG", 451, 300)


def test_a_file_is_sent_by_its_path_or_open(connect: Connect, mosaic: Served, tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(PHOTOGRAPH)
    client = connect(mosaic)
    with path.open("rb") as file:
        answers = [client.predict(source) for source in (path, str(path), file, PHOTOGRAPH)]
    assert len({answer.image.sha256 for answer in answers}) == 1


def _palette() -> Image.Image:
    return makers.photograph().quantize(64)


def _see_through(mode: str) -> Image.Image:
    image = makers.photograph().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image.convert(mode)


OPENED: dict[str, Callable[[], bytes]] = {
    "RGB": lambda: makers.encode(makers.photograph(), "PNG"),
    "RGBA": lambda: makers.encode(_see_through("RGBA"), "PNG"),
    "LA": lambda: makers.encode(_see_through("LA"), "PNG"),
    "L": lambda: makers.encode(makers.photograph().convert("L"), "PNG"),
    "1": lambda: makers.encode(makers.photograph().convert("1"), "PNG"),
    "P": lambda: makers.encode(_palette(), "PNG"),
    "P with a transparent colour": lambda: makers.encode(_palette(), "PNG", transparency=3),
    "CMYK": lambda: makers.encode(makers.photograph().convert("CMYK"), "JPEG", quality=95),
    "16 bits": makers.sixteen_bit,
    "YCbCr": lambda: makers.encode(makers.photograph(), "JPEG", quality=95),
    "WebP": lambda: makers.encode(makers.photograph(), "WEBP"),
    **{f"orientation {turn}": lambda turn=turn: makers.turned(makers.photograph(), turn) for turn in range(1, 9)},
}


@pytest.mark.parametrize("kind", OPENED)
def test_a_pil_image_is_answered_as_its_file_is(connect: Connect, mosaic: Served, kind: str) -> None:
    data = OPENED[kind]()
    client = connect(mosaic)
    with Image.open(io.BytesIO(data)) as opened:
        assert_same(client.predict(opened, top_k=10), client.predict(data, top_k=10))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_an_array_is_answered_as_its_file_is(connect: Connect, mosaic: Served, mode: str) -> None:
    image = _see_through("RGBA") if mode == "RGBA" else makers.photograph().convert(mode)
    client = connect(mosaic)
    assert_same(client.predict(np.asarray(image), top_k=10), client.predict(makers.encode(image, "PNG"), top_k=10))


def test_an_array_whose_rows_run_backwards_is_no_other(connect: Connect, mosaic: Served) -> None:
    blue_green_red = np.asarray(makers.photograph())[..., ::-1].copy()
    client = connect(mosaic)
    straight = client.predict(makers.photograph(), top_k=10)
    assert_same(client.predict(blue_green_red[..., ::-1], top_k=10), straight)


@cache
def _noisy(width: int, height: int) -> tuple[Image.Image, bytes]:
    """Colours that differ from place to place, under noise that no PNG makes smaller; and their file."""
    x, y = np.meshgrid(np.linspace(0, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32))
    noise = np.random.default_rng(1).integers(0, 100, (height, width, 3), np.uint8)
    image = Image.fromarray((np.stack([x, y, 1 - x], 2) * 155).astype(np.uint8) + noise)
    return image, makers.encode(image, "JPEG", quality=30)


@pytest.mark.parametrize("size", [(4000, 3000), (2200, 1479)])
def test_a_large_pil_image_is_made_small_enough_and_its_label_is_that_of_its_file(
    connect: Connect, mosaic: Served, size: tuple[int, int]
) -> None:
    noisy, data = _noisy(*size)
    client = connect(mosaic)
    with_all_pixels = client.predict(data, top_k=10)
    answer = client.predict(noisy, top_k=10)
    assert answer.predictions[0].label == with_all_pixels.predictions[0].label
    assert_alike(answer, with_all_pixels, within=0.03)
    assert answer.image.width / answer.image.height == pytest.approx(size[0] / size[1], abs=0.01)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_a_large_pil_image_of_any_mode_is_seen(mosaic: Served, mode: str) -> None:
    size = (2600, 2500)
    white = Image.new(mode, size, 65535) if mode == "I;16" else makers.flat(size, "white").convert(mode)
    small = makers.flat((64, 64), "white")
    with Client(mosaic.url) as client:
        assert_alike(client.predict(white, top_k=10), client.predict(small, top_k=10), within=0.001)


@pytest.mark.parametrize("side", [1290, 1328])  # the last that is sent whole, and one that would be too much
def test_noise_is_not_too_large(mosaic: Served, side: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
    with Client(mosaic.url) as client:
        answer = client.predict(noise)
    assert (answer.image.width == side) == (side == 1290)


@pytest.mark.parametrize("mode", ["1", "P"])
def test_fine_stripes_stay_grey_when_they_are_made_small(mosaic: Served, mode: str) -> None:
    stripes = np.zeros((4000, 5000), np.uint8)  # of which every second column is all white
    stripes[:, ::2] = 255
    with Client(mosaic.url) as client:
        answer = client.predict(Image.fromarray(stripes).convert(mode), top_k=10)
        assert_alike(answer, client.predict(makers.flat((64, 64), (127, 127, 127)), top_k=10), within=0.01)


UNUSABLE: dict[str, tuple[Any, str]] = {
    "None": (None, "an image is a path, bytes, a binary file, a PIL image or a numpy array, not NoneType"),
    "a list of rows": ([[1, 2], [3, 4]], "or a numpy array, not list"),
    "what is like a tensor": (SimpleNamespace(__array__=lambda: np.zeros((4, 4, 3), np.uint8)), "or a numpy array"),
    "a file of text": (io.StringIO("text"), r"open\(path, 'rb'\)"),
    "floats": (np.zeros((8, 8, 3)), "must hold uint8, from 0 to 255, .* this holds <f8"),
    "truths": (np.zeros((8, 8), bool), "must hold uint8"),
    "channels first": (np.zeros((3, 8, 8), np.uint8), r"of shape \(h, w, 3\).* this .* is of shape \(3, 8, 8\)"),
    "one channel": (np.zeros((8, 8, 1), np.uint8), r"\(h, w\)"),
    "several images": (np.zeros((2, 8, 8, 3), np.uint8), "of shape"),
    "one number": (np.uint8(3), "of shape"),
    "a PIL image of floats": (Image.new("F", (8, 8)), "convert it to RGB"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_what_is_no_image_is_told_what_one_is(connect: Connect, script: Script, what: str) -> None:
    image, told = UNUSABLE[what]
    with pytest.raises(TypeError, match=told):
        connect(script.url).predict(image)
    assert script.requests == []


def test_a_missing_file_is_missing(connect: Connect, script: Script, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect(script.url).predict(tmp_path / "none.jpg")
    assert script.requests == []


@pytest.mark.parametrize("empty", [Image.new("RGB", (0, 9)), np.zeros((0, 9, 3), np.uint8)], ids=["PIL", "array"])
def test_an_image_without_pixels_is_too_small(connect: Connect, script: Script, empty: Any) -> None:
    with pytest.raises(TooSmall, match="no pixels"):
        connect(script.url).predict(empty)


# What comes back.


def test_what_is_asked_for_arrives(connect: Connect, script: Script) -> None:
    script.answers = [says(200, RECOGNITION)]
    connect(script.url).predict(IMAGE, top_k=7, min_confidence=0.25, lang="zh")
    url = httpx.URL(script.requests[0].path)
    assert (url.path, dict(url.params)) == ("/predict", {"top_k": "7", "min_confidence": "0.25", "lang": "zh"})
    assert script.requests[0].size == len(IMAGE)


def test_labels_are_asked_for_in_a_language(connect: Connect, script: Script) -> None:
    script.answers = [says(200, [LABEL])]
    assert connect(script.url).labels("zh") == [Label(**LABEL)]
    assert script.requests[0].path == "/labels?lang=zh"


def test_answers_are_the_dataclasses_of_types(connect: Connect, mosaic: Served) -> None:
    client = connect(mosaic)
    recognition = client.predict(IMAGE, top_k=2)
    assert type(recognition) is Recognition
    assert [type(prediction) for prediction in recognition.predictions] == [Prediction] * 2
    assert (type(recognition.image), type(recognition.model)) == (ImageInfo, ModelInfo)
    assert client.labels()[3] == Label(3, "n00000003", "class 3")
    assert type(client.model()) is ModelCard
    assert client.model().limits.max_bytes == 5 * 1024 * 1024


def test_the_health_of_a_server_is_its_readiness_and_the_checks(connect: Connect, mosaic: Served) -> None:
    health = connect(mosaic).health()
    assert health.ready is True
    assert Check("draining", True, "no") in health.checks


def test_a_server_that_drains_is_alive_and_not_ready(connect: Connect, mosaic: Served) -> None:
    assert mosaic.recognizer
    mosaic.recognizer.pool.draining = True
    health = connect(mosaic).health()
    mosaic.recognizer.pool.draining = False
    assert (type(health), health.ready) == (Readiness, False)
    assert Check("draining", False, "stopping") in health.checks


# What is raised.


@pytest.mark.parametrize("code", REFUSALS)
def test_every_refusal_is_raised_again_as_the_server_raised_it(connect: Connect, script: Script, code: str) -> None:
    kind = REFUSALS[code]
    script.answers = [refuses(kind("This is why.", limit=7, value="much"), Retry_After="3")]
    with pytest.raises(kind) as caught:
        connect(script.url, retry_seconds=0).labels()
    refusal = caught.value
    assert type(refusal) is kind
    assert (str(refusal), refusal.detail, refusal.status) == ("This is why.", "This is why.", kind.status)
    assert (refusal.code, refusal.title) == (kind.code, kind.title)
    assert (refusal.limit, refusal.value, refusal.retry_after) == (7, "much", 3)
    assert refusal.__notes__ == ["request id request-1"]
    assert len(script.requests) == 1


def test_a_refusal_of_a_newer_server_is_a_refusal(connect: Connect, script: Script) -> None:
    problem = json.loads(document(errors.BrokenImage("Too odd."), "request-1"))
    script.answers = [says(499, {**problem, "code": "too-odd", "status": 499, "title": "Odd"})]
    with pytest.raises(Refusal, match="Too odd") as caught:
        connect(script.url).predict(IMAGE)
    assert type(caught.value) is Refusal
    assert (caught.value.code, caught.value.status, caught.value.title) == ("too-odd", 499, "Odd")
    assert not hasattr(Refusal, "status")  # the class is as it was


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((200, NotEyespot), (301, NotEyespot), (404, NotEyespot), (500, NotEyespot)),
        *((429, ServerUnavailable), (502, ServerUnavailable), (503, ServerUnavailable), (504, ServerUnavailable)),
    ],
)
@pytest.mark.parametrize("call", ["labels", "health"])
def test_a_page_of_something_else_is_no_answer(
    connect: Connect, script: Script, status: int, kind: type[NoAnswer], call: str
) -> None:
    script.answers = [says(status, b"<html>Hello</html>", Location="https://elsewhere/")]
    with pytest.raises(NoAnswer, match=r"an eyespot (says|does)") as caught:
        getattr(connect(script.url, retry_seconds=0), call)()
    assert type(caught.value) is kind
    assert ("https://elsewhere/" in str(caught.value)) == (status == 301)
    assert script.url in str(caught.value)


@pytest.mark.parametrize("body", [b"[]", b"null", b"{}", b'{"predictions": 3}', b"\xff", b""])
def test_an_answer_of_another_form_is_no_answer(connect: Connect, script: Script, body: bytes) -> None:
    script.answers = [says(200, body)]
    with pytest.raises(NotEyespot):
        connect(script.url).predict(IMAGE)


# When it is asked again.


@pytest.mark.parametrize("refusal", [Overloaded(), RateLimited(), errors.Draining()], ids=lambda kind: kind.code)
def test_what_is_refused_for_the_moment_is_asked_again(connect: Connect, script: Script, refusal: Refusal) -> None:
    script.answers = [*[refuses(refusal, Retry_After="1")] * 3, says(200, RECOGNITION)]
    assert connect(script.url).predict(IMAGE).predictions[0].label == "class 3"
    assert [request.size for request in script.requests] == [len(IMAGE)] * 4


def test_a_balancer_without_a_server_is_asked_again(connect: Connect, script: Script) -> None:
    script.answers = [says(502, b"<html>Bad gateway</html>")] * 3 + [says(200, [LABEL])]
    assert len(connect(script.url).labels()) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 413, 415, 418, 422, 431, 500, 501, 504])
def test_any_other_refusal_is_final(connect: Connect, script: Script, status: int) -> None:
    problem = json.loads(document(errors.Internal(), "request-1"))
    script.answers = [
        says(status, {**problem, "status": status, "code": "any"}, Retry_After="1"),
        says(200, [LABEL]),
    ]
    with pytest.raises(Refusal):
        connect(script.url).labels()
    assert len(script.requests) == 1


def test_the_pause_is_the_one_that_the_server_asks_for(connect: Connect, script: Script) -> None:
    in_half_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    script.answers = [
        *(refuses(Overloaded(), Retry_After=after) for after in ("3", "7", in_half_a_minute)),
        says(200, [LABEL]),
    ]
    client = connect(script.url)
    client.labels()
    assert 3 <= client.pauses[0] < 4
    assert 7 <= client.pauses[1] < 8
    assert 0 < client.pauses[2] < 31


@pytest.mark.parametrize("headers", [{"Retry_After": "3"}, {}], ids=["asked for", "our own"])
def test_no_two_clients_come_back_at_once(script: Script, headers: dict[str, str]) -> None:
    script.answers = [refuses(Overloaded(), **headers)] * 10 + [says(200, [LABEL])]
    with HurriedClient(script.url) as client:
        client.labels()
        assert len(set(vars(client)["pauses"])) == 10


@pytest.mark.parametrize("after", [None, "0", "Sun, 06 Nov 1994 08:49:37 GMT", "-5", "soon", "1.5"])
def test_without_a_time_to_come_the_pauses_double_up_to_eight_seconds(
    connect: Connect, script: Script, after: str | None
) -> None:
    headers = {"Retry_After": after} if after else {}
    script.answers = [refuses(Overloaded(), **headers)] * 9 + [says(200, [LABEL])]
    client = connect(script.url)
    client.labels()
    for pause, most in zip(client.pauses, (0.25, 0.5, 1, 2, 4, 8, 8, 8, 8), strict=True):
        assert most / 2 <= pause <= most


@pytest.mark.parametrize("after", ["10", "9" * 400, "9" * 5000])
def test_a_server_that_asks_for_more_than_there_is_is_not_waited_for(
    connect: Connect, script: Script, after: str
) -> None:
    script.answers = [refuses(Overloaded("Full."), Retry_After=after)]
    client = connect(script.url, retry_seconds=5)
    with pytest.raises(Overloaded, match="Full") as caught:
        client.labels()
    assert caught.value.retry_after >= 10
    assert len(script.requests) == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_request_is_given_up_when_its_seconds_are_used_up(script: Script, kind: Any) -> None:
    script.answers = [refuses(Overloaded("Full."))]
    with pytest.raises(Overloaded, match="Full"):  # it really waits
        asyncio.run(_labels(kind(script.url, retry_seconds=0.3)))
    assert len(script.requests) <= 3  # a fourth would come after at least 0.125 + 0.25 + 0.5 seconds


async def _labels(client: Client | AsyncClient) -> Any:
    if isinstance(client, AsyncClient):
        async with client:
            return await client.labels()
    with client:
        return client.labels()


def test_health_is_asked_once(connect: Connect, script: Script) -> None:
    script.answers = [refuses(Overloaded(), Retry_After="1"), says(200, {"ready": True})]
    assert connect(script.url).health() == Readiness(False)
    assert len(script.requests) == 1


# Servers that do not answer.


@pytest.mark.parametrize("call", ["labels", "health"])
def test_a_server_that_hangs_is_silent_and_not_asked_again(connect: Connect, script: Script, call: str) -> None:
    script.answers = [hangs(script)]
    client = connect(script.url, timeout=0.2)
    with pytest.raises(ServerSilent, match="did not answer in time") as caught:
        getattr(client, call)()
    assert isinstance(caught.value.__cause__, httpx.ReadTimeout)
    assert len(script.requests) == 1


def test_an_answer_that_breaks_off_is_asked_for_again(connect: Connect, script: Script) -> None:
    script.answers = [cuts, says(200, [LABEL])]
    assert connect(script.url).labels() == [Label(**LABEL)]


def test_a_connection_that_always_breaks_is_given_up(connect: Connect, script: Script) -> None:
    script.answers = [cuts]
    with pytest.raises(ServerUnavailable, match=re.escape(script.url)) as caught:
        connect(script.url).labels()
    assert isinstance(caught.value.__cause__, httpx.RemoteProtocolError)
    assert len(script.requests) == 4


def test_where_nobody_listens_no_server_is_there(connect: Connect) -> None:
    with nobody() as url:
        client = connect(url)
        with pytest.raises(ServerUnavailable, match=f"No eyespot answers at {url}: "):
            client.labels()
        assert len(client.pauses) == 3
        with pytest.raises(ServerUnavailable):
            client.health()


def test_a_connection_that_the_server_closed_in_between_is_opened_again(connect: Connect, script: Script) -> None:
    script.answers = [leaves]
    client = connect(script.url)
    assert [client.labels() for _ in range(3)] == [[Label(**LABEL)]] * 3


def test_closing_wakes_whoever_waits_to_ask_again(script: Script) -> None:
    waiting, told = threading.Event(), list[Exception]()

    class Patient(Client):
        def _take_one(self, step: Step, left: threading.Event) -> Any:
            if isinstance(step, float):
                waiting.set()
            return super()._take_one(step, left)

    def ask() -> None:
        try:
            client.labels()
        except ServerUnavailable as error:
            told.append(error)

    script.answers = [refuses(Overloaded(), Retry_After="300")]
    client = Patient(script.url, retry_seconds=1000)
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert waiting.wait(30)
    client.close()
    thread.join(30)
    assert [str(error) for error in told] == ["The client was closed."]


# Asking before sending.


def test_a_large_image_that_is_known_is_not_sent(connect: Connect, remembering: Served) -> None:
    unknown = image(new_number())
    first = connect(remembering, ask_first=None).predict(unknown)
    before = Counter(asked(remembering))
    known = connect(remembering, ask_first=len(unknown) - 1).predict(unknown, top_k=1)
    assert (known.cached, known.image, known.predictions) == (True, first.image, first.predictions[:1])
    assert Counter(asked(remembering)) - before == {("/results/{sha256}", 200): 1}


def test_a_large_image_that_is_not_known_is_sent(connect: Connect, remembering: Served) -> None:
    before = Counter(asked(remembering))
    answer = connect(remembering, ask_first=0).predict(image(new_number()))
    assert answer.cached is False
    assert Counter(asked(remembering)) - before == {("/results/{sha256}", 404): 1, ("/predict", 200): 1}


@pytest.mark.parametrize("ask_first", [None, 200_000, len(IMAGE) + 4])
def test_a_small_image_is_sent_at_once(connect: Connect, remembering: Served, ask_first: int | None) -> None:
    before = Counter(asked(remembering))
    connect(remembering, ask_first=ask_first).predict(image(new_number()))
    assert Counter(asked(remembering)) - before == {("/predict", 200): 1}


_numbers = itertools.count()


def new_number() -> int:
    """Of an image that no server has seen."""
    return next(_numbers)


def test_what_is_asked_for_arrives_with_the_sha256_too(connect: Connect, script: Script) -> None:
    script.answers = [says(200, RECOGNITION)]
    connect(script.url, ask_first=0).predict(IMAGE, top_k=7, lang="zh")
    (request,) = script.requests
    assert (request.method, request.size) == ("GET", 0)
    assert re.match(r"/results/[0-9a-f]{64}\?top_k=7&min_confidence=0&lang=zh$", request.path)


def test_a_refusal_of_the_sha256_is_a_refusal(connect: Connect, script: Script) -> None:
    script.answers = [refuses(Unauthorized())]
    with pytest.raises(Unauthorized):
        connect(script.url, ask_first=0).predict(IMAGE)
    assert len(script.requests) == 1


# Where it asks, and as whom.


def test_the_environment_says_where_and_as_whom(
    connect: Connect, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EYESPOT_URL", f"{script.url}/theirs\n")
    monkeypatch.setenv("EYESPOT_API_KEY", "of-the-environment\n")
    script.answers = [says(200, [LABEL])]
    connect().labels()
    connect(f"{script.url}/ours", api_key="of-the-argument").labels()
    assert [(request.path.split("?")[0], request.headers["authorization"]) for request in script.requests] == [
        ("/theirs/labels", "Bearer of-the-environment"),
        ("/ours/labels", "Bearer of-the-argument"),
    ]


def test_without_a_key_none_is_sent(connect: Connect, script: Script) -> None:
    script.answers = [says(200, [LABEL])]
    connect(script.url).labels()
    assert "authorization" not in script.requests[0].headers
    assert script.requests[0].headers["user-agent"] == f"eyespot/{eyespot.__version__}"


@pytest.mark.parametrize("key", ["clé-secrète", "hunter2\nhunter3"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(connect: Connect, key: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        connect("127.0.0.1", api_key=key)
    assert "hunter2" not in str(caught.value)


def test_a_key_opens_what_is_closed(connect: Connect) -> None:
    with serve_fake(api_keys="ours:hunter22") as served:
        right, wrong = connect(served, api_key="hunter22"), connect(served, api_key="hunter23")
        assert right.predict(IMAGE).predictions
        with pytest.raises(Unauthorized, match="not valid"):
            wrong.predict(IMAGE)
        right.close()
        wrong.close()


@pytest.mark.parametrize("ending", ["", "/", "/prefix", "/prefix/", "/a/b", "/prefix?a=1#b"])
def test_a_path_before_ours_is_kept(connect: Connect, script: Script, ending: str) -> None:
    script.answers = [says(200, RECOGNITION)]
    connect(script.url.removeprefix("http://") + ending, ask_first=0).predict(IMAGE)  # a URL needs no scheme either
    prefix = re.sub(r"/?(\?.*)?$", "", ending)
    assert script.requests[0].path.startswith(f"{prefix}/results/")


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://host", "http://", "http://:80", "http://host:port", "http://host:99999", "http://[::1", "//host"),
        *("http://a..b", f"http://{'a' * 64}.example", "http://me:hunter2@host:port", "http://ho\x00st"),
    ],
)
def test_what_is_no_address_is_told_before_anything_is_asked(connect: Connect, url: str) -> None:
    with pytest.raises(ServerUnavailable, match="is no address") as caught:
        connect(url)
    assert "hunter2" not in str(caught.value)


def test_a_password_in_the_address_is_sent_and_not_shown(connect: Connect, script: Script) -> None:
    script.answers = [says(200, b"<html>Hello</html>")]
    with pytest.raises(NotEyespot) as answered:
        connect(script.url.replace("//", "//me:hunter2@")).labels()
    assert script.requests[0].headers["authorization"].startswith("Basic ")
    with nobody() as url, pytest.raises(ServerUnavailable) as unanswered:
        connect(url.replace("//", "//me:hunter2@")).labels()
    assert "hunter2" not in f"{answered.value} {unanswered.value}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("proxy", ["HTTP_PROXY=http://127.0.0.1:1", "ALL_PROXY=socks5://127.0.0.1:1"])
def test_this_machine_is_asked_without_a_proxy(
    connect: Connect, script: Script, monkeypatch: pytest.MonkeyPatch, host: str, proxy: str
) -> None:
    monkeypatch.setenv(*proxy.split("=", 1))
    monkeypatch.setenv(proxy.split("=", 1)[0].lower(), proxy.split("=", 1)[1])
    script.answers = [says(200, [LABEL])]
    assert connect(script.url.replace("127.0.0.1", host)).labels()


def test_this_machine_is_asked_without_a_proxy_over_https_too(
    connect: Connect, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", script.url)
    with nobody() as url, pytest.raises(ServerUnavailable) as caught:
        connect(url.replace("http:", "https:")).health()
    assert isinstance(caught.value.__cause__, httpx.ConnectError)


def test_another_machine_is_asked_through_the_proxy(
    connect: Connect, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", script.url)
    script.answers = [says(200, [LABEL])]
    assert connect("http://eyespot.invalid").labels()
    assert script.requests[0].path.startswith("http://eyespot.invalid/labels")


# Many images.


def test_many_images_are_answered_in_order_with_what_is_wrong_in_its_place(
    connect: Connect, mosaic: Served, tmp_path: Path
) -> None:
    images = [makers.encode(makers.flat((20 + number, 20)), "PNG") for number in range(30)]
    sources: list[Any] = [*images[:10], b"no image", *images[10:20], tmp_path / "none.jpg", *images[20:]]
    answers = list(connect(mosaic).predict_many(sources, concurrency=3, top_k=1))
    wrong = answers.pop(10), answers.pop(20)
    assert [type(error) for error in wrong] == [UnsupportedFormat, FileNotFoundError]
    assert [answer.image.width for answer in answers] == list(range(20, 50))
    assert {len(answer.predictions) for answer in answers} == {1}


@pytest.mark.parametrize(
    "code", ["internal", "deadline-exceeded", "broken-image", "image-too-large", "too-many-pixels"]
)
def test_an_error_of_one_image_is_in_its_place(connect: Connect, script: Script, code: str) -> None:
    script.answers = [refuses(REFUSALS[code]())]
    answers = list(connect(script.url).predict_many([IMAGE, IMAGE]))
    assert [type(answer) for answer in answers] == [REFUSALS[code]] * 2


@pytest.mark.parametrize("code", ["unauthorized", "forbidden", "overloaded", "rate-limited", "invalid-parameter"])
def test_an_error_of_all_images_is_raised(connect: Connect, script: Script, code: str) -> None:
    script.answers = [refuses(REFUSALS[code]())]
    with pytest.raises(REFUSALS[code]):
        list(connect(script.url, retry_seconds=0).predict_many(itertools.repeat(IMAGE, 100)))
    until(lambda: not connect.running())  # type: ignore[attr-defined]


def test_many_images_and_no_server_is_one_error(connect: Connect) -> None:
    with nobody() as url, pytest.raises(ServerUnavailable):
        list(connect(url).predict_many(itertools.repeat(IMAGE, 100)))
    until(lambda: not connect.running())  # type: ignore[attr-defined]


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


def test_of_endless_images_no_more_than_twice_the_concurrency_are_held(connect: Connect) -> None:
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

    with serve_fake(engine, workers=12, queue=12) as served:
        releaser = threading.Thread(target=release)
        releaser.start()
        client = connect(served)
        answers = client.predict_many(images(), concurrency=3)
        for answer in itertools.islice(answers, 40):
            handed += 1
            assert isinstance(answer, Recognition)
        releaser.join()
        assert max(held) == 6
        assert engine.most == 3
        answers.close()
        until(lambda: not connect.running())  # type: ignore[attr-defined]
        client.close()


def test_closing_early_drops_what_has_not_begun_and_asks_for_nothing_again(connect: Connect, script: Script) -> None:
    def answer(handler: Any) -> None:
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
    until(lambda: not connect.running())  # type: ignore[attr-defined]
    assert len(script.requests) <= 3 + 4


def test_closing_the_client_wakes_those_of_many_images_too(script: Script) -> None:
    waiting = threading.Semaphore(0)

    class Patient(Client):
        def _take_one(self, step: Step, left: threading.Event) -> Any:
            if isinstance(step, float):
                waiting.release()
            return super()._take_one(step, left)

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


def test_a_place_for_none_is_no_concurrency(connect: Connect, script: Script) -> None:
    with pytest.raises(ValueError, match="must be"):
        list(connect(script.url).predict_many([IMAGE], concurrency=0))


def test_images_may_come_from_an_async_iterable(mosaic: Served) -> None:
    async def images() -> AsyncIterator[bytes]:
        for number in range(20):
            await asyncio.sleep(0)
            yield makers.encode(makers.flat((20 + number, 20)), "PNG")

    async def test() -> list[int]:
        async with AsyncClient(mosaic.url) as client:
            return [answer.image.width async for answer in client.predict_many(images(), concurrency=3)]

    assert asyncio.run(test()) == list(range(20, 40))


def test_a_task_that_is_cancelled_cancels_what_it_asked_for(script: Script) -> None:
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


def test_the_event_loop_runs_while_a_file_is_read(mosaic: Served) -> None:
    """A pipe is read for as long as nobody writes into it."""

    class Slow(io.RawIOBase):
        def read(self, _: int = -1) -> bytes:
            assert written.wait(30)
            return IMAGE

    written = threading.Event()

    async def test() -> Recognition:
        async with AsyncClient(mosaic.url) as client:
            asking = asyncio.create_task(client.predict(Slow()))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            written.set()
            return await asking

    assert asyncio.run(test()).image.width == 300


def test_several_threads_share_a_client(mosaic: Served) -> None:
    together = threading.Barrier(4)
    seen: list[int] = []

    def ask() -> None:
        together.wait(30)
        seen.extend(client.predict(IMAGE).image.width for _ in range(5))

    with Client(mosaic.url) as client:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == [300] * 20


# The header Retry-After.

_DATES = st.datetimes().map(lambda date: format_datetime(date.replace(tzinfo=UTC), usegmt=True))
_ODD_DATES = st.from_regex(r"\A[A-Z][a-z]{2}, \d{1,20} [A-Z][a-z]{2} \d{1,20} \d{1,9}:\d\d:\d\d [+-]?\w{0,9}\Z")
_NEARLY = st.from_regex(r"\A(Mon, )?\d\d Jan \d{1,25} \d\d:\d\d(:\d\d)? ([+-]\d{1,25}|GMT|)\Z")


@given(st.text() | st.integers().map(str) | _DATES | _ODD_DATES | _NEARLY | st.floats().map(str))
def test_whatever_retry_after_says_it_is_seconds_or_nothing(text: str) -> None:
    seconds = _seconds(text)
    assert seconds is None or 0 <= seconds < 10**12
    answer = SimpleNamespace(headers={"Retry-After": text})
    assert math.isfinite(_asked_for(answer, 1.0))  # type: ignore[arg-type]


def test_a_wrong_parameter_is_refused_by_a_real_server(connect: Connect, mosaic: Served) -> None:
    with pytest.raises(InvalidParameter, match="top_k"):
        connect(mosaic).predict(IMAGE, top_k=0)
