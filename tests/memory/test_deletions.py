"""What is deleted stays gone, whatever was in flight."""

import os
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from eyespot.memory.breaker import CircuitBreaker
from eyespot.memory.deletions import Deletions
from tests.memory.helpers import Disk, ask, name, serve_uploads, serve_uploads_from
from tests.requests import IMAGE, image
from tests.services import redis_server
from tests.serving import FakeEngine, Served, until

UPLOAD = f"/uploads/{name(IMAGE)}"
RESULT = f"/results/{name(IMAGE)}"
CACHES = ["memory://", pytest.param("redis", marks=pytest.mark.needs("redis-server")), "off"]


@pytest.fixture(autouse=True)
def _a_slow_redis_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CircuitBreaker, "call", lambda _, operation: operation())


@contextmanager
def serve(
    cache: str, folder: Path, engine: FakeEngine | None = None, workers: int = 2
) -> Iterator[tuple[Served, FakeEngine]]:
    """A server with that cache, which keeps images in that folder."""
    engine = engine or FakeEngine()
    settings = {"engine": engine, "audit_url": "off", "queue": 64, "workers": workers}
    if cache != "redis":
        with serve_uploads(folder, cache_url=cache, **settings) as served:
            yield served, engine
        return
    with redis_server() as redis, serve_uploads(folder, cache_url=redis.url, **settings) as served:
        yield served, engine


def is_gone(served: Served, folder: Path) -> bool:
    """Whether there is neither the image, nor a part of its file, nor an answer for it."""
    shown = [ask(served, "GET", path).status_code for path in (UPLOAD, RESULT)]
    assert set(shown) <= {200, 404}
    return shown == [404, 404] and not list(folder.glob(f"uploads/*/{name(IMAGE)}*"))


def is_there(served: Served) -> bool:
    """Whether both are."""
    return [ask(served, "GET", path).status_code for path in (UPLOAD, RESULT)] == [200, 200]


