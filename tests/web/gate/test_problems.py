"""What bad input gets: each its own status and code, none is a 500, and a flood of refusals is spaced out."""

import base64
import json
import logging
import re
import socket
import time
from typing import Any

import httpx
import pytest

from eyespot import errors
from eyespot.errors import REFUSALS, Refusal
from eyespot.web.gate import body_limit as middleware
from eyespot.web.gate.problems import Pace
from tests import makers
from tests.requests import answered, metric
from tests.serving import Served, serve_fake, until

IMAGE = makers.encode(makers.flat((300, 200)), "PNG")
MIB = 1024 * 1024
FORM = {"content-type": "multipart/form-data; boundary=B"}


def file(data: bytes) -> dict[str, Any]:
    return {"files": {"file": ("x.jpg", data, "image/jpeg")}}


def text(content: str | bytes, kind: str) -> dict[str, Any]:
    return {"content": content, "headers": {"content-type": kind}}


def encoded(data: object) -> dict[str, Any]:
    return {"json": {"image": data}}


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "no body": ({}, 400, "no-image"),
    "an empty body with a type": (text(b"", "image/jpeg"), 400, "no-image"),
    "an empty JSON body": (text(b"", "application/json"), 400, "no-image"),
    "an empty form": (text(b"", "multipart/form-data; boundary=B"), 400, "no-image"),
    "a form without parts": (text(b"--B--\r\n", FORM["content-type"]), 400, "no-image"),
    "an empty file": (file(b""), 400, "no-image"),
    "a missing part": ({"files": {"other": ("x.jpg", IMAGE)}}, 400, "no-image"),
    "a text part in place of a file": ({"files": {"file": (None, "cat.jpg")}}, 400, "no-image"),
    "JSON that is no object": ({"json": [1]}, 400, "no-image"),
    "JSON without image": ({"json": {"img": "x"}}, 400, "no-image"),
    "JSON with a number for an image": (encoded(3), 400, "no-image"),
    "JSON with an empty image": (encoded(""), 400, "no-image"),
    "a file input that nobody filled": (
        text(
            b'--B\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\n\r\n--B--\r\n',
            FORM["content-type"],
        ),
        400,
        "no-image",
    ),
    "two files": ({"files": [("file", IMAGE), ("file", IMAGE)]}, 400, "several-images"),
    "two files of two names": ({"files": [("file", IMAGE), ("image", IMAGE)]}, 400, "several-images"),
    "broken base64": (encoded("%%%not base64%%%"), 400, "bad-base64"),
    "base64 of an impossible length": (encoded("abcde"), 400, "bad-base64"),
    "a data URI that is not base64": (encoded("data:image/png,xyz"), 400, "bad-base64"),
    "broken JSON": (text(b'{"image": ', "application/json"), 400, "bad-json"),
    "JSON that is not UTF-8": (text(b'{"image": "\xff"}', "application/json"), 400, "bad-json"),
    "deeply nested JSON": (text(b"[" * 100_000, "application/json"), 400, "bad-json"),
    "a form without a boundary": (text(b"--B\r\n", "multipart/form-data"), 400, "bad-form"),
    "a form that is none": (text(b"hello", FORM["content-type"]), 400, "bad-form"),
    "a form cut off": (
        text(b'--B\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n3\r\n--B\r\nContent-', FORM["content-type"]),
        400,
        "bad-form",
    ),
    "a form cut off in its first part": (
        text(b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc', FORM["content-type"]),
        400,
        "bad-form",
    ),
    "thousands of fields": ({"files": [("x", (None, "1"))] * 2000}, 400, "bad-form"),
    "a type we do not read": (text(b"hello", "text/plain"), 415, "unsupported-body"),
    "a form as curl -d sends it": (text(b"image=cat", "application/x-www-form-urlencoded"), 415, "unsupported-body"),
    "a text named .jpg": (file(b"just some text"), 415, "unsupported-format"),
    "HTML named .jpg": (file(b"<html><body>404</body></html>"), 415, "unsupported-format"),
    "a GIF": (file(makers.encode(makers.flat(), "GIF")), 415, "unsupported-format"),
    "a BMP": (file(makers.encode(makers.flat(), "BMP")), 415, "unsupported-format"),
    "a TIFF": (file(makers.encode(makers.flat(), "TIFF")), 415, "unsupported-format"),
    "base64 of text": (encoded(base64.b64encode(b"hello").decode()), 415, "unsupported-format"),
    "text without a type": ({"content": b"hello"}, 415, "unsupported-format"),
    "a truncated JPEG": (file(makers.jpeg()[:9000]), 422, "broken-image"),
    "a JPEG of three bytes": (file(b"\xff\xd8\xff"), 422, "broken-image"),
    "a PNG without an image": (file(makers.png_claiming(100, 100, b"garbage")), 422, "broken-image"),
    "a PNG that claims 50,000 x 50,000": (file(makers.png_claiming(50_000, 50_000)), 422, "too-many-pixels"),
    "thousands of scans": (file(makers.many_scans(3000)), 422, "too-many-scans"),
    "a progressive strip": (
        file(makers.encode(makers.flat((65500, 381)), progressive=True, subsampling="4:4:4")),
        422,
        "too-much-memory",
    ),
    "a 1 x 1 image": (file(makers.encode(makers.flat((1, 1)), "PNG")), 422, "too-small"),
    "6 MiB as it is": (text(b"\xff\xd8\xff" + b"\0" * 6 * MIB, "image/jpeg"), 413, "image-too-large"),
    "6 MiB as a file": (file(b"\xff\xd8\xff" + b"\0" * 6 * MIB), 413, "body-too-large"),
    "a little too much as a file": (file(b"\0" * (5 * MIB + 1)), 413, "image-too-large"),
    "6 MiB in base64": (encoded(base64.b64encode(b"\0" * 6 * MIB).decode()), 413, "body-too-large"),
    "60 MiB as it is": (text(b"\0" * 60 * MIB, "application/octet-stream"), 413, "image-too-large"),
    "60 MiB as a file": (file(b"\0" * 60 * MIB), 413, "body-too-large"),
    "60 MiB in pieces": ({"content": [b"\0" * MIB] * 60}, 413, "image-too-large"),
}


