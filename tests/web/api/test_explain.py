"""`/explain` through HTTP: the packaged model on composed images, and a fake engine for the rest."""

import base64
import io
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from eyespot.settings import Settings
from eyespot.vision.export import SAMPLE
from eyespot.web.app import create_app
from tests import makers
from tests.requests import IMAGE, answered, metric, predict
from tests.serving import FakeEngine, Served, serve_fake, until
from tests.vision.test_activation import OBJECTS, composed

JSON = {"Accept": "application/json"}
BASE64 = base64.b64encode(IMAGE).decode()


def ask(served: Served, data: bytes = IMAGE, headers: dict[str, str] = JSON, **query: object) -> httpx.Response:
    with served.client() as client:
        return client.post("/explain", content=data, params=query, headers=headers)  # type: ignore[arg-type]


def picture(reply: httpx.Response) -> Image.Image:
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png")
    found = Image.open(io.BytesIO(reply.content))
    assert (found.format, found.size) == ("PNG", (224, 224))
    return found.convert("RGB")


@pytest.mark.parametrize("name", OBJECTS)
def test_map_and_overlay_are_warmest_where_the_object_is(server: Served, name: str) -> None:
    for right in (0, 1):
        data = composed(name, OBJECTS[name], (right, 0), "plain")
        found = np.array(ask(server, data).json()["map"])
        assert np.sign(found.argmax() % 7 - 3) == 2 * right - 1
        pixels = np.asarray(picture(ask(server, data, {}))).astype(int)
        warmth = (pixels[..., 0] - pixels[..., 2]).sum(axis=0)
        assert np.sign(warmth[112:].sum() - warmth[:112].sum()) == 2 * right - 1


def test_any_class_is_explained_with_the_confidence_of_predict(server: Served) -> None:
    sample = SAMPLE.read_bytes()
    maps = []
    for prediction in predict(server, sample).json()["predictions"]:
        reply = ask(server, sample, class_id=prediction["class_id"]).json()
        assert reply["prediction"] == pytest.approx(prediction, abs=1e-4)
        maps.append(reply["map"])
    assert maps[0] != maps[1]
    assert ask(server, sample).json()["map"] == pytest.approx(np.array(maps[0]), abs=1e-2)


def test_the_example_of_the_document_is_the_reply_of_the_packaged_model(server: Served) -> None:
    content = create_app(Settings()).openapi()["paths"]["/explain"]["post"]["responses"]["200"]["content"]
    example = content["application/json"]["example"]
    reply = ask(server, SAMPLE.read_bytes()).json()
    assert list(example) == list(reply)
    np.testing.assert_allclose(np.array(reply.pop("map")), np.array(example.pop("map")), atol=0.05)
    assert reply.pop("prediction") == pytest.approx(example.pop("prediction"), abs=1e-3)
    assert reply == {**example, "request_id": reply["request_id"]}


def test_the_json_has_the_shape_of_the_contract(fake: Served) -> None:
    reply = ask(fake)
    body = reply.json()
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    assert list(body) == ["prediction", "map", "crop", "image", "model", "request_id"]
    assert list(body["prediction"]) == ["class_id", "wnid", "label", "confidence"]
    assert np.array(body["map"]).shape == (7, 7)
    assert body["crop"] == {"left": 62.5, "top": 12.5, "width": 175, "height": 175}
    assert (body["image"]["width"], body["image"]["height"]) == (300, 200)
    assert body["request_id"] == reply.headers["x-request-id"]
    steps = [part.split(";")[0] for part in reply.headers["server-timing"].split(", ")]
    assert steps == ["admit", "read", "queue", "decode", "infer", "respond", "total"]
    with fake.client() as client:
        components = client.get("/openapi.json").json()["components"]
    Draft202012Validator({"$ref": "#/components/schemas/Explanation", "components": components}).validate(body)