class Sending:
    """A request with an image of which half has arrived, and the server has begun to read it."""

    def __init__(self, served: Served) -> None:
        self._connection = socket.create_connection(("127.0.0.1", served.port))
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(IMAGE)}\r\n"
        head += "Authorization: Bearer open-sesame\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n"
        self._connection.sendall(head.encode())
        assert self._connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        self._connection.sendall(IMAGE[: len(IMAGE) // 2])

    def send_rest(self) -> None:
        self._connection.sendall(IMAGE[len(IMAGE) // 2 :])

    def answer(self) -> bytes:
        """All of it."""
        with self._connection, self._connection.makefile("rb") as file:
            return file.read()


@pytest.mark.parametrize("cache", CACHES)
def test_an_image_that_is_being_computed(tmp_path: Path, cache: str) -> None:
    with serve(cache, tmp_path) as (served, engine), ThreadPoolExecutor(1) as callers:
        engine.go.clear()
        sent = callers.submit(ask, served, "POST", "/predict", IMAGE)
        assert engine.started.acquire(timeout=30)
        assert ask(served, "DELETE", UPLOAD).status_code == 204
        engine.go.set()
        assert sent.result().status_code == 200
        assert is_gone(served, tmp_path)
        assert ask(served, "DELETE", UPLOAD).json()["code"] == "not-found"


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("known", [False, True])
def test_an_image_that_is_still_arriving(tmp_path: Path, cache: str, known: bool) -> None:
    with serve(cache, tmp_path) as (served, _):
        if known:
            ask(served, "POST", "/predict", IMAGE)
        sending = Sending(served)
        assert ask(served, "DELETE", UPLOAD).status_code == (204 if known else 404)
        sending.send_rest()
        assert b" 200 OK" in sending.answer()
        assert is_gone(served, tmp_path)


def test_an_image_that_waits_behind_another_on_its_connection(tmp_path: Path) -> None:
    head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nAuthorization: Bearer open-sesame\r\n"
    first = image(1)
    with serve("memory://", tmp_path) as (served, engine):
        engine.go.clear()
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(f"{head}Content-Length: {len(first)}\r\n\r\n".encode() + first)
            assert engine.started.acquire(timeout=30)
            length = f"Content-Length: {len(IMAGE)}\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n"
            connection.sendall(f"{head}{length}".encode() + IMAGE)
            # Another connection is served after what had arrived before it.
            assert ask(served, "GET", "/model").status_code == 200
            assert ask(served, "DELETE", UPLOAD).status_code == 404
            engine.go.set()
            with connection.makefile("rb") as file:
                assert file.read().count(b" 200 OK") == 2
        assert is_gone(served, tmp_path)


@pytest.mark.parametrize("position", [1, -1])
def test_an_image_of_a_batch(tmp_path: Path, position: int) -> None:
    """Whether it has been read, and waits for its turn, or not yet."""
    with serve("memory://", tmp_path, workers=1) as (served, engine), ThreadPoolExecutor(1) as callers:
        images = [image(number) for number in range(8)]
        images[position] = IMAGE
        with served.client() as client:
            engine.go.clear()
            files = [("file", (str(index), data)) for index, data in enumerate(images)]
            headers = {"X-API-Key": "open-sesame"}
            sent = callers.submit(client.post, "/predict/batch", files=files, headers=headers)
            assert engine.started.acquire(timeout=30)
            assert ask(served, "DELETE", UPLOAD).status_code == (204 if position == 1 else 404)
            engine.go.set()
            assert ["problem" in result for result in sent.result().json()["results"]] == [False] * 8
        assert is_gone(served, tmp_path)
        assert len(list(tmp_path.glob("uploads/*/*"))) == 7


def test_what_is_sent_after_the_deletion_is_new(tmp_path: Path) -> None:
    with serve("memory://", tmp_path) as (served, engine), ThreadPoolExecutor(2) as callers:
        older = Sending(served)
        assert ask(served, "DELETE", UPLOAD).status_code == 404
        engine.go.clear()
        older.send_rest()
        assert engine.started.acquire(timeout=30)
        younger = callers.submit(ask, served, "POST", "/predict", IMAGE)
        assert engine.started.acquire(timeout=30)  # it does not join the older one
        engine.go.set()
        assert younger.result().headers["x-cache"] == "miss"
        assert b" 200 OK" in older.answer()
        assert is_there(served)
        assert ask(served, "POST", "/predict", IMAGE).headers["x-cache"] == "hit"


def test_an_image_that_is_sent_while_the_deletion_waits_for_the_disk(tmp_path: Path) -> None:
    pipe = tmp_path / "uploads" / name(image(1))[:2] / name(image(1))
    with serve_uploads_from(Disk(hanging=0), tmp_path) as (served, uploads), ThreadPoolExecutor(9) as callers:
        pipe.parent.mkdir(parents=True)
        os.mkfifo(pipe)  # whoever reads it waits for somebody to write
        for _ in range(8):  # as many threads
            callers.submit(ask, served, "GET", f"/uploads/{name(image(1))}")
        until(lambda: uploads._readers.calls == 8)
        deleted = callers.submit(ask, served, "DELETE", UPLOAD)
        until(lambda: uploads._readers.calls == 9)
        assert ask(served, "POST", "/predict", IMAGE).status_code == 200
        pipe.open("wb").close()
        assert deleted.result().status_code in (204, 404)
        assert is_gone(served, tmp_path)


@pytest.mark.parametrize("cache", CACHES)
def test_any_interleaving(tmp_path: Path, cache: str) -> None:
    """The last deletion comes when all requests have begun, and some have been answered."""
    with serve(cache, tmp_path) as (served, _), ThreadPoolExecutor(4) as callers:
        for seed in range(25):
            chance = random.Random(seed)
            sending = [Sending(served) for _ in range(chance.randrange(1, 5))]
            kept = chance.random() < 0.5 and callers.submit(ask, served, "POST", "/predict", IMAGE)
            early, late = sending[::2], sending[1::2]
            for one in early:
                one.send_rest()
            if kept and chance.random() < 0.5:
                callers.submit(ask, served, "DELETE", UPLOAD)
            if kept:
                assert kept.result().status_code == 200
            if chance.random() < 0.5:
                time.sleep(chance.random() / 100)  # so that the deletion meets them at every step
            deleted = callers.submit(ask, served, "DELETE", UPLOAD)
            for one in late:
                one.send_rest()
            assert deleted.result().status_code in (204, 404)
            assert all(b" 200 OK" in one.answer() for one in sending)
            assert is_gone(served, tmp_path), seed


def test_deletions_are_remembered_within_a_bound() -> None:
    deletions = Deletions(max_remembered=2)
    began = time.monotonic()
    for sha256 in ("a", "b"):
        with deletions.running(sha256):
            pass
    assert [deletions.since(sha256, began) for sha256 in "abc"] == [True, True, False]
    meanwhile = time.monotonic()
    with deletions.running("c"):
        assert deletions.since("c", time.monotonic())
    assert [deletions.since(sha256, began) for sha256 in "abcd"] == [True] * 4  # of a request so old it is not known
    assert [deletions.since(sha256, meanwhile) for sha256 in "abcd"] == [False, False, True, False]
    assert not deletions.since("c", time.monotonic() + 1)


def test_a_deletion_counts_until_the_last_of_several_has_ended() -> None:
    deletions = Deletions()
    with deletions.running("a"):
        with deletions.running("a"):
            pass
        assert deletions.since("a", time.monotonic() + 1)
    assert not deletions.since("a", time.monotonic() + 1)
