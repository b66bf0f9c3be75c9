"""The model is switched while requests run."""

import signal
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import httpx
import pytest

from eyespot.errors import WeightsMissing
from eyespot.vision.classifier import Classifier
from tests import makers
from tests.memory.helpers import ADMIN, KEYS, events
from tests.serving import FakeEngine, Served, fake_classifier, serve_fake, until

IMAGE = makers.encode(makers.flat((64, 48), (80, 80, 80)), "PNG")
FAKE, FLOWERS = "0" * 64, sha256(b"flowers").hexdigest()


def flowers() -> Classifier:
    """A model of four classes."""
    return fake_classifier(FakeEngine(4), name="flowers", classes=4)


def roses() -> Classifier:
    """The classes of the first model, but other weights."""
    return fake_classifier(FakeEngine(), name="roses")


def fake() -> Classifier:
    """The first model, opened again."""
    return fake_classifier(FakeEngine())


@pytest.fixture
def engine() -> FakeEngine:
    """That of the first model."""
    return FakeEngine()


@pytest.fixture
def served(engine: FakeEngine) -> Iterator[Served]:
    """A server of `fake`, ten classes, that can switch to others."""
    models = {"fake": fake, "flowers": flowers, "roses": roses}
    with serve_fake(engine, models=models, api_keys=KEYS, cache_url="memory://") as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client(headers=ADMIN) as client:
        yield client


def switch(client: httpx.Client, name: str) -> httpx.Response:
    return client.post("/admin/model", json={"name": name})


def predict(client: httpx.Client) -> tuple[str, str, str]:
    """The label, the digest of the model, and whether the answer was cached."""
    reply = client.post("/predict", content=IMAGE)
    answer = reply.json()
    return answer["says"]["label"], answer["model"]["digest"], reply.headers["x-cache"]


def test_after_a_switch_everything_is_of_the_other_model(client: httpx.Client) -> None:
    assert predict(client) == ("class 3", FAKE, "miss")
    card = switch(client, "flowers").json()
    assert (card["name"], card["digest"], card["classes"]) == ("flowers", FLOWERS, 4)
    assert client.get("/model").json() == card
    assert predict(client) == ("flowers 1", FLOWERS, "miss")
    assert client.post("/predict?top_k=5", content=IMAGE).json()["detail"].endswith("a whole number from 1 to 4.")
    assert [row["label"] for row in client.get("/labels").json()] == [f"flowers {number}" for number in range(4)]
    (model,) = [check for check in client.get("/readyz?verbose").json()["checks"] if check["name"] == "model"]
    assert model["detail"] == "flowers, fake f32"
    (info,) = [line for line in client.get("/metrics").text.splitlines() if line.startswith("eyespot_model_info")]
    assert 'name="flowers"' in info
    document = client.get("/openapi.json").json()
    assert document["paths"]["/predict"]["post"]["parameters"][0]["schema"]["maximum"] == 4


def test_models_of_the_same_classes_share_no_answers(client: httpx.Client) -> None:
    assert predict(client) == ("class 3", FAKE, "miss")
    assert switch(client, "roses").status_code == 200
    assert predict(client) == ("roses 3", sha256(b"roses").hexdigest(), "miss")
    assert switch(client, "fake").status_code == 200
    assert predict(client) == ("class 3", FAKE, "hit")


def test_a_request_finishes_with_its_model_whose_memory_is_then_freed(served: Served, engine: FakeEngine) -> None:
    assert served.recognizer
    before = weakref.ref(served.recognizer.model.classifier)
    engine.go.clear()
    with served.client(headers=ADMIN) as client, ThreadPoolExecutor(1) as callers:
        slow = callers.submit(predict, client)
        assert engine.started.acquire(timeout=30)
        assert switch(client, "flowers").status_code == 200
        assert predict(client) == ("flowers 1", FLOWERS, "miss")
        assert before()
        engine.go.set()
        assert slow.result() == ("class 3", FAKE, "miss")
        until(lambda: before() is None)
        assert predict(client) == ("flowers 1", FLOWERS, "hit")


def test_a_batch_finishes_with_the_model_that_it_began_with(client: httpx.Client, engine: FakeEngine) -> None:
    engine.go.clear()
    files = [("file", (f"{number}", IMAGE + bytes([number]))) for number in range(9)]
    with ThreadPoolExecutor(1) as callers:
        batch = callers.submit(client.post, "/predict/batch", files=files)
        assert engine.started.acquire(timeout=30)
        assert switch(client, "flowers").status_code == 200
        engine.go.set()
        reply = batch.result().json()
    assert reply["model"]["digest"] == FAKE
    assert {result["says"]["label"] for result in reply["results"]} == {"class 3"}