def test_the_crop_is_that_of_the_upright_image(fake: Served) -> None:
    turned = makers.turned(makers.flat((200, 300)), 6)
    assert ask(fake, turned).json()["crop"] == {"left": 12.5, "top": 62.5, "width": 175, "height": 175}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/png", "image/png"),
        ("text/html", "image/png"),
        ("application/json", "application/json"),
        ("Application/JSON; charset=utf-8, */*;q=0.1", "application/json"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_accept_chooses_between_json_and_png(fake: Served, method: str, accept: str | None, kind: str) -> None:
    with fake.client() as client:
        client.headers.pop("accept")
        headers = {"Accept": accept} if accept else {}
        reply = client.request(method, "/explain", content=IMAGE, headers=headers)
    assert (reply.status_code, reply.headers["content-type"]) == (200, kind)
    vary = "Accept" if kind == "image/png" else "Accept, Accept-Language"  # the PNG has no words
    assert reply.headers["vary"] == vary
    steps = [part.split(";")[0] for part in reply.headers["server-timing"].split(", ")]
    assert steps == ["admit", "read", "queue", "decode", "infer", "respond", "total"]
    assert kind != "image/png" or picture(reply)


def send(client: httpx.Client, how: str, path: str = "/explain", **fields: Any) -> httpx.Response:
    """As query with the raw image, as fields of JSON, or as fields of a form."""
    if how == "query":
        return client.post(path, content=IMAGE, params=fields, headers=JSON)
    if how == "json":
        return client.post(path, json={"image": BASE64, **fields}, headers=JSON)
    texts = {name: str(value) for name, value in fields.items()}
    return client.post(path, files={"file": IMAGE}, data=texts, headers=JSON)


@pytest.mark.parametrize("how", ["query", "json", "form"])
def test_the_class_is_a_parameter_in_every_body(fake: Served, how: str) -> None:
    with fake.client() as client:
        likeliest = send(client, how).json()
        other = send(client, how, class_id=1).json()
        assert likeliest["prediction"]["confidence"] > other["prediction"]["confidence"]
        assert (other["prediction"]["class_id"], other["prediction"]["label"]) == (1, "class 1")
        assert other["map"] != likeliest["map"]
        assert send(client, how, class_id=0).json()["prediction"]["class_id"] == 0
        assert send(client, how, class_id=9, lang="zh").status_code == 200
        assert send(client, how, class_id="").json()["prediction"] == likeliest["prediction"]
        body = client.post("/explain?class_id=1", json={"image": BASE64, "class_id": 2}, headers=JSON).json()
        assert body["prediction"]["class_id"] == 2


@pytest.mark.parametrize("how", ["query", "json", "form"])
@pytest.mark.parametrize(("value", "limit"), [(10, 9), (-1, 0), (10**30, 9), (1.5, None), ("cat", None)])
def test_a_class_that_the_model_has_not_is_a_problem(fake: Served, how: str, value: object, limit: int | None) -> None:
    with fake.client() as client:
        reply = send(client, how, class_id=value)
    problem = reply.json()
    assert (reply.status_code, problem["code"], problem.get("limit")) == (422, "invalid-parameter", limit)
    quoted = value if how == "json" and not isinstance(value, str) else f"'{value}'"
    assert problem["detail"] == f"class_id: {quoted} is not a whole number from 0 to 9."


def test_a_boolean_is_no_class(fake: Served) -> None:
    with fake.client() as client:
        assert (
            send(client, "json", class_id=True).json()["detail"] == "class_id: true is not a whole number from 0 to 9."
        )


@pytest.mark.parametrize("how", ["query", "json", "form"])
def test_each_route_has_its_own_parameters_and_ignores_the_others(fake: Served, how: str) -> None:
    with fake.client() as client:
        assert send(client, how, "/predict", class_id="cat").status_code == 200
        assert send(client, how, top_k="cat", min_confidence=7).status_code == 200
        assert send(client, how, lang="xx").json()["detail"] == "lang: 'xx' is not one of en, zh."


def test_an_image_that_is_refused_is_a_problem_as_in_predict(fake: Served) -> None:
    for data in (b"", b"GIF89a", makers.jpeg()[:5000], makers.png_claiming(9999, 9999), makers.many_scans(200)):
        expected, problem = predict(fake, data).json(), ask(fake, data, {}).json()
        assert problem == {**expected, "request_id": problem["request_id"]}


def test_the_document_describes_both_answers_and_the_parameter(fake: Served) -> None:
    with fake.client() as client:
        operation = client.get("/openapi.json").json()["paths"]["/explain"]["post"]
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "image/png"}
    parameters = {parameter["name"]: parameter["schema"] for parameter in operation["parameters"]}
    assert list(parameters) == ["class_id", "lang"]
    assert (parameters["class_id"]["minimum"], parameters["class_id"]["maximum"]) == (0, 9)
    schema = Draft202012Validator(operation["requestBody"]["content"]["application/json"]["schema"])
    with fake.client() as client:
        for value in (None, 0, 9, 10, -1, 2.0, 0.5, True, "x", [], {}):
            body = {"image": BASE64, "class_id": value}
            assert client.post("/explain", json=body).status_code == (200 if schema.is_valid(body) else 422), value


def test_a_model_that_cannot_explain_says_why_before_the_body_is_read() -> None:
    engine = FakeEngine()
    engine.head = None
    with serve_fake(engine) as served, served.client() as client:
        assert client.get("/model").json()["explains"] is False
        assert predict(served).status_code == 200
        for data in (IMAGE, b""):
            reply = client.post("/explain", content=data)
            assert (reply.status_code, reply.json()["code"]) == (404, "not-found")
            told = "fake cannot be explained: it has layers between its pooling and its final layer."
            assert reply.json()["detail"] == told
        documented = client.get("/openapi.json").json()["paths"]["/explain"]["post"]["responses"]
    assert "404" in documented


# What it shares with a recognition.


