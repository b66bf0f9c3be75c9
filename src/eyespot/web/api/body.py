"""One reader for every body: images and parameters out of a form, JSON or the raw bytes of one image."""

import asyncio
import base64
import binascii
import hashlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from pydantic_core import from_json

from eyespot.errors import (
    BadBase64,
    BadForm,
    BadJson,
    BodyTooLarge,
    ImageTooLarge,
    NoImage,
    Refusal,
    SeveralImages,
    TooManyImages,
    UnsupportedBody,
)
from eyespot.recognizer import Image
from eyespot.vision.preprocess import announced_format
from eyespot.web.api.form import Part, read_form
from eyespot.web.api.parameters import Parameters, given_in, parse
from eyespot.web.gate import header
from eyespot.web.gate.body_limit import Limit

BATCH_PATH = "/predict/batch"
_FILE_FIELDS = ("file", "image")
_NOT_A_FILE = "The form's image is text, not a file: with curl, write -F file=@cat.jpg, with the @."
_MAX_FILES = 100  # in the form of a single image, those without a name included
_JSON_ROOM = 4 * 1024
_FORM_ROOM = 64 * 1024
_OTHER_VALUES = 100  # JSON values beside the images
_THREAD_FROM = 256 * 1024  # bytes; decoding less takes no longer than handing it to a thread

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Item:
    """One image as it was sent: encoded bytes, or base64 text, or something that is no image at all."""

    index: int
    data: object
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class Body:
    """What one request asks."""

    items: deque[Item]
    parameters: Parameters


async def read(request: Request, classes: int, max_images: int | None = None) -> Body:
    """The images of a batch of at most `max_images`, or else the one image, and the parameters.

    Parameters in the body win over those in the query; `classes` is the largest `top_k`.

    Raises:
        NoImage, SeveralImages, TooManyImages, BadJson, BadForm: the body is not what its type says.
        UnsupportedBody: no images are read from this type.
        ImageTooLarge, BodyTooLarge: it has too many bytes.
        InvalidParameter: a parameter is out of range.
    """
    content_type = header(request.scope, b"content-type") or ""
    kind = media_type(content_type)
    if kind == "multipart/form-data":
        items, given = await _from_form(request, content_type, max_images)
    else:
        # Not `request.body()`, which would keep the bytes as long as the request.
        raw = b"".join([chunk async for chunk in request.stream() if chunk])
        if kind == "application/json":
            items, given = await in_thread_if_large(len(raw), _from_json, raw, max_images)
        else:
            items, given = _from_raw(raw, kind, max_images)
    if max_images is not None and not 0 < len(items) <= max_images:
        raise _too_many_images(len(items), max_images) if items else NoImage("The batch has no images.")
    query = request.query_params if request.scope["query_string"] else {}
    return Body(items, parse({**query, **given}, classes))


