"""Many images in one request: each for itself, nobody starved, and nothing computed for who has left."""

import base64
import json
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from eyespot.types import Batch, BatchItem
from eyespot.vision.engines import Pixels
from eyespot.web.gate.protocol import Protocol
from tests import makers
from tests.requests import IMAGE, answered, image, metric, predict
from tests.serving import FakeEngine, Served, serve_fake, until

LINES = {"Accept": "application/x-ndjson"}
SHADES = [makers.encode(makers.flat((40, 30), (shade, shade, shade)), "PNG") for shade in range(0, 256, 26)]


def form(images: list[bytes]) -> dict[str, Any]:
    return {"files": [("file", (f"{number}.png", data)) for number, data in enumerate(images)]}


def texts(images: list[bytes]) -> dict[str, Any]:
    return {"json": {"images": [base64.b64encode(data).decode() for data in images]}}


def ask(served: Served, body: dict[str, Any], **options: Any) -> httpx.Response:
    with served.client() as client:
        return client.post("/predict/batch", **body, **options)


def items(reply: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in reply.text.splitlines()]


@pytest.mark.parametrize("body", [form, texts], ids=["form", "JSON"])
def test_every_image_has_its_answer_in_order(fake: Served, body: Callable[[list[bytes]], dict[str, Any]]) -> None:
    reply = ask(fake, body(SHADES))
    assert reply.status_code == 200
    batch = TypeAdapter(Batch).validate_json(reply.content)
    assert [item.index for item in batch.results] == list(range(len(SHADES)))
    with fake.client() as client:
        for item, data in zip(batch.results, SHADES, strict=True):
            alone = client.post("/predict", content=data).json()
            answer = reply.json()["results"][item.index]
            assert answer["predictions"] == alone["predictions"]
            assert answer["image"] == alone["image"]
        assert reply.json()["model"] == alone["model"]
    assert len({item.predictions[0].class_id for item in batch.results if item.predictions}) == 10
    assert batch.request_id == reply.headers["x-request-id"]
    names = [item.filename for item in batch.results]
    assert names == ([f"{number}.png" for number in range(len(SHADES))] if body is form else [None] * len(SHADES))


def test_a_bare_list_is_a_batch_too(fake: Served) -> None:
    images = texts(SHADES[:2])["json"]["images"]
    as_curl_d = {"content": json.dumps(images), "headers": {"content-type": "application/x-www-form-urlencoded"}}
    for body in ({"json": images}, as_curl_d):
        assert [item["index"] for item in ask(fake, body).json()["results"]] == [0, 1]


@pytest.mark.parametrize("accept", [{}, LINES], ids=["whole", "lines"])
def test_a_bad_image_spoils_no_other(fake: Served, accept: dict[str, str]) -> None:
    good = base64.b64encode(IMAGE).decode()
    broken = base64.b64encode(makers.jpeg()[:2000]).decode()
    images = [good, "####", good, "bm8gaW1hZ2U=", broken, "", 7, None, {"image": good}, good]
    reply = ask(fake, {"json": images}, headers=accept)
    assert reply.status_code == 200
    found = sorted(items(reply), key=lambda item: item["index"]) if accept else reply.json()["results"]
    told = [item.get("problem", {}).get("code") for item in found]
    expected = [None, "bad-base64", None, "unsupported-format", "broken-image", *["no-image"] * 4, None]
    assert told == expected
    for item in found:
        assert ("predictions" in item) is ("problem" not in item)
        if "problem" in item:
            assert item["problem"]["type"].endswith(item["problem"]["code"])
            assert item["problem"]["request_id"] == reply.headers["x-request-id"]


def test_an_image_that_is_too_large_spoils_no_other() -> None:
    with serve_fake(max_bytes=2048, batch_max_bytes=1_000_000) as served:
        for body in (form, texts):
            results = ask(served, body([IMAGE, b"\xff\xd8\xff" + bytes(3000), IMAGE])).json()["results"]
            assert [item.get("problem", {}).get("code") for item in results] == [None, "image-too-large", None]
            assert results[1]["problem"]["limit"] == 2048


