"""In which language an answer is, and what it tells caches about that."""

import base64
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.requests import IMAGE
from tests.serving import Served, serve_fake

BASE64 = base64.b64encode(IMAGE).decode()
SHA256 = hashlib.sha256(IMAGE).hexdigest()
JSON = {"Accept": "application/json"}
NDJSON = {"Accept": "application/x-ndjson"}
CHINESE = {"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve_fake(cache_url="memory://") as served, served.client() as client:
        assert client.post("/predict", content=IMAGE).status_code == 200  # for /results
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


# Each with the headers by which its reply varies.
WAYS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "form": ({"url": "/predict", "files": {"file": IMAGE}}, set()),
    "JSON": ({"url": "/predict", "json": {"image": BASE64}}, set()),
    "raw": ({"url": "/predict", "content": IMAGE}, set()),
    "results": ({"url": f"/results/{SHA256}", "method": "GET"}, set()),
    "batch": ({"url": "/predict/batch", "json": [BASE64], "headers": JSON}, {"Accept"}),
    "NDJSON": ({"url": "/predict/batch", "json": [BASE64], "headers": NDJSON}, {"Accept"}),
    "explain": ({"url": "/explain", "content": IMAGE, "headers": JSON}, {"Accept"}),
    "labels": ({"url": "/labels", "method": "GET"}, set()),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("query", "headers", "lang"),
    [
        ({}, {}, "en"),
        ({}, CHINESE, "zh"),
        ({"lang": "zh"}, {}, "zh"),
        ({"lang": "en"}, CHINESE, "en"),
    ],
)
def test_lang_wins_over_accept_language(
    client: httpx.Client, way: str, query: dict[str, str], headers: dict[str, str], lang: str
) -> None:
    request, vary = WAYS[way]
    reply = client.request(
        **{"method": "POST", **request, "headers": {**request.get("headers", {}), **headers}}, params=query
    )
    assert reply.status_code == 200, reply.text
    labels = re.findall('"label": ?"(.*?)"', reply.text)
    assert labels
    assert {label.isascii() for label in labels} == {lang == "en"}
    assert reply.headers["content-language"] == lang
    assert set(reply.headers["vary"].split(", ")) == vary | {"Accept-Language"}


@pytest.mark.parametrize(
    "body", [{"json": {"image": BASE64, "lang": "zh"}}, {"files": {"file": IMAGE}, "data": {"lang": "zh"}}]
)
def test_the_body_may_name_the_language(client: httpx.Client, body: dict[str, Any]) -> None:
    reply = client.post("/predict", params={"lang": "en"}, **body)
    assert (reply.json()["groups"][0]["label"], reply.headers["content-language"]) == ("低", "zh")


def test_an_empty_language_is_none(client: httpx.Client) -> None:
    reply = client.post("/predict", params={"lang": ""}, content=IMAGE, headers=CHINESE)
    assert reply.headers["content-language"] == "zh"


@pytest.mark.parametrize(
    ("header", "lang"),
    [
        ("zh", "zh"),
        ("ZH-Hans-CN", "zh"),
        ("zh-TW", "zh"),
        ("zh, en", "zh"),
        ("en, zh", "en"),
        ("en;q=0.5, zh;q=0.6", "zh"),
        ("zh-TW;q=0.1, en;q=0.5, zh;q=0.9", "zh"),
        ("fr-CH, fr;q=0.9, zh;q=0.1, en;q=0.05", "zh"),
        ("zh;Q = 0.3, en;q=0.2", "zh"),
        ("zh;q=0", "en"),
        ("zh;q=0, en;q=0", "en"),
        ("en;q=0, *", "zh"),
        ("*", "en"),
        ("*, zh;q=0.5", "en"),
        ("fr, *;q=0.5", "en"),
        ("zh;q=0.5, *;q=0.1", "zh"),
        ("zho, zhx-CN, zh_CN, chinese", "en"),
        ("zh;q=2", "en"),
        ("zh;q=-1", "en"),
        ("zh;q=nan", "en"),
        ("zh;q=inf", "en"),
        ("zh;q=", "en"),
        ("zh;q=x, en;q=0.1", "en"),
        ("", "en"),
        (",;=q,;q=1,,-", "en"),
        ("fr," * 3000 + "zh", "en"),  # more tags than anyone's browser has
    ],
)
def test_accept_language_is_read_as_http_defines_it(client: httpx.Client, header: str, lang: str) -> None:
    reply = client.get("/labels", headers={"Accept-Language": header})
    assert (reply.status_code, reply.headers["content-language"]) == (200, lang)


@pytest.mark.parametrize("path", ["/labels?lang=", f"/results/{'0' * 64}?lang="])
def test_an_empty_language_is_one_that_was_not_given(client: httpx.Client, path: str) -> None:
    reply = client.get(path, headers=CHINESE)
    assert reply.status_code in (200, 404)  # no answer is cached
    assert reply.headers.get("content-language", "zh") == "zh"


def test_a_map_has_no_language(client: httpx.Client) -> None:
    reply = client.post("/explain", content=IMAGE, headers=CHINESE)
    assert reply.headers["content-type"] == "image/png"
    assert "content-language" not in reply.headers


def test_pages_of_other_origins_get_a_language_too() -> None:
    origin = {"Origin": "https://example.org"}
    with serve_fake(cors_origins="https://example.org") as served, served.client() as client:
        reply = client.post("/predict/batch", json=[BASE64], headers={**origin, **CHINESE})
        preflight = client.options("/predict", headers={**origin, "Access-Control-Request-Method": "POST"})
    assert set(reply.headers["vary"].split(", ")) == {"Accept", "Accept-Language", "Origin"}
    assert preflight.status_code == 200
    assert "content-language" not in preflight.headers
