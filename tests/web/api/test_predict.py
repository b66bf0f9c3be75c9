"""`/predict` and its neighbours, through HTTP, around a fake engine."""

import base64
import json
import platform
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from eyespot._version import __version__
from eyespot.settings import Settings
from eyespot.web.api.parameters import SCHEMA
from eyespot.web.app import create_app
from tests import makers
from tests.requests import answered
from tests.serving import Served, serve_fake

IMAGE = makers.encode(makers.flat((300, 200), (130, 130, 130)), "PNG")
BASE64 = base64.b64encode(IMAGE).decode()
CURL_D = {"content-type": "application/x-www-form-urlencoded"}  # the type of whatever curl -d sends
HTML = {"accept": "text/html"}


@pytest.fixture
def client(fake: Served) -> Iterator[httpx.Client]:
    with fake.client() as client:
        yield client


def as_form(client: httpx.Client, **fields: str) -> httpx.Response:
    return client.post("/predict", files={"file": ("cat.png", IMAGE, "image/png")}, data=fields)


def test_the_reply_has_the_shape_of_the_contract(client: httpx.Client) -> None:
    reply = as_form(client)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert list(body) == ["says", "groups", "predictions", "image", "model", "cached", "request_id"]
    said = {name: body["predictions"][0][name] for name in ("label", "confidence")}
    assert body["says"] == {"kind": "class", "id": "n00000005", **said}
    (group,) = body["groups"]
    assert (group["id"], group["label"]) == ("high", "high")
    assert said["confidence"] < group["confidence"] < 1
    assert len(body["predictions"]) == 3
    assert list(body["predictions"][0]) == ["class_id", "wnid", "label", "confidence"]
    assert body["predictions"][0]["label"] == "class 5"
    assert body["image"]["format"] == "PNG"
    assert (body["image"]["width"], body["image"]["height"]) == (300, 200)
    assert body["model"] == {"name": "fake", "digest": "0" * 64, "engine": "fake", "precision": "f32"}
    assert body["cached"] is False
    assert body["request_id"] == reply.headers["x-request-id"]
    steps = [part.split(";")[0] for part in reply.headers["server-timing"].split(", ")]
    assert steps == ["admit", "read", "queue", "decode", "infer", "respond", "total"]
    assert reply.headers["x-cache"] == "miss"


def urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(
    "request_",
    [
        {"files": {"file": ("cat.png", IMAGE, "image/png")}},
        {"files": {"image": ("cat.png", IMAGE)}},
        {"files": {"file": ("../../etc/passwd", IMAGE, "text/plain")}},
        {"json": {"image": BASE64}},
        {"json": {"image": BASE64.rstrip("=")}},
        {"json": {"image": urlsafe(IMAGE)}},
        {"json": {"image": "\n".join(BASE64[i : i + 76] for i in range(0, len(BASE64), 76))}},
        {"json": {"image": f"data:image/png;base64,{BASE64}"}},
        {"content": IMAGE, "headers": {"content-type": "image/png"}},
        {"content": IMAGE, "headers": {"content-type": "image/jpeg"}},
        {"content": IMAGE, "headers": {"content-type": "application/octet-stream"}},
        {"content": IMAGE, "headers": CURL_D},
        {"content": json.dumps({"image": BASE64}).encode(), "headers": CURL_D},
        {"content": IMAGE},
        {"content": iter([IMAGE[:100], IMAGE[100:]])},
    ],
    ids=lambda request_: "-".join(f"{key}" for key in request_),
)
def test_every_body_is_read(client: httpx.Client, method: str, request_: dict[str, object]) -> None:
    if "content" in request_ and not isinstance(request_["content"], bytes):
        request_ = {"content": iter([IMAGE[:100], IMAGE[100:]])}
    reply = client.request(method, "/predict", **request_)  # type: ignore[arg-type]
    assert reply.status_code == 200, reply.text
    assert reply.json()["predictions"][0]["class_id"] == 5


DOORS: dict[str, Callable[[bytes], dict[str, Any]]] = {
    "form": lambda data: {"files": {"file": ("cat.jpg", data, "image/jpeg")}},
    "JSON": lambda data: {"json": {"image": base64.b64encode(data).decode()}},
    "as it is": lambda data: {"content": data},
    "curl -d": lambda data: {"content": data, "headers": CURL_D},
}


@pytest.mark.parametrize("door", DOORS)
def test_another_format_is_named_at_every_door(client: httpx.Client, door: str) -> None:
    for data, title in makers.others().items():
        reply = client.post("/predict", **DOORS[door](data))
        assert (reply.status_code, reply.json()["code"]) == (415, "unsupported-format"), title
        assert reply.json()["detail"] == f"This is {title}; JPEG, PNG and WebP are accepted."