def test_parameters_are_those_of_all_and_the_body_wins(fake: Served) -> None:
    in_json = texts(SHADES[:2])["json"]
    for body, query, count in (
        (form(SHADES[:2]), {"top_k": 5}, 5),
        (form(SHADES[:2]), {"top_k": 5, "min_confidence": 0.5}, 1),
        ({**form(SHADES[:2]), "data": {"top_k": "2"}}, {"top_k": 5}, 2),
        ({"json": in_json}, {"top_k": 5}, 5),
        ({"json": {**in_json, "top_k": 1}}, {"top_k": 5}, 1),
    ):
        results = ask(fake, body, params=query).json()["results"]
        assert [len(item["predictions"]) for item in results] == [count, count]


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({}, 415, "unsupported-body"),
        ({"content": IMAGE, "headers": {"content-type": "image/png"}}, 415, "unsupported-body"),
        ({"json": []}, 400, "no-image"),
        ({"json": {"images": []}}, 400, "no-image"),
        ({"json": {"image": "x"}}, 400, "no-image"),
        ({"json": {"images": "x"}}, 400, "no-image"),
        ({"json": 7}, 400, "no-image"),
        ({"content": b"", "headers": {"content-type": "application/json"}}, 400, "no-image"),
        ({"content": b"[", "headers": {"content-type": "application/json"}}, 400, "bad-json"),
        ({"content": b"--", "headers": {"content-type": "multipart/form-data"}}, 400, "bad-form"),
        ({"files": [("top_k", (None, "1"))]}, 400, "no-image"),
        ({"files": [("file", (None, "cat.jpg"))]}, 400, "no-image"),
        ({**form(SHADES), "params": {"top_k": 0}}, 422, "invalid-parameter"),
        ({**form(SHADES), "params": {"top_k": 11}}, 422, "invalid-parameter"),
        ({"json": {"images": ["aaaa"], "lang": "xx"}}, 422, "invalid-parameter"),
    ],
)
def test_what_is_no_batch_is_refused_whole(fake: Served, request_: dict[str, Any], status: int, code: str) -> None:
    reply = ask(fake, request_)
    assert (reply.status_code, reply.json()["code"]) == (status, code)


@pytest.mark.parametrize("body", [form, texts], ids=["form", "JSON"])
def test_a_batch_has_bounds(body: Callable[[list[bytes]], dict[str, Any]]) -> None:
    with serve_fake(batch_max=3, batch_max_bytes=10_000) as served:
        assert ask(served, body([IMAGE] * 3)).status_code == 200
        refused = ask(served, body([IMAGE] * 4))
        assert (refused.status_code, refused.json()["code"]) == (413, "too-many-images")
        assert (refused.json()["limit"], refused.json()["value"]) == (3, 4)
        long = ask(served, body([bytes(6000), bytes(6000)]))
        assert (long.status_code, long.json()["code"], long.json()["limit"]) == (413, "body-too-large", 10_000)


def test_a_form_of_countless_files_is_refused_before_it_is_read(fake: Served) -> None:
    part = b'--B\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n\r\n'
    headers = {"content-type": "multipart/form-data; boundary=B"}
    reply = ask(fake, {"content": part * 200_000 + b"--B--", "headers": headers})
    assert (reply.status_code, reply.json()["code"], reply.json()["value"]) == (413, "too-many-images", 65)


class Stream:
    """The lines of a batch, as they arrive."""

    def __init__(self, served: Served, body: dict[str, Any], accept: dict[str, str] = LINES) -> None:
        request = httpx.Request("POST", f"{served.url}/predict/batch", headers=accept, **body)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", served.port))
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        self._socket.sendall(f"POST /predict/batch HTTP/1.1\r\n{head}\r\n".encode() + request.read())
        self._file = self._socket.makefile("rb")

    def line(self) -> dict[str, Any]:
        while not (line := self._file.readline()).startswith(b"{"):
            assert line, "the stream ended"
        return json.loads(line)  # type: ignore[no-any-return]

    def leave(self) -> None:
        self._file.close()
        self._socket.close()


