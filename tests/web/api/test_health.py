"""Readiness tells the truth when the engine hangs, and overload is cheap."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests import makers
from tests.requests import image, predict
from tests.serving import FakeEngine, Served, serve_fake, until


def send_batches(served: Served, stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 10
        files = [("file", ("x", image(number + turn))) for turn in range(4)]
        with served.client() as client:
            client.post("/predict/batch", files=files)


def test_a_hung_engine_is_not_ready_while_batches_keep_coming() -> None:
    engine, stop = FakeEngine(), threading.Event()
    with serve_fake(engine, queue=20, deadline_seconds=2) as served, ThreadPoolExecutor(3) as senders:
        assert predict(served).status_code == 200
        engine.go.clear()
        sending = [senders.submit(send_batches, served, stop) for _ in range(3)]
        try:
            with served.client() as client:

                def ready() -> httpx.Response:
                    return client.get("/readyz")

                until(lambda: ready().status_code == 503)
                assert ready().json()["code"] == "overloaded"
                assert served.recognizer
                assert served.recognizer.pool.admitted <= 2  # what hangs, and nothing piles up behind it
                engine.go.set()
                until(lambda: ready().status_code == 200)
        finally:
            stop.set()
            engine.go.set()
        for sender in sending:
            sender.result()


def test_without_a_cache_an_overload_is_told_before_the_body_is_sent() -> None:
    engine = FakeEngine()
    with serve_fake(engine, workers=1, queue=0) as served, ThreadPoolExecutor(1) as caller:
        engine.go.clear()
        first = caller.submit(predict, served)
        assert engine.started.acquire(timeout=30)
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
            head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 1000000\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 503")
        engine.go.set()
        assert first.result().status_code == 200


def test_with_a_cache_a_known_image_is_answered_in_an_overload() -> None:
    engine = FakeEngine()
    known = makers.jpeg()
    with serve_fake(engine, workers=1, queue=0, cache_url="memory://") as served, ThreadPoolExecutor(1) as caller:
        assert predict(served, known).status_code == 200
        engine.go.clear()
        first = caller.submit(predict, served, image(1))
        until(lambda: engine.calls == 2)
        assert predict(served, image(2)).status_code == 503
        assert predict(served, known).headers["x-cache"] == "hit"
        engine.go.set()
        assert first.result().status_code == 200
