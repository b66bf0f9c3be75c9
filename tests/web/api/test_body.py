"""One reader of bodies, whose guard comes before anything is built."""

import asyncio
import gc
import tracemalloc
from collections import deque

import pytest
from fastapi import Request
from starlette.types import Message

from eyespot.errors import BadJson, Refusal, TooManyImages
from eyespot.web.api import body
from eyespot.web.api.body import Body

MANY = {
    "lists": b"[]",
    "objects": b"{}",
    "numbers": b"1",
    "strings": b'""',
    "nulls": b"null",
    "pairs": b'{"a":1}',
    "nested": b"[[[[]]]]",
}


def read(data: bytes, kind: str = "application/json", max_images: int | None = None) -> Body:
    pieces = deque([data[start : start + 65536] for start in range(0, len(data), 65536)] or [b""])

    async def receive() -> Message:
        return {"type": "http.request", "body": pieces.popleft(), "more_body": bool(pieces)}

    scope = {"type": "http", "headers": [(b"content-type", kind.encode())], "query_string": b""}
    return asyncio.run(body.read(Request(scope, receive), 1000, max_images))


def peak_mb(data: bytes, max_images: int | None, refusal: type[Refusal]) -> float:
    """The most memory that reading takes beyond the bytes of the body, until it is refused."""
    gc.collect()
    tracemalloc.start()
    try:
        with pytest.raises(refusal):
            read(data, max_images=max_images)
        return (tracemalloc.get_traced_memory()[1] - 2 * len(data)) / 1e6  # once in pieces, once joined
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("max_images", [None, 64], ids=["single", "batch"])
@pytest.mark.parametrize("value", MANY)
def test_millions_of_tiny_values_are_refused_before_they_are_built(value: str, max_images: int | None) -> None:
    many = b",".join([MANY[value]] * (1_000_000 // len(MANY[value])))
    data = b'{"x":[' + many + b'],"image":"","images":[]}'
    assert peak_mb(data, max_images, BadJson if max_images is None else TooManyImages) < 5


def test_a_single_image_is_a_batch_of_one() -> None:
    form = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n--B--\r\n'
    for max_images in (None, 3):
        asked = read(form, "multipart/form-data; boundary=B", max_images)
        assert [(item.data, item.filename) for item in asked.items] == [(b"abc", "a")]


def test_a_form_holds_each_file_once() -> None:
    part = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(4_000_000) + b"\r\n"
    form = part * 4 + b"--B--\r\n"
    gc.collect()
    tracemalloc.start()
    try:
        asked = read(form, "multipart/form-data; boundary=B", 4)
        assert [len(item.data) for item in asked.items] == [4_000_000] * 4  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[0] < 17_000_000
    finally:
        tracemalloc.stop()
