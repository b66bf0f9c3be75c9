"""Both clients against servers: what they send, return and raise."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from eyespot import errors
from eyespot.client.answers import outcomes
from eyespot.errors import (
    REFUSALS,
    InvalidParameter,
    NoAnswer,
    NotEyespot,
    Refusal,
    ServerUnavailable,
    Unauthorized,
)
from eyespot.types import (
    Batch,
    BatchItem,
    Check,
    Explanation,
    Group,
    GroupScore,
    ImageInfo,
    LabelEntry,
    ModelCard,
    ModelInfo,
    Prediction,
    Readiness,
    Recognition,
    Says,
)
from eyespot.web.gate.problems import document
from tests import makers
from tests.client.conftest import Connect
from tests.client.scripts import (
    ENTRY,
    LABEL,
    RECOGNITION,
    Script,
    refuses,
    says,
)
from tests.requests import IMAGE, image
from tests.serving import Served, serve_fake


def asked(served: Served) -> Counter[tuple[str, int]]:
    """How many requests of each route and status a server has answered."""
    with served.client() as client:
        text = client.get("/metrics").text
    found = re.findall(r'^eyespot_request\w+_count{.*route="(.+?)",status="(\d+)"} (\d+)', text, re.MULTILINE)
    counts = Counter[tuple[str, int]]()
    for route, status, count in found:
        counts[route, int(status)] += int(count) * (route != "/metrics")
    return counts


# What is sent.


def test_every_image_source_is_sent(connect: Connect, served: Served, tmp_path: Path) -> None:
    photograph = makers.photograph()
    data = makers.encode(photograph, "PNG", compress_level=1)
    (tmp_path / "cat.png").write_bytes(data)
    client = connect(served)
    answers = [client.predict(source) for source in (data, tmp_path / "cat.png", photograph, np.asarray(photograph))]
    assert len({answer.image.sha256 for answer in answers}) == 1


@pytest.mark.parametrize("source", [None, "none.jpg", b""], ids=["no source", "no file", "no bytes"])
def test_an_invalid_image_is_not_sent(connect: Connect, script: Script, source: Any) -> None:
    with pytest.raises((TypeError, FileNotFoundError, errors.NoImage)):
        connect(script.url).predict(source)
    assert script.requests == []


# What comes back.


def test_the_options_are_sent(connect: Connect, script: Script) -> None:
    script.answers = [says(200, RECOGNITION)]
    connect(script.url).predict(IMAGE, top_k=7, min_confidence=0.25, lang="zh")
    url = httpx.URL(script.requests[0].path)
    assert (url.path, dict(url.params)) == ("/predict", {"top_k": "7", "min_confidence": "0.25", "lang": "zh"})
    assert script.requests[0].size == len(IMAGE)


def test_labels_are_searched_in_a_language(connect: Connect, script: Script) -> None:
    script.answers = [says(200, [LABEL])]
    assert connect(script.url).labels(q="third", lang="zh") == [ENTRY]
    assert script.requests[0].path == "/labels?q=third&lang=zh"


def test_labels_are_found_by_the_server(connect: Connect, served: Served) -> None:
    client = connect(served)
    assert [entry.label for entry in client.labels(q="第3", lang="zh")] == ["第3类"]
    assert [entry.class_id for entry in client.labels(q="class")] == list(range(10))
    assert client.labels(q="lass") == []


def test_answers_are_the_dataclasses_of_types(connect: Connect, served: Served) -> None:
    client = connect(served)
    recognition = client.predict(IMAGE, top_k=2)
    assert type(recognition) is Recognition
    assert [type(prediction) for prediction in recognition.predictions] == [Prediction] * 2
    assert (type(recognition.says), type(recognition.groups[0])) == (Says, GroupScore)
    assert (type(recognition.image), type(recognition.model)) == (ImageInfo, ModelInfo)
    assert client.labels()[3] == LabelEntry(
        3, "n00000003", "class 3", "class 3", "第3类", synonyms=[], gloss=None, groups=[Group("low", "low")]
    )
    assert type(client.model()) is ModelCard
    assert client.model().limits.max_bytes == 5 * 1024 * 1024


def test_an_answer_is_the_json_of_the_server(connect: Connect, script: Script, served: Served) -> None:
    script.answers = [says(200, RECOGNITION)]
    assert connect(script.url).predict(IMAGE).to_dict() == RECOGNITION
    client = connect(served)
    with served.client() as plain:
        assert client.model().to_dict() == {"quantization": None, **plain.get("/model").json()}
        assert [label.to_dict() for label in client.labels()] == plain.get("/labels").json()


def test_an_explanation_is_the_json_of_the_server(connect: Connect, served: Served) -> None:
    client = connect(served)
    for class_id in (None, 1, 0):
        found = client.explain(IMAGE, class_id)
        assert type(found) is Explanation
        assert class_id in (None, found.prediction.class_id)
        with served.client(headers={"Accept": "application/json"}) as plain:
            params = {} if class_id is None else {"class_id": class_id}
            reply = plain.post("/explain", content=IMAGE, params=params)
        assert found.to_dict() == {**reply.json(), "request_id": found.request_id}
    with pytest.raises(InvalidParameter, match="class_id: '10' is not a whole number from 0 to 9"):
        client.explain(IMAGE, 10)


def test_what_is_sent_for_an_explanation(connect: Connect, script: Script) -> None:
    script.answers = [refuses(Unauthorized())] * 2
    for options in ({}, {"class_id": 7, "lang": "zh"}):
        with pytest.raises(Unauthorized):
            connect(script.url).explain(IMAGE, **options)
    paths = [httpx.URL(request.path) for request in script.requests]
    assert [(url.path, dict(url.params)) for url in paths] == [
        ("/explain", {"lang": "en"}),
        ("/explain", {"lang": "zh", "class_id": "7"}),
    ]
    assert [request.headers["accept"] for request in script.requests] == ["application/json"] * 2


def test_a_recognition_can_be_read_in_a_notebook(connect: Connect, served: Served) -> None:
    client = connect(served)
    each = r"class \d \d\d?\.\d%"
    start = rf"Recognition\({each}: "
    assert re.fullmatch(rf"{start}{each}, {each}; 300 x 200 PNG\)", repr(client.predict(IMAGE, top_k=2)))
    assert re.fullmatch(rf"{start}({each}, ){{5}}…; 300 x 200 PNG\)", repr(client.predict(IMAGE, top_k=6)))
    assert re.fullmatch(rf"{start}no class; 300 x 200 PNG\)", repr(client.predict(IMAGE, min_confidence=1)))


def test_health_is_readiness_with_checks(connect: Connect, served: Served) -> None:
    health = connect(served).health()
    assert health.ready is True
    assert Check("draining", True, "no") in health.checks


def test_a_server_that_drains_is_not_ready(connect: Connect, served: Served) -> None:
    assert served.recognizer
    served.recognizer.pool.draining = True
    health = connect(served).health()
    served.recognizer.pool.draining = False
    assert (type(health), health.ready) == (Readiness, False)
    assert Check("draining", False, "stopping") in health.checks


# What is raised.


@pytest.mark.parametrize("code", REFUSALS)
def test_every_refusal_is_raised_as_the_server_raised_it(connect: Connect, script: Script, code: str) -> None:
    kind = REFUSALS[code]
    script.answers = [refuses(kind("This is why.", limit=7, value="much"), Retry_After="3")]
    with pytest.raises(kind) as caught:
        connect(script.url, retry_seconds=0).labels()
    refusal = caught.value
    assert type(refusal) is kind
    assert (str(refusal), refusal.detail, refusal.status) == ("This is why.", "This is why.", kind.status)
    assert (refusal.code, refusal.title) == (kind.code, kind.title)
    assert (refusal.limit, refusal.value, refusal.retry_after) == (7, "much", 3)
    assert (refusal.request_id, kind().request_id) == ("request-1", None)
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
        *((200, NotEyespot), (301, NotEyespot), (404, NotEyespot), (413, NotEyespot), (500, NotEyespot)),
        *((429, ServerUnavailable), (502, ServerUnavailable), (503, ServerUnavailable), (504, ServerUnavailable)),
    ],
)
@pytest.mark.parametrize("call", ["labels", "health"])
def test_a_page_of_another_server_is_not_an_answer(
    connect: Connect, script: Script, status: int, kind: type[NoAnswer], call: str
) -> None:
    advice = "proxy" if status == 413 or kind is ServerUnavailable else "is the URL right"
    script.answers = [says(status, b"<html>Hello</html>", Location="https://elsewhere/")]
    with pytest.raises(NoAnswer, match=f"answered {status} .*, which is not an eyespot response; .*{advice}") as caught:
        getattr(connect(script.url, retry_seconds=0), call)()
    assert (type(caught.value), caught.value.status) == (kind, status)
    assert ("https://elsewhere/" in str(caught.value)) == (status == 301)
    assert script.url in str(caught.value)


def test_a_redirect_to_nowhere_is_not_an_answer(connect: Connect, script: Script) -> None:
    script.answers = [says(304, b"")]
    with pytest.raises(NotEyespot, match="answered 304"):
        connect(script.url).labels()


@pytest.mark.parametrize("body", [b"[]", b"null", b"{}", b'{"predictions": 3}', b"\xff", b""])
def test_an_answer_of_another_form_is_not_an_answer(connect: Connect, script: Script, body: bytes) -> None:
    script.answers = [says(200, body)]
    with pytest.raises(NotEyespot):
        connect(script.url).predict(IMAGE)


# Asking for the sha256 first.


def test_a_large_image_in_the_cache_is_not_uploaded(connect: Connect, caching: Served) -> None:
    unknown = image(new_number())
    first = connect(caching, ask_first=None).predict(unknown)
    before = asked(caching)
    known = connect(caching, ask_first=len(unknown) - 1).predict(unknown, top_k=1)
    assert (known.cached, known.image, known.predictions) == (True, first.image, first.predictions[:1])
    assert asked(caching) - before == {("/results/{sha256}", 200): 1}


def test_a_large_image_outside_the_cache_is_uploaded(connect: Connect, caching: Served) -> None:
    before = asked(caching)
    answer = connect(caching, ask_first=0).predict(image(new_number()))
    assert answer.cached is False
    assert asked(caching) - before == {("/results/{sha256}", 404): 1, ("/predict", 200): 1}


@pytest.mark.parametrize("ask_first", [None, 200_000, len(IMAGE) + 4])
def test_a_small_image_is_uploaded_at_once(connect: Connect, caching: Served, ask_first: int | None) -> None:
    before = asked(caching)
    connect(caching, ask_first=ask_first).predict(image(new_number()))
    assert asked(caching) - before == {("/predict", 200): 1}


_numbers = itertools.count()


def new_number() -> int:
    """Of an image that no server has seen."""
    return next(_numbers)


def test_the_options_are_sent_with_the_sha256(connect: Connect, script: Script) -> None:
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


# Images that are larger than the server's limit.


@pytest.fixture(scope="module")
def small() -> Iterator[Served]:
    """A server that accepts 20,000 bytes."""
    with serve_fake(max_bytes=20_000) as served:
        yield served


def test_a_large_image_is_shrunk(connect: Connect, small: Served, tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(makers.turned(makers.photograph(), 6))
    client = connect(small)
    for source, call in itertools.product(
        (tmp_path / "cat.jpg", makers.photograph()), (client.predict, client.explain)
    ):
        image = call(source).image
        assert image.format == "PNG"
        assert image.width / image.height == pytest.approx(451 / 300, abs=0.02)


def test_a_large_image_is_not_shrunk_when_the_caller_says_so(connect: Connect, small: Served) -> None:
    with pytest.raises(errors.ImageTooLarge, match="the limit is 20,000"):
        connect(small).predict(makers.jpeg(), shrink=False)
    with pytest.raises(errors.ImageTooLarge, match="the limit is 20,000"):
        connect(small).explain(makers.jpeg(), shrink=False)


@pytest.mark.parametrize("data", [b"no image" * 10_000, makers.jpeg()[:30_000]], ids=["no image", "half an image"])
def test_what_cannot_be_shrunk_is_too_large(connect: Connect, small: Served, data: bytes) -> None:
    with pytest.raises(errors.ImageTooLarge, match=f"has {len(data):,} bytes") as caught:
        connect(small).predict(data)
    assert (caught.value.limit, caught.value.value) == (20_000, len(data))


def test_the_limit_is_asked_for_only_when_it_is_needed(connect: Connect, small: Served) -> None:
    client = connect(small, ask_first=None)
    before = Counter(asked(small))
    client.predict(IMAGE)
    assert Counter(asked(small)) - before == {("/predict", 200): 1}
    client.predict(makers.jpeg())
    client.predict(makers.jpeg())  # which is now known to be too large
    expected = {("/predict", 200): 3, ("/predict", 413): 1, ("/model", 200): 2}
    assert Counter(asked(small)) - before == expected


def test_more_than_the_usual_limit_is_not_uploaded_in_vain(connect: Connect, served: Served) -> None:
    before = Counter(asked(served))
    noise = np.random.default_rng(1).integers(0, 256, (1500, 1500, 3), np.uint8)
    data = makers.encode(Image.fromarray(noise), "PNG", compress_level=1)
    answers = list(connect(served, ask_first=None).predict_many([data]))
    assert 1280 < answers[0].image.width < 1300
    assert Counter(asked(served)) - before == {("/model", 200): 1, ("/predict", 200): 1}


def test_an_invalid_option_is_refused_by_the_server(connect: Connect, served: Served) -> None:
    with pytest.raises(InvalidParameter, match="top_k"):
        connect(served).predict(IMAGE, top_k=0)


def test_an_older_server_is_told_from_another_program() -> None:
    """It has no `says` yet."""
    item = BatchItem(0, "a.jpg", predictions=[], image=ImageInfo("0" * 64, "PNG", 1, 1), cached=False)
    batch = Batch([item], ModelInfo("m", "0" * 64, "openvino", "f32"), "id")
    with pytest.raises(NotEyespot, match="older than this client"):
        outcomes(batch)