@pytest.mark.parametrize("side", [300, 1500, 2500])
def test_an_image_without_line_ends_of_its_own_is_read(client: httpx.Client, side: int) -> None:
    data = makers.encode(makers.flat((side, side), "white"), "JPEG", quality=85, optimize=True, subsampling=0)
    assert not {*b"\r\n"} & {*data}
    assert client.post("/predict", content=data, headers=CURL_D).status_code == 200


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_that_curl_d_has_damaged_is_told_the_remedy(client: httpx.Client, kind: str) -> None:
    data = makers.encode(makers.photograph(), kind).translate(None, b"\r\n")
    refused = client.post("/predict", content=data, headers=CURL_D)
    assert refused.json()["code"] == "broken-image"
    assert "--data-binary" in refused.json()["detail"]


def ask(client: httpx.Client, how: str, query: dict[str, object], body: dict[str, object]) -> httpx.Response:
    if how == "json":
        return client.post("/predict", params=query, json={"image": BASE64, **body})  # type: ignore[arg-type]
    return client.post(
        "/predict",
        params=query,  # type: ignore[arg-type]
        files={"file": IMAGE},
        data={name: str(value) for name, value in body.items()},
    )


@pytest.mark.parametrize("how", ["json", "form"])
def test_parameters_come_from_the_query_and_the_body_wins(client: httpx.Client, how: str) -> None:
    def count(query: dict[str, object], body: dict[str, object]) -> int:
        return len(ask(client, how, query, body).json()["predictions"])

    assert count({}, {}) == 3
    assert count({"top_k": 5}, {}) == 5
    assert count({"top_k": 5}, {"top_k": 2}) == 2
    assert count({"top_k": 10}, {}) == 10
    assert count({"top_k": 10, "min_confidence": 0.5}, {}) == 1
    assert count({"min_confidence": 1}, {}) == 0
    assert count({"top_k": ""}, {"lang": ""}) == 3
    assert count({"top_k": 5}, {"top_k": ""}) == 5
    assert ask(client, how, {"lang": "zh"}, {}).json()["predictions"][0]["label"] == "第5类"
    assert ask(client, how, {"lang": "zh"}, {"lang": "en"}).json()["predictions"][0]["label"] == "class 5"


@pytest.mark.parametrize(
    ("given", "limit", "allowed"),
    [
        ({"top_k": 0}, 1, "a whole number from 1 to 10"),
        ({"top_k": -1}, 1, "a whole number from 1 to 10"),
        ({"top_k": 11}, 10, "a whole number from 1 to 10"),
        ({"top_k": 10**30}, 10, "a whole number from 1 to 10"),
        ({"top_k": "three"}, None, "a whole number from 1 to 10"),
        ({"top_k": 1.5}, None, "a whole number from 1 to 10"),
        ({"min_confidence": 1.1}, 1, "a number from 0 to 1"),
        ({"min_confidence": -0.1}, 0, "a number from 0 to 1"),
        ({"min_confidence": "nan"}, None, "a number from 0 to 1"),
        ({"lang": "xx"}, None, "one of en, zh"),
    ],
)
@pytest.mark.parametrize("where", ["query", "json", "form"])
def test_a_wrong_parameter_is_a_problem(
    client: httpx.Client, where: str, given: dict[str, object], limit: object, allowed: str
) -> None:
    query = given if where == "query" else {}
    reply = ask(client, "form" if where == "query" else where, query, {} if query else given)
    problem = reply.json()
    assert (reply.status_code, problem["code"]) == (422, "invalid-parameter")
    ((name, value),) = given.items()
    quoted = value if where == "json" and not isinstance(value, str) else f"'{value}'"
    assert problem["detail"] == f"{name}: {quoted} is not {allowed}."
    assert (problem.get("limit"), problem["value"]) == (limit, str(value))


def test_all_wrong_parameters_are_told_and_a_long_value_is_cut(client: httpx.Client) -> None:
    reply = client.post("/predict", json={"image": BASE64, "top_k": 10**4000, "lang": [1] * 60, "min_confidence": {}})
    number, text = f"1{'0' * 39}…", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1…"
    assert reply.json()["detail"] == (
        f"top_k: {number} is not a whole number from 1 to 10; min_confidence: {{}} is not a number from 0 to 1; "
        f"lang: {text} is not one of en, zh."
    )
    assert (reply.json()["limit"], reply.json()["value"]) == (10, number)
    reply = client.post("/predict", params={"top_k": 11, "lang": "\0"}, content=IMAGE)
    assert (
        reply.json()["detail"] == r"top_k: '11' is not a whole number from 1 to 10; lang: '\x00' is not one of en, zh."
    )


