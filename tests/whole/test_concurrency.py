"""The event loop stays free, the queue stays bounded, and what nobody waits for is not computed."""

import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests import makers
from tests.requests import answered, metric
from tests.serving import FakeEngine, Served, serve_fake, until

IMAGE = makers.encode(makers.flat((300, 200)), "PNG")


def predict(served: Served) -> httpx.Response:
    with served.client() as client:
        return client.post("/predict", files={"file": IMAGE})


def test_health_answers_while_every_worker_is_blocked_and_the_queue_is_full() -> None:
    engine = FakeEngine()
    engine.go.clear()
    with serve_fake(engine) as served, ThreadPoolExecutor(8) as callers, served.client() as client:
        waiting = [callers.submit(predict, served) for _ in range(4)]  # two workers, two places in the queue
        until(lambda: metric(served, "eyespot_queue_depth") == 2 and metric(served, "eyespot_workers_busy") == 2)
        for path in ("/livez", "/readyz", "/metrics", "/model", "/labels", "/", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200, path
        refused = predict(served)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert engine.calls == 2
        engine.go.set()
        assert [answer.result().status_code for answer in waiting] == [200] * 4
        assert predict(served).status_code == 200


def test_a_caller_who_waits_too_long_gets_an_answer_and_readiness_says_that_the_pool_is_stuck() -> None:
    engine = FakeEngine()
    engine.go.clear()
    with (
        serve_fake(engine, workers=1, queue=1, deadline_seconds=2) as served,
        ThreadPoolExecutor(2) as callers,
        served.client() as client,
    ):
        late = [callers.submit(predict, served) for _ in range(2)]
        for answer in late:
            assert (answer.result().status_code, answer.result().json()["code"]) == (504, "deadline-exceeded")
        until(lambda: client.get("/readyz").status_code == 503)
        problem = client.get("/readyz?verbose").json()
        assert problem["code"] == "overloaded"
        assert [check["name"] for check in problem["checks"] if not check["ok"]] == ["pool"]
        assert client.get("/livez").status_code == 200
        assert predict(served).json()["code"] == "overloaded"
        engine.go.set()
        until(lambda: client.get("/readyz").status_code == 200)
        assert predict(served).status_code == 200
        assert engine.calls == 2  # the one that was late in the queue was never begun


@pytest.mark.parametrize("path", ["/predict", "/explain"])
def test_a_caller_who_hangs_up_while_waiting_is_not_computed_for(path: str) -> None:
    engine = FakeEngine()
    engine.go.clear()
    with serve_fake(engine, workers=1, queue=2) as served, ThreadPoolExecutor(1) as callers:
        first = callers.submit(predict, served)
        assert engine.started.acquire(timeout=30)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(IMAGE)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(head.encode() + IMAGE)
            until(lambda: metric(served, "eyespot_queue_depth") == 1)
        until(lambda: answered(served, path, 499) == 1)
        engine.go.set()
        assert first.result().status_code == 200
        until(lambda: metric(served, "eyespot_images_cancelled_total") == 1)
        assert engine.calls == 1


def test_broken_images_do_not_take_workers_with_them() -> None:
    with serve_fake(queue=64) as served, ThreadPoolExecutor(16) as callers, served.client() as client:
        bad = [makers.jpeg()[:5000], makers.png_claiming(9999, 9999), makers.many_scans(200), b"hello", b""] * 20
        replies = list(callers.map(lambda data: client.post("/predict", files={"file": data}).status_code, bad))
        assert set(replies) <= {400, 415, 422}
        assert predict(served).status_code == 200
        assert metric(served, "eyespot_queue_depth") == 0