async def image_of(item: Item, max_bytes: int) -> Image:
    """The encoded image and its sha256.

    Raises:
        NoImage: it is empty, or neither bytes nor a string.
        BadBase64: it is a string that is not base64.
        ImageTooLarge: it has more than `max_bytes` bytes.
    """
    data = item.data
    if isinstance(data, str):
        data = await in_thread_if_large(len(data), from_base64, data)
    if not isinstance(data, bytes):
        raise NoImage("Every image in the list must be a base64 string.")
    if not data:
        raise NoImage("The image is empty: 0 bytes.")
    if len(data) > max_bytes:
        raise _image_too_large(len(data), max_bytes)
    digest = await in_thread_if_large(len(data) // 4, hashlib.sha256, data)  # 4 times as fast as decoding base64
    return Image(data, digest.hexdigest())


async def _from_form(
    request: Request, content_type: str, max_images: int | None
) -> tuple[deque[Item], Mapping[str, Any]]:
    if max_images is None:
        most = _MAX_FILES
        refusal: Refusal = BadForm(f"The form has more than {most} files.", limit=most)
    else:
        most, refusal = max_images, _too_many_images(max_images + 1, max_images)
    parts = await read_form(content_type, request.stream(), most, refusal)
    given = given_in({part.name: part.take().decode(errors="replace") for part in parts if part.filename is None})
    # A browser sends a file input in which nothing was chosen as a file without a name and without bytes.
    files = [part for part in parts if part.filename or (part.filename is not None and any(part.chunks))]
    if max_images is None:
        if len(files) > 1:
            raise SeveralImages(f"The form has {len(files)} files; send one.", limit=1, value=len(files))
        files = [part for part in files if part.name in _FILE_FIELDS]
    if not files:
        raise _no_file(parts)
    return deque(Item(index, part.take(), part.filename) for index, part in enumerate(files)), given


def _no_file(parts: list[Part]) -> NoImage:
    if any(part.name in _FILE_FIELDS and part.filename is None for part in parts):
        return NoImage(_NOT_A_FILE)
    if any(part.filename == "" for part in parts):
        return NoImage("No file was chosen in the form.")
    names = ", ".join(sorted({repr(part.name[:40]) for part in parts})) or "nothing"
    return NoImage(f"The form has no file part called `file` or `image`; it has {names}.")


def _from_json(raw: bytes, max_images: int | None) -> tuple[deque[Item], Mapping[str, Any]]:
    """Before anything is built, the values are counted: millions of `[]` would take 30 times the memory of the body."""
    expected = 'an object whose "image" is a base64 string'
    if max_images is not None:
        expected = 'a list of base64 strings, or an object whose "images" is one'
    if not raw:
        raise NoImage(f"The body is empty; send {expected}.")
    # None of the three is in base64; a data: URI has one comma.
    most = 4 * (max_images or 1) + _OTHER_VALUES
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > most:
        if max_images is not None:
            raise TooManyImages(f"The JSON has more than {max_images:,} images.", limit=max_images)
        raise BadJson(f"The JSON has too many values; send {expected}.", limit=most)
    try:
        fields = from_json(raw)
    except ValueError as error:
        raise BadJson(f"The body is not valid JSON: {error}.") from error
    if max_images is not None and isinstance(fields, list):
        fields = {"images": fields}
    images = fields.get("images" if max_images is not None else "image") if isinstance(fields, dict) else None
    if not isinstance(images, str if max_images is None else list):
        raise NoImage(f"The JSON must be {expected}.")
    texts = [images] if isinstance(images, str) else images
    return deque(Item(index, text) for index, text in enumerate(texts)), given_in(fields)


def _from_raw(raw: bytes, kind: str, max_images: int | None) -> tuple[deque[Item], Mapping[str, Any]]:
    if max_images is not None:
        raise UnsupportedBody("Send a batch as multipart/form-data with one file per image, or as application/json.")
    if not raw:
        raise NoImage
    named_as_bytes = kind.startswith("image/") or kind in ("application/octet-stream", "")
    # `curl --data-binary` says it sends a form, unless told otherwise.
    image_by_curl = kind == "application/x-www-form-urlencoded" and announced_format(raw)
    if not (named_as_bytes or image_by_curl):
        raise UnsupportedBody(f"{kind[:100]} is not supported: send multipart/form-data, application/json or an image.")
    return deque([Item(0, raw)]), {}


def from_base64(text: str) -> bytes:
    """Bytes from base64 (RFC 4648; either alphabet, padded or not, in lines or not) or a `data:` URI (RFC 2397)."""
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise BadBase64("The data: URI is not base64.")
    try:
        return binascii.a2b_base64(text, strict_mode=True)  # the usual form, without a copy
    except ValueError:
        pass
    text = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise BadBase64(f"The image is not valid base64: {error}.") from error


async def in_thread_if_large(size: int, function: Callable[..., T], *args: object) -> T:
    """`function(*args)`, in a thread when it processes so many bytes that it would delay other requests."""
    return await asyncio.to_thread(function, *args) if size > _THREAD_FROM else function(*args)


def media_type(content_type: str) -> str:
    """Without its parameters, in lower case."""
    return content_type.split(";", 1)[0].strip().lower()


def limit_of(max_bytes: int, batch_max_bytes: int) -> Callable[[str, str], Limit]:
    """How large a body may be, by its path and content type.

    Single images share the memory of as many as the pool admits; batches have two of the largest to themselves.
    """

    def too_large(limit: int) -> Callable[[int], Refusal]:
        def refusal(size: int) -> Refusal:
            detail = f"The body has at least {size:,} bytes; the limit is {limit:,}."
            return BodyTooLarge(detail, limit=limit, value=size)

        return refusal

    def single(limit: int, refusal: Callable[[int], Refusal]) -> Limit:
        return Limit(limit, refusal, "interactive", lambda pool: pool.capacity * max_bytes)

    form, json = max_bytes + _FORM_ROOM, max_bytes * 4 // 3 + _JSON_ROOM
    batch = Limit(batch_max_bytes, too_large(batch_max_bytes), "batch", lambda _: 2 * batch_max_bytes)
    raw = single(max_bytes, partial(_image_too_large, limit=max_bytes))
    by_type = {
        "multipart/form-data": single(form, too_large(form)),
        "application/json": single(json, too_large(json)),
    }
    return lambda path, kind: batch if path == BATCH_PATH else by_type.get(media_type(kind), raw)


def _image_too_large(size: int, limit: int) -> ImageTooLarge:
    return ImageTooLarge(f"The image has at least {size:,} bytes; the limit is {limit:,}.", limit=limit, value=size)


def _too_many_images(count: int, limit: int) -> TooManyImages:
    return TooManyImages(f"The batch has at least {count:,} images; the limit is {limit:,}.", limit=limit, value=count)