def check(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["x-content-type-options"] == "nosniff"
    problem: dict[str, Any] = reply.json()
    assert (reply.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["type"] == f"urn:eyespot:problem:{code}"
    assert problem["title"] == REFUSALS[code].title
    assert problem["detail"]
    assert problem["request_id"] == reply.headers["x-request-id"]
    if code in (
        "too-many-pixels",
        "too-small",
        "too-many-scans",
        "too-much-memory",
        "image-too-large",
        "body-too-large",
    ):
        assert problem["value"] != problem["limit"]
    return problem


@pytest.mark.parametrize("name", BAD)
def test_bad_input_has_its_own_code(fake: Served, name: str) -> None:
    request, status, code = BAD[name]
    with fake.client() as client:
        if isinstance(request.get("content"), list):
            request = {**request, "content": iter(request["content"])}
        check(client.post("/predict", **request), status, code)
        assert client.post("/predict", files={"file": IMAGE}).status_code == 200


def test_every_code_of_a_bad_request_was_seen() -> None:
    seen = {code for _, _, code in BAD.values()}
    by_input = {kind.code for kind in REFUSALS.values() if kind.status in (400, 413, 415, 422)}
    elsewhere = {"invalid-parameter", "bad-request", "too-many-images", "bad-tensor"}  # test_batch, test_v2 …
    assert by_input - seen == elsewhere


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("animated WebP", makers.animated),
        ("60000 x 8 strip", makers.strip),
        ("grey", lambda: makers.encode(makers.photograph().convert("L"))),
        ("CMYK", lambda: makers.encode(makers.photograph().convert("CMYK"))),
        ("palette", lambda: makers.encode(makers.photograph().quantize(16), "PNG")),
        ("16-bit", makers.sixteen_bit),
        ("sideways", lambda: makers.turned(makers.photograph(), 6)),
        ("MPO", makers.mpo),
    ],
)
def test_unusual_images_are_simply_recognised(fake: Served, name: str, data) -> None:  # type: ignore[no-untyped-def]
    with fake.client() as client:
        reply = client.post("/predict", **file(data()))
        assert reply.status_code == 200, (name, reply.text)
        if name == "sideways":
            assert (reply.json()["image"]["width"], reply.json()["image"]["height"]) == makers.photograph().size


def test_a_client_that_only_reads_when_it_has_sent_everything_gets_the_answer(fake: Served) -> None:
    """60 MiB through a plain socket, to the last byte, before the answer is looked at."""
    body = b"\0" * 60 * MIB
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", fake.port), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    assert b'"code":"image-too-large"' in answer


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_failure_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("eyespot").propagate = True
    with caplog.at_level("ERROR", "eyespot"), serve_fake() as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\nabc")
        until(lambda: answered(served, "/predict", 499) == 1)
        assert metric(served, 'eyespot_refusals_total{code="internal"}') == 0
    assert not caplog.records


def test_a_file_input_that_nobody_filled_does_not_count(fake: Served) -> None:
    empty = b'--B\r\nContent-Disposition: form-data; name="image"; filename=""\r\n\r\n\r\n'
    full = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + IMAGE + b"\r\n"
    with fake.client() as client:
        assert client.post("/predict", **text(empty + full + b"--B--\r\n", FORM["content-type"])).status_code == 200