@pytest.mark.parametrize("charset", ["punycode", "undefined", "idna", "utf-16", "nonsense", "zip"])
def test_a_form_is_utf_8_whatever_it_says(client: httpx.Client, charset: str) -> None:
    def part(name: str, value: bytes) -> bytes:
        return f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"

    form = part('file"; filename="é.png', IMAGE) + part("top_k", b"2") + part("other", b"abc-9999.\xff") + b"--B--\r\n"
    kind = f"multipart/form-data; boundary=B; charset={charset}"
    reply = client.post("/predict", content=form, headers={"content-type": kind})
    assert reply.status_code == 200, reply.text
    assert len(reply.json()["predictions"]) == 2


@pytest.mark.parametrize("name", SCHEMA)
def test_a_boolean_is_no_number(client: httpx.Client, name: str) -> None:
    reply = client.post("/predict", json={"image": BASE64, name: True})
    assert (reply.status_code, reply.json()["value"]) == (422, "true")


def test_a_file_wins_over_a_text_of_the_other_name(client: httpx.Client) -> None:
    files = {"file": (None, "a text"), "image": ("a.png", IMAGE)}
    assert client.post("/predict", files=files).status_code == 200


def test_labels(client: httpx.Client) -> None:
    rows = client.get("/labels").json()
    assert rows[3] == {
        "class_id": 3,
        "wnid": "n00000003",
        "label": "class 3",
        "en": "class 3",
        "zh": "第3类",
        "synonyms": [],
        "gloss": None,
        "groups": [{"id": "low", "label": "low"}],
        "other": False,
    }
    assert len(rows) == 10
    chinese = client.get("/labels?lang=zh").json()
    assert chinese[3] == {**rows[3], "label": "第3类", "groups": [{"id": "low", "label": "低"}]}
    wrong = client.get("/labels?lang=xx")
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid-parameter")
    assert wrong.json()["detail"] == "lang: 'xx' is not one of en, zh."


@pytest.mark.parametrize(
    ("text", "found"),
    [("class 3", 1), ("CLASS", 10), ("lass", 0), ("３类", 1), ("类", 10), ("", 10), (" \u3000", 10), ("x" * 20_000, 0)],
)
def test_labels_are_found_by_what_their_words_begin_with(client: httpx.Client, text: str, found: int) -> None:
    for lang in ("en", "zh"):
        reply = client.get("/labels", params={"q": text, "lang": lang})
        assert (reply.status_code, len(reply.json())) == (200, found)


def test_model(client: httpx.Client) -> None:
    card = client.get("/model").json()
    assert card["name"] == "fake"
    assert card["input_size"] == 224
    assert card["classes"] == 10
    assert card["stand_in"] is False
    assert (card["recipe"]["resize"], card["recipe"]["crop"]) == (256, 224)
    assert card["limits"] == {
        "max_bytes": 5 * 1024 * 1024,
        "max_pixels": 25_000_000,
        "formats": ["jpeg", "png", "webp"],
        "max_top_k": 10,
    }


def test_health(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"alive": True}
    assert client.get("/readyz").json() == {"ready": True}
    verbose = client.get("/readyz?verbose").json()
    checks = [check["name"] for check in verbose["checks"]]
    assert checks == ["model", "golden image", "draining", "pool", "cache", "audit", "uploads"]
    assert all(check["ok"] for check in verbose["checks"])
    for path in ("/livez", "/readyz"):
        assert client.get(path).headers["cache-control"] == "no-store"
        assert client.head(path).status_code == 200


def test_metrics_count_what_happened() -> None:
    with serve_fake(workers=2, queue=3) as served, served.client() as client:
        as_form(client)
        client.post("/predict", content=b"hello", headers={"content-type": "image/png"})
        assert answered(served, "/predict", 200) == answered(served, "/predict", 415) == 1
        lines = client.get("/metrics").text.splitlines()
    for line in [
        'eyespot_refusals_total{code="unsupported-format"} 1.0',
        'eyespot_step_duration_seconds_count{step="decode"} 2.0',
        'eyespot_step_duration_seconds_count{step="infer"} 1.0',
        'eyespot_cache_requests_total{result="miss"} 2.0',
        "eyespot_queue_depth 0.0",
        "eyespot_queue_capacity 3.0",
        "eyespot_workers_busy 0.0",
        "eyespot_workers 2.0",
        f'eyespot_build_info{{python="{platform.python_version()}",version="{__version__}"}} 1.0',
        f'eyespot_model_info{{digest="{"0" * 64}",engine="fake",name="fake",precision="f32"}} 1.0',
    ]:
        assert line in lines


