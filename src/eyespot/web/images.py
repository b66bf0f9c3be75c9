"""One image, and what is asked of it, out of a form, JSON or a raw body."""

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated
from pydantic_core import from_json
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from eyespot.errors import (
    BadBase64,
    BadForm,
    BadJson,
    BodyTooLarge,
    ImageTooLarge,
    InvalidParameter,
    NoImage,
    Refusal,
    SeveralImages,
    UnsupportedBody,
)
from eyespot.recognizer import Image
from eyespot.vision.imaging import announced_format
from eyespot.web import header

FILE_FIELDS = ("file", "image")
_JSON_ROOM = 4 * 1024
_FORM_ROOM = 64 * 1024
_MAX_PARTS = 100
_THREAD_FROM = 256 * 1024  # bytes; decoding less takes no longer than the hand-over to a thread


T = TypeVar("T")


@validated(frozen=True, slots=True)
class Parameters:
    """What may be asked of a recognition, in the query or in the body."""

    top_k: Annotated[int, Field(ge=1, description="How many classes to answer with.")] = 3
    min_confidence: Annotated[
        float, Field(ge=0, le=1, allow_inf_nan=False, description="Leave out classes below this confidence.")
    ] = 0
    lang: Annotated[
        Literal["en", "zh"], Field(description="Language of the labels; `zh` answers with the English names so far.")
    ] = "en"


_PARAMETERS = TypeAdapter(Parameters)
_NOTHING_GIVEN = Parameters()
NAMES = tuple(Parameters.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class _Body:
    """An encoded image, and the parameters that came beside it."""

    data: bytes
    given: Mapping[str, Any]


def body_limit(max_bytes: int, content_type: str) -> tuple[int, Callable[[int], Refusal]]:
    """Bytes that a body of this type may have, and the refusal of a longer one."""
    media_type = _media_type(content_type)
    if media_type == "multipart/form-data":
        limit = max_bytes + _FORM_ROOM
    elif media_type == "application/json":
        limit = max_bytes * 4 // 3 + _JSON_ROOM
    else:
        return max_bytes, lambda size: _image_too_large(size, max_bytes)
    return limit, lambda size: BodyTooLarge(
        f"The body has at least {size:,} bytes; {limit:,} are accepted, of which {max_bytes:,} for the image.",
        limit=limit,
        value=size,
    )


def _image_too_large(size: int, max_bytes: int) -> ImageTooLarge:
    return ImageTooLarge(
        f"The image has at least {size:,} bytes; {max_bytes:,} are accepted.", limit=max_bytes, value=size
    )


def _media_type(content_type: str) -> str:
    return content_type.split(";", 1)[0].strip().lower()


async def read(request: Request, max_bytes: int, classes: int) -> tuple[Image, Parameters]:
    """The one image in the request, named by its sha256, and the parameters; the body's win over the query's.

    Raises:
        NoImage, SeveralImages, BadJson, BadBase64, BadForm: the body is not what its type says.
        UnsupportedBody: it has a type that is not read here.
        ImageTooLarge, BodyTooLarge: it is too long.
        InvalidParameter: a parameter has a value that it cannot have.
    """
    media_type = _media_type(header(request.scope, b"content-type") or "")
    if media_type == "multipart/form-data":
        body = await _from_form(request)
    else:
        # request.body() would be kept beside the image; joining one chunk with nothing would copy it.
        raw = b"".join([chunk async for chunk in request.stream() if chunk])
        if not raw:
            raise NoImage
        body = await _aside(len(raw), _from_json, raw) if media_type == "application/json" else _raw(raw, media_type)
    if not body.data:
        raise NoImage("The image is empty: 0 bytes.")
    if len(body.data) > max_bytes:
        raise _image_too_large(len(body.data), max_bytes)
    given = {**request.query_params, **body.given} if request.scope["query_string"] else body.given
    parameters = read_parameters(given, classes) if given else _NOTHING_GIVEN
    sha256 = await _aside(
        len(body.data) // 4, lambda: hashlib.sha256(body.data).hexdigest()
    )  # which is 4 times as fast
    return Image(body.data, sha256), parameters


async def _aside(size: int, function: Callable[..., T], *args: object) -> T:
    return await asyncio.to_thread(function, *args) if size > _THREAD_FROM else function(*args)


def read_parameters(given: Mapping[str, Any], classes: int) -> Parameters:
    """Parameters from their raw values. An empty text is one that was not given, as an empty field of a form is."""
    for name in NAMES:
        if isinstance(given.get(name), bool):  # which Python would take for 0 or 1
            raise InvalidParameter(f"{name}: a boolean is no value for it.", value=str(given[name]).lower())
    known = {name: given[name] for name in NAMES if given.get(name) not in (None, "")}
    try:
        parameters = _PARAMETERS.validate_python(known)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidParameter(
            f"{first['loc'][0]}: {first['msg']}.",
            limit=next((first["ctx"][bound] for bound in ("ge", "le") if bound in first.get("ctx", {})), None),
            value=str(first["input"])[:100],
        ) from error
    if parameters.top_k > classes:
        raise InvalidParameter(f"top_k: the network has {classes} classes.", limit=classes, value=parameters.top_k)
    return parameters


def _raw(raw: bytes, media_type: str) -> _Body:
    named_as_bytes = media_type.startswith("image/") or media_type in ("application/octet-stream", "")
    # `curl --data-binary` says that it sends a form, unless told otherwise.
    image_by_curl = media_type == "application/x-www-form-urlencoded" and announced_format(raw)
    if named_as_bytes or image_by_curl:
        return _Body(raw, {})
    raise UnsupportedBody(
        f"A body of type {media_type[:100]} is not read here: send multipart/form-data, application/json, or an image."
    )


def _from_json(raw: bytes) -> _Body:
    try:
        fields = from_json(raw)
    except ValueError as error:
        raise BadJson(f"The body is not valid JSON: {error}.") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("image"), str):
        raise NoImage('The JSON must be an object whose "image" is a base64 string.')
    return _Body(_from_base64(fields["image"]), {name: fields[name] for name in NAMES if name in fields})