def test_a_body_without_an_end_is_cut_off(fake: Served) -> None:
    sent = 0
    with socket.create_connection(("127.0.0.1", fake.port), timeout=30) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b"\0" * MIB + b"\r\n"
        try:
            while sent < 300 * MIB:
                connection.sendall(chunk)
                sent += MIB
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert 5 * MIB < sent < 150 * MIB


def put(port: int, body: bytes, length: int) -> socket.socket:
    """A connection on which a PUT of a raw image has begun."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = f"PUT /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_bodies_that_are_held_together_take_no_more_than_the_places_could() -> None:
    image = makers.encode(makers.flat((40, 30), (9, 9, 9)), "PNG").ljust(1024 * 1024, b"\0")
    with serve_fake(workers=1, queue=0, max_bytes=len(image)) as served, served.client() as client:
        for attempt in range(20):  # until the first one's bytes have arrived when the second one's do
            with put(served.port, image[:-1], len(image)) as first:
                time.sleep(0.02 * attempt)
                reply = client.put("/predict", content=image)
                if reply.status_code == 200:
                    continue
                check(reply, 503, "overloaded")
                assert reply.json()["limit"] == len(image)
                assert int(reply.headers["retry-after"]) >= 1
                assert reply.json()["detail"].endswith(f"; try again in {reply.headers['retry-after']} s.")
                first.sendall(image[-1:])
                if first.recv(65536).startswith(b"HTTP/1.1 200"):
                    break  # otherwise their pieces came in turns, and both were refused
        else:
            pytest.fail("the second was never refused alone")
        for _ in range(3):  # what was held has been given back
            assert client.put("/predict", content=image).status_code == 200
        longest = {"image": base64.b64encode(image).decode()}
        assert client.post("/predict", json=longest).status_code == 200  # more than the one place, but alone


def test_an_upload_that_stalls_is_told_and_gives_back_what_it_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "STALLED_SECONDS", 0.2)
    monkeypatch.setattr(middleware, "DISCARD_SECONDS", 0.1)
    image = makers.encode(makers.flat((40, 30), (9, 9, 9)), "PNG").ljust(1024 * 1024, b"\0")
    with serve_fake(workers=1, queue=0, max_bytes=len(image)) as served, served.client() as client:
        with put(served.port, image[:-1], len(image)) as stalled:
            answer = b"".join(iter(lambda: stalled.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 408")
        assert b'"code":"upload-stalled"' in answer
        assert client.put("/predict", content=image).status_code == 200


def test_a_refusal_before_the_body_does_not_break_the_next_connection(fake: Served) -> None:
    with fake.client() as client:
        for _ in range(3):
            check(client.post("/nope", content=b"x" * 100_000), 404, "not-found")
            assert client.post("/predict", files={"file": IMAGE}).status_code == 200


def test_what_nobody_expected_is_an_internal_problem_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("eyespot").propagate = True
    with caplog.at_level("ERROR", "eyespot"), serve_fake(raises=RuntimeError("secret")) as served:
        with served.client() as client:
            reply = client.post("/predict", files={"file": IMAGE})
        problem = check(reply, 500, "internal")
    assert "secret" not in json.dumps(problem)
    (record,) = [record for record in caplog.records if record.message == "request_failed"]
    assert record.exc_info
    assert record.facts["request_id"] == problem["request_id"]  # type: ignore[attr-defined]


def test_every_refusal_has_a_status_a_code_a_title_and_a_sentence() -> None:
    kinds = Refusal.__subclasses__()
    codes = [kind.code for kind in kinds]
    assert len(set(codes)) == len(codes)
    for kind in kinds:
        assert REFUSALS[kind.code] is kind
        assert 400 <= kind.status < 600
        assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", kind.code)
        assert kind.title
        assert kind().detail.endswith(".")
    tree = errors.__doc__ or ""
    for named in [*kinds, *errors.StartError.__subclasses__()]:
        assert named.__name__ in tree


def delays(arrivals: list[float]) -> list[float]:
    """How long each refusal waits that comes at one of these times."""
    pace = Pace()
    return [pace.delay(1000 + arrival) for arrival in arrivals]


def test_a_few_are_refused_at_once() -> None:
    assert set(delays([0.0] * 50)) == {0}
    assert set(delays([number / 50 for number in range(1000)])) == {0}


def test_a_flood_is_refused_at_a_fixed_rate_and_nobody_waits_longer_than_four_seconds() -> None:
    waited = delays([0.0] * 400)
    assert waited[:50] == [0] * 50
    assert waited == sorted(waited)
    assert round(waited[99], 3) == 1  # 50 a second
    assert max(waited) == 4


def test_after_a_flood_the_burst_comes_back() -> None:
    waited = delays([0.0] * 400 + [10.0] * 50)
    assert set(waited[400:]) == {0}
