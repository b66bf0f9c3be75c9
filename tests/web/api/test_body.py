"""One reader of bodies, whose guard comes before anything is built."""

import asyncio
import gc
import tracemalloc
from collections import deque
from contextlib import suppress
from types import SimpleNamespace

import pytest
from fastapi import Request
from starlette.types import Message

from eyespot.errors import BadJson, ImageTooLarge, Refusal, TooManyImages
from eyespot.web.api import body
from eyespot.web.api.body import Body
from eyespot.web.api.image import Item, image_of
from tests.serving import FakeEngine, fake_classifier

MODEL = SimpleNamespace(classifier=fake_classifier(FakeEngine()))
APP = SimpleNamespace(state=SimpleNamespace(recognizer=SimpleNamespace(model=MODEL)))
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

    scope = {"type": "http", "app": APP, "headers": [(b"content-type", kind.encode())], "query_string": b""}
    return asyncio.run(body.read(Request(scope, receive), max_images))


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


WRAPPED = {
    "a blank after every two": "AA " * 1_500_000,
    "a line end after every two": "AA\n" * 1_500_000,
    "broken": "AAAA" * 1_000_000 + "!",
    "wide": "AAAA" * 1_000_000 + "\N{GRINNING FACE}",
}


@pytest.mark.parametrize("text", WRAPPED)
def test_base64_takes_little_more_memory_than_it_has_characters(text: str) -> None:
    data = WRAPPED[text]
    gc.collect()
    tracemalloc.start()
    try:
        with suppress(Refusal):
            asyncio.run(image_of(Item(0, data), 5 * 1024 * 1024))
        assert tracemalloc.get_traced_memory()[1] < 5 * len(data)  # as strings of two letters it was 30
    finally:
        tracemalloc.stop()


def test_far_too_much_base64_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ImageTooLarge) as caught:
        asyncio.run(image_of(Item(0, "!" * 3000), 1024))
    assert caught.value.limit == 1024


@pytest.mark.parametrize("note", ["\N{GRINNING FACE}", "\\ud83d\\ude00"], ids=["UTF-8", "escaped"])
def test_large_json_is_ascii_or_one_character_would_make_it_four_times_as_large(note: str) -> None:
    for size, refused in ((1000, False), (300_000, True)):
        data = f'{{"image": "{"A" * size}", "note": "{note}"}}'.encode()
        if refused:
            with pytest.raises(BadJson, match="ASCII"):
                read(data)
        else:
            assert len(read(data).items) == 1
    assert read(f'{{"image": "{"A" * 300_000}\\u003d"}}'.encode()).items


def test_a_form_is_gone_with_its_last_reference() -> None:
    """No cycle keeps it until the garbage collector runs."""
    part = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(4_000_000) + b"\r\n"
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(5):
            read(part + b"--B--\r\n", "multipart/form-data; boundary=B")
        assert tracemalloc.get_traced_memory()[0] < 6_000_000
    finally:
        tracemalloc.stop()
        gc.enable()


def test_a_part_is_taken_as_it_is_whatever_transfer_encoding_it_names() -> None:
    """RFC 7578 deprecates the header."""
    head = (
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    )
    asked = read(head + b"AAAA\r\nAA==\r\n--B--\r\n", "multipart/form-data; boundary=B")
    assert asked.items[0].data == b"AAAA\r\nAA=="