def test_a_request_id_is_kept_when_it_is_harmless(client: httpx.Client) -> None:
    def answered(given: str | bytes) -> str:
        return client.get("/livez", headers=[(b"x-request-id", given)]).headers["x-request-id"]  # type: ignore[list-item]

    assert answered("abc-DEF_1.2") == "abc-DEF_1.2"
    for harmful in ("", "a b", "a" * 65, 'x"y', "ä".encode(), "a;b"):
        made = answered(harmful)
        assert made != harmful
        assert len(made) == 16
    assert answered("") != answered("")


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_name_no_other_host_and_hold_no_inline_script(client: httpx.Client, path: str) -> None:
    page = client.get(path, headers=HTML)
    assert page.status_code == 200
    assert "http:" not in page.text
    assert "https:" not in page.text
    assert "//" not in page.text.replace("<!--", "")
    policy = page.headers["content-security-policy"]
    assert policy.startswith(
        "default-src 'none'; script-src 'self'; style-src 'self';" if path == "/" else "default-src 'self'"
    )
    assert "script-src" not in policy.replace("script-src 'self'", "")
    for tag in page.text.split("<script")[1:]:
        attributes, content = tag.split(">", 1)
        assert "src=" in attributes
        assert content.startswith("</script>")
    for attribute in ("src", "href"):
        for part in page.text.split(f'{attribute}="')[1:]:
            target = part.split('"')[0]
            if target:
                found = client.get(f"/{target}")
                assert found.status_code == 200, target
                if "static/" in target:
                    assert found.headers["cache-control"] == "no-cache"  # all are of one version
                    again = client.get(f"/{target}", headers={"If-None-Match": found.headers["etag"]})
                    assert again.status_code == 304


def test_unknown_paths_and_methods_are_problems(client: httpx.Client) -> None:
    for path in ("/nope", "/static/nope.js", "/static/../cli.py", "/predict/"):
        reply = client.get(path)
        assert (reply.status_code, reply.json()["code"]) == (404, "not-found"), path
    reply = client.get("/predict")
    assert (reply.status_code, reply.json()["code"]) == (405, "method-not-allowed")
    assert reply.json()["detail"].endswith(f"; use {reply.headers['allow']}.")


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
PATHS = {
    "/openapi.json",
    *("/static/main.js", "/static/nope", "/static/predict", "/static/swagger/swagger-ui.css"),
    *(route.path for route in create_app(Settings()).routes if isinstance(route, APIRoute)),
}


@pytest.mark.parametrize("path", sorted(PATHS))
def test_every_method_is_answered_or_told_which_are(client: httpx.Client, path: str) -> None:
    replies = {method: client.request(method, path.replace("{sha256}", "0" * 64)) for method in METHODS}
    answered = {method for method, reply in replies.items() if reply.status_code != 405}
    assert answered
    for method, reply in replies.items():
        assert reply.headers.get_list("x-content-type-options") == ["nosniff"]
        if method not in answered:
            found = "error" if path.startswith("/v2") else "code"
            assert method == "HEAD" or reply.json()[found].startswith(("method-not-allowed", "/v2"))
            assert reply.headers.get_list("allow") == [", ".join(sorted(answered))]


def test_parameters_are_those_of_the_contract() -> None:
    assert tuple(SCHEMA) == ("top_k", "min_confidence", "lang")


def test_a_json_body_may_be_as_large_as_its_image_allows() -> None:
    with serve_fake(max_bytes=200_000) as served, served.client() as client:
        padding = 200_000 - len(IMAGE)
        padded = IMAGE + b"\0" * padding
        body = json.dumps({"image": base64.b64encode(padded).decode(), "top_k": 1})
        reply = client.post("/predict", content=body, headers={"content-type": "application/json"})
        assert reply.status_code == 200
        assert client.post("/predict", files={"file": padded}).status_code == 200
        assert client.post("/predict", content=padded).status_code == 200


def test_pages_of_chosen_origins_may_call() -> None:
    with serve_fake(cors_origins="https://example.org") as served, served.client() as client:
        asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
        allowed = client.options("/predict", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
        denied = client.options("/predict", headers={**asked, "Origin": "https://example.com"})
        for preflight, status in ((allowed, 200), (denied, 403)):
            assert (preflight.status_code, preflight.headers["x-content-type-options"]) == (status, "nosniff")
        answer = client.post("/predict", content=IMAGE, headers={"Origin": "https://example.org"})
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        assert "X-Cache" in answer.headers["access-control-expose-headers"]
        other = client.post("/predict", content=IMAGE, headers={"Origin": "https://example.com"})
        assert "access-control-allow-origin" not in other.headers
    with serve_fake() as served, served.client() as client:
        assert "access-control-allow-origin" not in client.get("/labels", headers={"Origin": "https://a.b"}).headers