class Steps(FakeEngine):
    """Computes one image each time that it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = threading.Semaphore(0)

    def infer(self, *args: Any, **options: Any) -> Any:
        self.started.release()
        self.turn.acquire(timeout=60)
        return super().infer(*args, **options)


def test_the_first_is_sent_before_the_last_is_begun() -> None:
    engine = Steps()
    with serve_fake(engine, workers=1, queue=0) as served:
        stream = Stream(served, form([image(number) for number in range(5)]))
        for number in range(5):
            engine.turn.release()
            assert stream.line()["index"] == number
            assert engine.calls == number + 1
        stream.leave()


def test_a_quick_one_does_not_wait_for_a_slow_one() -> None:
    engine = FakeEngine()
    with serve_fake(engine, workers=1, queue=0, cache_url="memory://") as served:
        predict(served, IMAGE)
        engine.go.clear()
        stream = Stream(served, form([image(1), IMAGE]))
        first = stream.line()
        assert (first["index"], first["cached"]) == (1, True)
        engine.go.set()
        assert stream.line()["index"] == 0
        stream.leave()


@pytest.mark.parametrize("accept", [{}, LINES], ids=["whole", "lines"])
def test_the_rest_is_not_computed_for_who_has_left(accept: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    engine = Steps()
    with serve_fake(engine, workers=2, queue=0) as served:
        assert served.recognizer
        request = httpx.Request(
            "POST", f"{served.url}/predict/batch", headers=accept, **form([image(n) for n in range(30)])
        )
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(f"POST /predict/batch HTTP/1.1\r\n{head}\r\n".encode() + request.read())
            engine.turn.release(4)
            for _ in range(6):
                assert engine.started.acquire(timeout=30)
        until(lambda: answered(served, "/predict/batch", 200 if accept else 499) == 1)
        engine.turn.release(100)
        for number in range(100, 104):  # their turns come after those of the other batch
            assert ask(served, form([image(number)])).status_code == 200
        assert engine.calls <= 6 + 4
    assert not [record for record in caplog.records if record.message == "request_failed"]


def test_a_client_that_does_not_read_is_disconnected() -> None:
    class Impatient(Protocol):
        unread_seconds = 0.1

    settings = {"batch_max": 2000, "batch_max_bytes": 2**24, "cache_url": "memory://"}
    with serve_fake(uvicorn={"http": Impatient}, **settings) as served:
        stream = Stream(served, {"files": [("file", ("x" * 3500, IMAGE))] * 1800})  # the names come back
        until(lambda: answered(served, "/predict/batch", 200) == 1)
        stream.leave()
        assert metric(served, 'eyespot_cache_requests_total{result="hit"}') < 1700
        assert ask(served, form([IMAGE])).status_code == 200


@pytest.mark.parametrize("value", [b"1", b"[]", b"{}", b'""'])
def test_json_of_countless_values_is_refused_before_it_is_parsed(fake: Served, value: bytes) -> None:
    body = b"[" + b",".join([value] * 1_000_000) + b"]"
    reply = ask(fake, {"content": body, "headers": {"content-type": "application/json"}})
    assert (reply.status_code, reply.json()["code"], reply.json()["limit"]) == (413, "too-many-images", 64)
    assert "value" not in reply.json()  # which it would have to be parsed for


def test_batches_leave_every_place_to_the_others() -> None:
    engine = Steps()
    with serve_fake(engine, workers=2, queue=1) as served, ThreadPoolExecutor(9) as callers:
        batches = [callers.submit(ask, served, form([image(10 * n + i) for i in range(10)])) for n in range(3)]
        for _ in range(2):
            assert engine.started.acquire(timeout=30)
        singles = [callers.submit(predict, served, image(1000 + number)) for number in range(3)]
        until(lambda: metric(served, "eyespot_queue_depth") == 3)
        assert predict(served, image(2000)).json()["code"] == "overloaded"
        engine.turn.release(100)
        assert [single.result().status_code for single in singles] == [200] * 3
        for batch in batches:
            assert not [item for item in batch.result().json()["results"] if "problem" in item]


class Order(Steps):
    """Remembers the levels of the images that it was given, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: list[float] = []

    def infer(self, pixels: Pixels, **options: Any) -> Any:
        self.levels.append(float(pixels.mean()))
        return super().infer(pixels, **options)


def test_a_single_image_stands_behind_one_round_of_a_batch() -> None:
    engine, white = Order(), makers.encode(makers.flat(color=(255,) * 3), "PNG")
    with serve_fake(engine, workers=2, queue=1) as served, ThreadPoolExecutor(2) as callers:
        batch = callers.submit(ask, served, form([image(number) for number in range(40)]))
        until(lambda: len(engine.levels) == 2)
        single = callers.submit(predict, served, white)
        until(lambda: metric(served, "eyespot_queue_depth") == 1)
        engine.turn.release(2)
        until(lambda: len(engine.levels) == 4)
        assert 255 in engine.levels[2:]
        assert not batch.done()
        engine.turn.release(100)
        assert single.result(30).status_code == 200
        assert batch.result(30).status_code == 200


