"""curl gets JSON that reads well in a terminal; every other client gets it compact."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyespot.web.gate.pretty import pretty, pretty_json
from tests import makers
from tests.serving import Served, serve_fake
from tests.web.gate.helpers import KEYS, app_with, get

CURL = {"User-Agent": "curl/8.5.0"}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
)


def compact(text: str) -> str:
    return json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)


def test_a_recognition_as_curl_shows_it(fake: Served) -> None:
    with fake.client(headers=CURL) as client:
        reply = client.post("/predict?top_k=2", content=makers.jpeg(), headers={"X-Request-ID": "abc"})
    sha256, digest = reply.json()["image"]["sha256"], "0" * 64
    assert (
        reply.text
        == f"""{{
  "says": {{"kind": "class", "id": "n00000004", "label": "class 4", "confidence": 0.942826}},
  "groups": [{{"id": "low", "label": "low", "confidence": 0.968236}}],
  "predictions": [
    {{"class_id": 4, "wnid": "n00000004", "label": "class 4", "confidence": 0.942826}},
    {{"class_id": 0, "wnid": "n00000000", "label": "class 0", "confidence": 0.006353}}
  ],
  "image": {{
    "sha256": "{sha256}",
    "format": "JPEG",
    "width": 451,
    "height": 300
  }},
  "model": {{
    "name": "fake",
    "digest": "{digest}",
    "engine": "fake",
    "precision": "f32"
  }},
  "cached": false,
  "request_id": "abc"
}}
"""
    )
    assert reply.headers["Vary"] == "Accept-Language, User-Agent"


@pytest.mark.parametrize(
    "path", ["/model", "/labels", "/livez", "/readyz?verbose", "/audit", "/nothing", "/openapi.json"]
)
def test_every_json_is_formatted_for_curl_and_compact_for_others(fake: Served, path: str) -> None:
    with fake.client() as client:
        others, curl = client.get(path), client.get(path, headers=CURL)
        head = client.head(path, headers=CURL)
    assert compact(others.text) == others.text
    assert others.headers.get("Vary") == ("Accept-Language" if path == "/labels" else None)
    assert curl.text == pretty(json.loads(curl.text)) + "\n"
    assert set(curl.json()) == set(others.json()) if path != "/labels" else curl.json() == others.json()
    assert head.headers.get("Content-Length") == str(len(curl.content))


@pytest.mark.parametrize(("images", "lines"), [(3000, 3001), (4000, 1)])
def test_a_large_document_only_gets_a_newline(images: int, lines: int) -> None:
    """Formatting 5 MB takes seconds, and hundreds of MB."""
    document = json.dumps([{"label": "x" * 60}] * images).encode()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def reply() -> None:
        formatted = pretty_json(send)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(document))]
        await formatted({"type": "http.response.start", "status": 200, "headers": headers})
        await formatted({"type": "http.response.body", "body": document})

    asyncio.run(reply())
    start, body = sent
    assert abs(body["body"].count(b"\n") - lines) <= 1
    assert body["body"].endswith(b"]\n")
    assert (b"content-length", b"%d" % len(body["body"])) in start["headers"]


def test_a_batch_and_its_lines(fake: Served) -> None:
    files = {"file": ("a.jpg", makers.jpeg())}
    with fake.client(headers=CURL) as client:
        batch = client.post("/predict/batch", files=files)
        lines = client.post("/predict/batch", files=files, headers={"Accept": "application/x-ndjson"})
    assert batch.text.startswith('{\n  "results": [\n    {\n      "index": 0,\n      "filename": "a.jpg",\n')
    assert batch.headers["Vary"] == "Accept, Accept-Language, User-Agent"
    assert lines.text.count("\n") == 1


def test_text_is_left_as_it_is(fake: Served) -> None:
    with fake.client(headers=CURL) as client:
        assert client.get("/metrics").text.startswith("# HELP")
        assert client.get("/static/page.css").text == client.get("/static/page.css", headers={"User-Agent": "x"}).text


def test_a_refusal_before_the_routes() -> None:
    assert get(app_with(KEYS), user_agent="curl/8.5.0").text.startswith(
        '{\n  "type": "urn:eyespot:problem:unauthorized",\n'
    )


def test_an_internal_error() -> None:
    with serve_fake(raises=RuntimeError("a bug")) as served, served.client(headers=CURL) as client:
        reply = client.post("/predict", content=makers.jpeg())
    assert reply.status_code == 500
    assert reply.text.endswith('"\n}\n')


def test_a_refusal_reaches_a_curl_that_still_sends(fake: Served) -> None:
    def endless() -> Any:
        while True:
            yield b"\0" * 65536

    with fake.client(headers=CURL) as client, client.stream("POST", "/predict", content=endless()) as reply:
        assert reply.status_code == 413
        assert reply.read().endswith(b"}\n")


@settings(max_examples=30)
@given(VALUES)
def test_it_is_the_same_json(value: Any) -> None:
    text = pretty(value)
    assert json.loads(text) == value
    assert all(len(line) <= 100 or line.lstrip()[-2:] not in ("},", "],") for line in text.splitlines())


def test_what_fits_stays_on_its_line() -> None:
    most = ["x" * 95]
    assert len(pretty(most)) == len(json.dumps(most)) == 99
    indented = ["x" * 93]
    assert pretty([indented, [1]]) == f"[\n  {json.dumps(indented)},\n  [1]\n]"
    with_its_comma_101 = ["x" * 94]
    assert pretty([with_its_comma_101, [1]]) == f'[\n  [\n    "{"x" * 94}"\n  ],\n  [1]\n]'
    assert pretty({"概": ["狗", "猫" * 50, "x" * 50]}).splitlines()[1:3] == ['  "概": [', '    "狗",']


@pytest.mark.parametrize("agent", ["python-httpx/0.28", "curling/1", "Mozilla/5.0 curl/8", ""])
def test_other_clients_get_it_compact(agent: str) -> None:
    assert "\n" not in get(app_with(), user_agent=agent).text