def test_it_is_recorded_as_a_recognition_and_fills_the_cache_for_one(tmp_path: Path) -> None:
    admin = {"X-API-Key": "open-sesame"}
    options = {"cache_url": "memory://", "audit_url": "sqlite", "uploads": "on", "api_keys": "boss:open-sesame:admin"}
    engine = FakeEngine()
    with serve_fake(engine, **options, data_dir=tmp_path) as served, served.client(headers=admin) as client:
        assert client.post("/explain", content=b"GIF89a").status_code == 415
        first = client.post("/explain?class_id=1", content=IMAGE, headers=JSON)
        second = client.post("/explain?class_id=1", content=IMAGE, headers=JSON)
        assert [reply.headers["x-cache"] for reply in (first, second)] == ["miss", "miss"]
        assert first.json()["map"] == second.json()["map"]
        assert engine.calls == 2
        recognition = client.post("/predict", content=IMAGE).json()
        assert (recognition["cached"], engine.calls) == (True, 2)
        rows = client.get("/audit").json()["rows"]
        assert [(row["status"], row["code"], row["cache"]) for row in rows] == [
            (200, None, "hit"),
            (200, None, "miss"),
            (200, None, "miss"),
            (415, "unsupported-format", "miss"),
        ]
        assert rows[1]["top5"] == rows[0]["top5"]
        assert "respond" not in rows[1]["steps"]
        client.post("/explain", content=IMAGE)
        assert "respond" in client.get("/audit").json()["rows"][0]["steps"]  # a PNG is drawn by the worker
        assert (rows[1]["width"], rows[1]["sha256"]) == (300, recognition["image"]["sha256"])
        assert client.get(f"/uploads/{recognition['image']['sha256']}").content == IMAGE
        for method in ("POST", "PUT"):
            client.request(method, "/explain", content=IMAGE, headers={"X-API-Key": "wrong"})
            assert answered(served, "/explain", 401, method) == 1


def test_it_does_not_join_a_recognition_of_the_same_image() -> None:
    engine = FakeEngine()
    engine.go.clear()
    with serve_fake(engine, cache_url="memory://") as served, ThreadPoolExecutor(2) as callers:
        recognition = callers.submit(predict, served)
        assert engine.started.acquire(timeout=30)
        explanation = callers.submit(ask, served)
        assert engine.started.acquire(timeout=30)
        engine.go.set()
        assert recognition.result().json()["predictions"][0] == explanation.result().json()["prediction"]
        assert engine.calls == 2


def test_a_deleted_image_leaves_no_answer_of_an_explanation_that_was_running(tmp_path: Path) -> None:
    engine = FakeEngine()
    options = {"cache_url": "memory://", "api_keys": "boss:open-sesame:admin"}
    admin = {"X-API-Key": "open-sesame"}
    with (
        serve_fake(engine, **options, data_dir=tmp_path) as served,
        served.client(headers=admin) as client,
        ThreadPoolExecutor(1) as callers,
    ):
        sha256 = client.post("/predict", content=IMAGE).json()["image"]["sha256"]
        assert engine.started.acquire(timeout=30)
        engine.go.clear()
        explanation = callers.submit(ask, served, headers={**JSON, **admin})
        assert engine.started.acquire(timeout=30)
        assert client.delete(f"/uploads/{sha256}").status_code == 204
        engine.go.set()
        assert explanation.result().status_code == 200
        assert client.get(f"/results/{sha256}").status_code == 404


def test_it_waits_in_the_same_queue_and_is_refused_when_it_is_full() -> None:
    engine = FakeEngine()
    engine.go.clear()
    with serve_fake(engine, workers=1, queue=1, cache_url="memory://") as served, ThreadPoolExecutor(2) as callers:
        waiting = [callers.submit(ask, served, IMAGE + bytes([number])) for number in range(2)]
        until(lambda: metric(served, "eyespot_queue_depth") == 1 and metric(served, "eyespot_workers_busy") == 1)
        refused = ask(served)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        engine.go.set()
        assert [reply.result().status_code for reply in waiting] == [200, 200]


def test_a_late_one_is_told_so() -> None:
    engine = FakeEngine()
    engine.go.clear()
    with serve_fake(engine, workers=1, queue=2, deadline_seconds=0.3) as served:
        assert ask(served).json()["code"] == "deadline-exceeded"
        engine.go.set()


def test_pages_of_chosen_origins_may_ask() -> None:
    with serve_fake(cors_origins="https://example.org") as served:
        reply = ask(served, headers={"Origin": "https://example.org"})
        assert reply.headers["access-control-allow-origin"] == "https://example.org"
        assert set(reply.headers["vary"].split(", ")) == {"Accept", "Origin"}


@pytest.mark.needs("curl")
def test_curl_gets_readable_json_and_whole_pictures(fake: Served, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(IMAGE)

    def curl(*words: str) -> bytes:
        command = ["curl", "--silent", "--fail", *words, f"{fake.url}/explain"]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout

    rows = curl("-H", "Accept: application/json", "-F", "file=@cat.png")
    assert len(rows.splitlines()) < 30
    assert len(json.loads(rows)["map"]) == 7
    for words in (("-T", "cat.png"), ("--data-binary", "@cat.png")):
        assert Image.open(io.BytesIO(curl(*words, "-o", "-"))).size == (224, 224)