def test_two_batches_take_turns() -> None:
    engine = Steps()
    with serve_fake(engine, workers=1) as served:
        one = Stream(served, form([image(number) for number in range(10)]))
        assert engine.started.acquire(timeout=30)
        other = Stream(served, form([image(100 + number) for number in range(10)]))
        until(lambda: served.recognizer is not None and len(served.recognizer.pool._permits._waiters or ()) == 3)
        engine.turn.release(6)
        assert [one.line()["index"] for _ in range(3)] == [0, 1, 2]
        assert other.line()["index"] == 0
        engine.turn.release(100)
        one.leave()
        other.leave()


def test_bodies_of_batches_leave_room_to_the_others() -> None:
    engine = FakeEngine()
    with (
        serve_fake(engine, workers=1, queue=0, max_bytes=2048, batch_max_bytes=2048) as served,
        ThreadPoolExecutor(3) as callers,
    ):
        engine.go.clear()
        batches = [callers.submit(ask, served, form([image(n)])) for n in range(2)]
        assert engine.started.acquire(timeout=30)
        until(lambda: served.recognizer is not None and bool(served.recognizer.pool._permits._waiters))
        single = callers.submit(predict, served, image(9))
        until(lambda: metric(served, "eyespot_queue_depth") == 1)
        engine.go.set()
        assert single.result().status_code == 200
        assert [batch.result().status_code for batch in batches] == [200, 200]


def test_one_image_twice_is_computed_once() -> None:
    engine = FakeEngine()
    with serve_fake(engine, cache_url="memory://") as served:
        results = ask(served, form([IMAGE] * 9)).json()["results"]
        assert len({json.dumps(item["predictions"]) for item in results}) == 1
        assert engine.calls == 1
        kinds = ("hit", "miss", "joined")
        assert sum(metric(served, f'eyespot_cache_requests_total{{result="{kind}"}}') for kind in kinds) == 9


def test_every_image_leaves_a_row_and_a_count(tmp_path: Any) -> None:
    keys = "boss:secretsecret:admin"
    with serve_fake(audit_url="sqlite", data_dir=tmp_path, api_keys=keys) as served:
        headers = {"X-API-Key": "secretsecret"}
        reply = ask(served, form([*SHADES[:3], b"text"]), headers=headers)
        with served.client(headers=headers) as client:
            rows = client.get("/audit").json()["rows"]
        assert sorted(row["status"] for row in rows) == [200, 200, 200, 415]
        assert {row["request_id"] for row in rows} == {reply.headers["x-request-id"]}
        assert {row["key"] for row in rows} == {"boss"}
        assert metric(served, 'eyespot_step_duration_seconds_count{step="decode"}') == 4
        assert metric(served, 'eyespot_refusals_total{code="unsupported-format"}') == 1


def test_an_image_counts_as_a_request_for_the_rate_limit() -> None:
    with serve_fake(rate_limit="10/hour") as served:
        assert ask(served, form(SHADES[:4])).status_code == 200
        refused = ask(served, form(SHADES[:7]))
        assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
        assert ask(served, form(SHADES[:4])).status_code == 200
        assert predict(served).status_code == 200
        assert predict(served).status_code == 429


@pytest.mark.parametrize(("most", "images"), [(3, 4), (3, 9), (1, 2)])
def test_a_batch_that_no_rate_ever_lets_through_is_told_so(most: int, images: int) -> None:
    with serve_fake(rate_limit=f"{most}/second;1000/hour") as served:
        reply = ask(served, form([image(number) for number in range(images)]))
        assert (reply.status_code, reply.json()["code"], reply.json()["limit"]) == (413, "too-many-images", most)
        assert f"the rate limit allows {most} at once" in reply.json()["detail"]


def test_a_batch_of_as_many_as_the_rate_is_let_through() -> None:
    with serve_fake(rate_limit="3/hour") as served:
        assert ask(served, form([image(number) for number in range(3)])).status_code == 200
        assert predict(served).status_code == 429