def test_an_image_deleted_between_two_switches_is_computed_anew(client: httpx.Client, engine: FakeEngine) -> None:
    engine.go.clear()
    with ThreadPoolExecutor(1) as callers:
        slow = callers.submit(predict, client)
        assert engine.started.acquire(timeout=30)
        assert switch(client, "flowers").status_code == 200
        assert client.delete(f"/uploads/{sha256(IMAGE).hexdigest()}").status_code == 204
        assert switch(client, "fake").status_code == 200
        assert predict(client) == ("class 3", FAKE, "miss")
        engine.go.set()
        assert slow.result() == ("class 3", FAKE, "miss")


@pytest.mark.parametrize("kind", [WeightsMissing, RuntimeError])  # the latter from an engine without memory
def test_a_model_that_cannot_be_opened_leaves_the_present_one_serving(
    caplog: pytest.LogCaptureFixture, kind: type[Exception]
) -> None:
    caplog.set_level("INFO", "eyespot")

    def missing() -> Classifier:
        raise kind("the weights of roses are missing")

    models = {"fake": fake, "roses": missing}
    with serve_fake(models=models, api_keys=KEYS) as served, served.client(headers=ADMIN) as client:
        refused = switch(client, "roses")
        assert (refused.status_code, refused.json()["code"]) == (409, "model-unavailable")
        assert refused.json()["detail"] == "The model was not switched: the weights of roses are missing."
        assert switch(client, "tulips").json()["detail"].endswith("the manifest has no model 'tulips'.")
        assert predict(client) == ("class 3", FAKE, "miss")
        assert events(caplog).count("model_switch_failed") == 2
        assert served.server
        served.server.handle_hangup(signal.SIGHUP, None)
        until(lambda: "model_switched" in events(caplog))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        *((body, "bad-json") for body in ("", "flowers")),
        *(
            (body, "invalid-parameter")
            for body in ("[]", "{}", '{"name": null}', '{"name": ""}', '{"name": 3}', '{"model": "flowers"}')
        ),
    ],
)
def test_a_body_that_names_no_model_is_refused(client: httpx.Client, body: str, code: str) -> None:
    refused = client.post("/admin/model", content=body)
    assert refused.json()["code"] == code
    assert refused.json()["detail"] == 'The body must name a model: {"name": "flowers"}.'


def test_only_an_admin_may_switch(client: httpx.Client) -> None:
    assert client.post("/admin/model", headers={"Authorization": "Bearer click-clack"}).json()["code"] == "forbidden"
    with serve_fake() as served, served.client() as anyone:
        assert switch(anyone, "flowers").json()["code"] == "forbidden"


def test_switches_run_one_after_another(engine: FakeEngine) -> None:
    opening, go, both = threading.Semaphore(0), threading.Event(), []

    def slow() -> Classifier:
        opening.release()
        assert go.wait(60)
        return fake()

    def quick() -> Classifier:
        both.append(go.is_set())
        return flowers()

    with (
        serve_fake(engine, models={"slow": slow, "quick": quick}, api_keys=KEYS) as served,
        served.client(headers=ADMIN) as client,
        ThreadPoolExecutor(2) as callers,
    ):
        assert served.server
        first = callers.submit(switch, client, "slow")
        assert opening.acquire(timeout=30)
        second = callers.submit(switch, client, "quick")
        tasks = served.server.server_state.tasks
        until(lambda: len(tasks) == 2)
        assert predict(client) == ("class 3", FAKE, "miss")  # nobody else waits
        go.set()
        assert [first.result().json()["name"], second.result().json()["name"]] == ["fake", "flowers"]
        assert both == [True]
        assert client.get("/model").json()["name"] == "flowers"


def test_a_hangup_opens_the_present_model_anew(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "eyespot")
    assert served.server
    assert served.recognizer
    with served.client(headers=ADMIN) as client:
        assert switch(client, "flowers").status_code == 200
        before = served.recognizer.model.classifier
        served.server.handle_hangup(signal.SIGHUP, None)
        until(lambda: events(caplog).count("model_switched") == 2)
        assert served.recognizer.model.classifier is not before
        assert predict(client) == ("flowers 1", FLOWERS, "miss")


def test_a_hangup_that_finds_no_model_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with serve_fake(api_keys=KEYS) as served, served.client(headers=ADMIN) as client:
        assert served.server
        served.server.handle_hangup(signal.SIGHUP, None)
        until(lambda: "model_switch_failed" in events(caplog))
        assert predict(client) == ("class 3", FAKE, "miss")
