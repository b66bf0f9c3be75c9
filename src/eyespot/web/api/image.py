"""One image as it was sent, and its encoded bytes."""

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from eyespot.errors import BadBase64, ImageTooLarge, NoImage
from eyespot.recognizer import Image

_THREAD_FROM = 256 * 1024  # bytes; decoding less takes no longer than handing it to a thread

_STANDARD = bytes.maketrans(b"-_", b"+/")  # from the URL-safe alphabet

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Item:
    """One image as it was sent: encoded bytes, or base64 text, or something else."""

    index: int
    data: object
    filename: str | None = None


async def image_of(item: Item, max_bytes: int) -> Image:
    """The encoded image and its sha256. Raises `NoImage`, `BadBase64`, or `ImageTooLarge` above `max_bytes`."""
    data = item.data
    if isinstance(data, str):
        if len(data) > 2 * max_bytes:  # base64 takes a third more, and line ends some
            raise _too_large(len(data) * 3 // 4, max_bytes)
        data = await in_thread_if_large(len(data), _from_base64, data)
    if not isinstance(data, bytes):
        raise NoImage("An image in JSON must be a base64 string, as the field `image` or in the list `images`.")
    if not data:
        raise NoImage("The image is empty: 0 bytes.")
    if len(data) > max_bytes:
        raise _too_large(len(data), max_bytes)
    digest = await in_thread_if_large(len(data) // 4, hashlib.sha256, data)  # 4 times as fast as decoding base64
    return Image(data, digest.hexdigest())


def _too_large(size: int, limit: int) -> ImageTooLarge:
    return ImageTooLarge(f"The image has {size:,} bytes; the limit is {limit:,}.", limit=limit, value=size)


def _from_base64(text: str) -> bytes:
    """Bytes from base64 (RFC 4648; either alphabet, padded or not, in lines or not) or a `data:` URI (RFC 2397)."""
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise BadBase64("The data: URI is not base64.")
    with suppress(ValueError):
        return binascii.a2b_base64(text, strict_mode=True)  # the usual form, without a copy
    try:
        # As bytes: `str.split` would make millions of strings out of "AA AA AA".
        data = text.encode("ascii").translate(_STANDARD, b" \t\r\n").rstrip(b"=")
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except ValueError as error:
        raise BadBase64(f"The image is not valid base64: {error}.") from error


async def in_thread_if_large(size: int, function: Callable[..., T], *args: object) -> T:
    """`function(*args)`, in a thread when it processes so many bytes that it would delay other requests."""
    return await asyncio.to_thread(function, *args) if size > _THREAD_FROM else function(*args)