def test_what_goes_wrong_here_is_the_problem_of_one_image_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with serve_fake(raises=RuntimeError("boom")) as served:
        reply = ask(served, form(SHADES[:2]))
        assert reply.status_code == 200
        assert [item["problem"]["code"] for item in reply.json()["results"]] == ["internal", "internal"]
        assert "boom" not in reply.text
    assert [record.message for record in caplog.records].count("request_failed") == 2


def test_the_log_has_one_line_for_the_batch(fake: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "eyespot")
    ask(fake, form([IMAGE, b"text"]))

    def lines() -> list[Any]:
        return [one for one in caplog.records if getattr(one, "facts", {}).get("route") == "/predict/batch"]

    until(lambda: bool(lines()))
    (line,) = lines()
    facts = line.facts
    assert (facts["images"], facts["refused"], facts["status"]) == (2, 1, 200)


def test_the_documented_items_are_items() -> None:
    from eyespot.web.api import openapi

    documented = openapi.BATCH["responses"][200]["content"]["application/json"]["example"]["results"]
    items = TypeAdapter(list[BatchItem]).validate_python(documented)
    assert [item.problem is None for item in items] == [True, False]


def test_a_result_is_known_by_the_sha256_of_its_image() -> None:
    with serve_fake(cache_url="memory://") as served, served.client() as client:
        sent = predict(served, top_k=5).json()
        path = f"/results/{sent['image']['sha256']}"
        known = client.get(path, params={"top_k": 5})
        assert known.status_code == 200
        assert known.headers["x-cache"] == "hit"
        assert known.json()["cached"] is True
        for part in ("predictions", "image", "model"):
            assert known.json()[part] == sent[part]
        assert len(client.get(path, params={"top_k": 2}).json()["predictions"]) == 2
        assert client.get(path, params={"top_k": 0}).json()["code"] == "invalid-parameter"
        assert metric(served, 'eyespot_cache_requests_total{result="hit"}') == 2


def batch_of_lines(version: str = "1.1") -> bytes:
    body = json.dumps(texts([IMAGE])["json"])
    accept = "Accept: application/x-ndjson\r\nContent-Type: application/json"
    head = f"POST /predict/batch HTTP/{version}\r\nHost: x\r\n{accept}\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def test_lines_for_http_1_0_come_without_chunks(fake: Served) -> None:
    with socket.create_connection(("127.0.0.1", fake.port), timeout=30) as connection:
        connection.sendall(batch_of_lines("1.0"))
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"content-type: application/x-ndjson" in head
    assert json.loads(body)["index"] == 0


def test_a_stop_that_cuts_a_reply_off_says_so_in_its_access_line(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("eyespot").propagate = True
    engine = FakeEngine()
    engine.go.clear()
    with caplog.at_level("INFO"), serve_fake(engine, uvicorn={"timeout_graceful_shutdown": 0}) as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
            connection.sendall(batch_of_lines())
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            assert served.server
            served.server.should_exit = True
            assert not connection.recv(65536)
        until(lambda: any(record.message == "request_answered" for record in caplog.records))
    (line,) = [record for record in caplog.records if record.message == "request_answered"]
    assert line.facts["cut_off"] is True  # type: ignore[attr-defined]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    ("path", "code"), [("0" * 64, "not-found"), ("F" * 64, "invalid-parameter"), ("x", "invalid-parameter")]
)
def test_a_result_that_is_not_known(path: str, code: str) -> None:
    for cache in ("memory://", "off"):
        with serve_fake(cache_url=cache) as served, served.client() as client:
            reply = client.get(f"/results/{path}")
            assert reply.json()["code"] == code
            assert "x-cache" not in reply.headers
            assert metric(served, 'eyespot_cache_requests_total{result="miss"}') == 0


def test_a_result_leaves_a_row_as_the_image_would(tmp_path: Any) -> None:
    keys = "boss:secretsecret:admin"
    with serve_fake(cache_url="memory://", audit_url="sqlite", data_dir=tmp_path, api_keys=keys) as served:
        with served.client(headers={"X-API-Key": "secretsecret"}) as client:
            sha256 = client.post("/predict", content=IMAGE).json()["image"]["sha256"]
            client.get(f"/results/{sha256}")
            client.get(f"/results/{'0' * 64}")
            rows = client.get("/audit").json()["rows"]
        assert [row["cache"] for row in rows] == ["hit", "miss"]
        assert {row["bytes"] for row in rows} == {len(IMAGE)}