def _from_base64(text: str) -> bytes:
    """Bytes from base64 (RFC 4648; either alphabet, padded or not, in lines or not) or a `data:` URI (RFC 2397)."""
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise BadBase64("The data: URI is not base64.")
    text = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadBase64(f"The image is not valid base64: {error}.") from error


class _InMemory(MultiPartParser):
    """Starlette's parser, without temporary files, and with names and values in UTF-8 whatever the client says."""

    spool_max_size = 0  # SpooledTemporaryFile never rolls over to a real file: the container's root is read-only
    begun = ended = False

    @property
    def _charset(self) -> str:
        return "utf-8"

    @_charset.setter
    def _charset(self, _: str) -> None:
        """Not what the request names: any codec of Python, punycode say, which raises or takes seconds."""

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self.begun = True

    def on_end(self) -> None:
        self.ended = True


async def _from_form(request: Request) -> _Body:
    parser = _InMemory(request.headers, request.stream(), max_files=_MAX_PARTS, max_fields=_MAX_PARTS)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise BadForm(f"The form cannot be read: {error.message}") from error
    try:
        if parser.begun and not parser.ended:
            for file in parser._files_to_close_on_error:  # the part that was cut off is not in the form yet
                file.close()
            raise BadForm("The form ends before its closing boundary.")
        return _Body(_file_of(form), {name: value for name, value in form.items() if name in NAMES})
    finally:
        await form.close()


def _file_of(form: FormData) -> bytes:
    given = form.multi_items()
    items = [(name, value) for name, value in given if not _is_unfilled(value)]
    files = [value for _, value in items if isinstance(value, UploadFile)]
    if len(files) > 1:
        raise SeveralImages(f"The form holds {len(files)} files where one belongs.", limit=1, value=len(files))
    named = [value for name, value in items if name in FILE_FIELDS]
    image = next((value for value in named if isinstance(value, UploadFile)), None)
    if image is not None:
        return image.file.read()
    if named:
        raise NoImage("The form's image is a text, not a file: with curl, write -F file=@cat.jpg, with the @.")
    if len(items) < len(given):
        raise NoImage("No file was chosen in the form.")
    held = ", ".join(sorted({repr(name[:40]) for name in form})) or "nothing"
    raise NoImage(f"The form has no file part called `file` or `image`; it holds {held}.")


def _is_unfilled(value: UploadFile | str) -> bool:
    """Whether this is what a browser sends for a file input in which nothing was chosen."""
    return isinstance(value, UploadFile) and not value.filename and not value.size
