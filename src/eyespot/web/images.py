"""One image, and what is asked of it, out of a form, JSON or a raw body."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile

from eyespot.errors import NoImage, SeveralImages, UnsupportedBody
from eyespot.recognizer import Image
from eyespot.vision.preprocess import announced_format
from eyespot.web.bodies import (
    NOT_A_FILE,
    NOTHING_GIVEN,
    Parameters,
    from_base64,
    given_in,
    image_too_large,
    in_thread_if_large,
    is_unfilled,
    media_type,
    parse_json,
    read_form,
    read_parameters,
    read_raw,
)
from eyespot.web.gate import header

FILE_FIELDS = ("file", "image")


@dataclass(frozen=True, slots=True)
class _Body:
    """An encoded image, and the parameters that came beside it."""

    data: bytes
    given: Mapping[str, Any]


async def read(request: Request, max_bytes: int, classes: int) -> tuple[Image, Parameters]:
    """The one image in the request, named by its sha256, and the parameters; the body's win over the query's.

    Raises:
        NoImage, SeveralImages, BadJson, BadBase64, BadForm: the body is not what its type says.
        UnsupportedBody: it has a type that is not read here.
        ImageTooLarge, BodyTooLarge: it is too long.
        InvalidParameter: a parameter has a value that it cannot have.
    """
    kind = media_type(header(request.scope, b"content-type") or "")
    if kind == "multipart/form-data":
        body = await _from_form(request)
    else:
        raw = await read_raw(request)
        if not raw:
            raise NoImage
        body = await in_thread_if_large(len(raw), _from_json, raw) if kind == "application/json" else _raw(raw, kind)
    given = {**request.query_params, **body.given} if request.scope["query_string"] else body.given
    parameters = read_parameters(given, classes) if given else NOTHING_GIVEN
    return await named(body.data, max_bytes), parameters


async def named(data: bytes, max_bytes: int) -> Image:
    """The image, named by its sha256.

    Raises:
        NoImage: it is empty.
        ImageTooLarge: it has more than `max_bytes`.
    """
    if not data:
        raise NoImage("The image is empty: 0 bytes.")
    if len(data) > max_bytes:
        raise image_too_large(len(data), max_bytes)
    # Hashing is 4 times as fast as decoding.
    return Image(data, await in_thread_if_large(len(data) // 4, lambda: hashlib.sha256(data).hexdigest()))


def _raw(raw: bytes, kind: str) -> _Body:
    named_as_bytes = kind.startswith("image/") or kind in ("application/octet-stream", "")
    # `curl --data-binary` says that it sends a form, unless told otherwise.
    image_by_curl = kind == "application/x-www-form-urlencoded" and announced_format(raw)
    if named_as_bytes or image_by_curl:
        return _Body(raw, {})
    raise UnsupportedBody(
        f"A body of type {kind[:100]} is not read here: send multipart/form-data, application/json, or an image."
    )


def _from_json(raw: bytes) -> _Body:
    fields = parse_json(raw)
    if not isinstance(fields, dict) or not isinstance(fields.get("image"), str):
        raise NoImage('The JSON must be an object whose "image" is a base64 string.')
    return _Body(from_base64(fields["image"]), given_in(fields))


async def _from_form(request: Request) -> _Body:
    form = await read_form(request)
    try:
        return _Body(_file_of(form), given_in(form))
    finally:
        await form.close()


def _file_of(form: FormData) -> bytes:
    given = form.multi_items()
    items = [(name, value) for name, value in given if not is_unfilled(value)]
    files = [value for _, value in items if isinstance(value, UploadFile)]
    if len(files) > 1:
        raise SeveralImages(f"The form holds {len(files)} files where one belongs.", limit=1, value=len(files))
    named = [value for name, value in items if name in FILE_FIELDS]
    image = next((value for value in named if isinstance(value, UploadFile)), None)
    if image is not None:
        return image.file.read()
    if named:
        raise NoImage(NOT_A_FILE)
    if len(items) < len(given):
        raise NoImage("No file was chosen in the form.")
    held = ", ".join(sorted({repr(name[:40]) for name in form})) or "nothing"
    raise NoImage(f"The form has no file part called `file` or `image`; it holds {held}.")
