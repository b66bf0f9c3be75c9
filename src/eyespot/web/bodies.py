"""What a body may be, and what is in one: forms, base64, parameters."""

import asyncio
import base64
import binascii
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
    Refusal,
    TooManyImages,
)

BATCH_PATH = "/predict/batch"
NOT_A_FILE = "The form's image is a text, not a file: with curl, write -F file=@cat.jpg, with the @."
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
NOTHING_GIVEN = Parameters()
NAMES = tuple(Parameters.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Bound:
    """The bytes that a body may have, and the refusal of one that has more."""

    limit: int
    refusal: Callable[[int], Refusal]
    of_batch: bool = False


def bound(max_bytes: int, batch_max_bytes: int, path: str, content_type: str) -> Bound:
    """Of a body of this type, sent to this path."""
    kind = media_type(content_type)
    if path == BATCH_PATH:
        return Bound(batch_max_bytes, lambda size: _body_too_large(size, batch_max_bytes), of_batch=True)
    if kind == "multipart/form-data":
        limit = max_bytes + _FORM_ROOM
    elif kind == "application/json":
        limit = max_bytes * 4 // 3 + _JSON_ROOM
    else:
        return Bound(max_bytes, lambda size: image_too_large(size, max_bytes))
    return Bound(limit, lambda size: _body_too_large(size, limit, f", of which {max_bytes:,} for the image"))


def _body_too_large(size: int, limit: int, of_which: str = "") -> BodyTooLarge:
    return BodyTooLarge(
        f"The body has at least {size:,} bytes; {limit:,} are accepted{of_which}.", limit=limit, value=size
    )


def image_too_large(size: int, max_bytes: int) -> ImageTooLarge:
    """The refusal of an image that has so many bytes."""
    return ImageTooLarge(
        f"The image has at least {size:,} bytes; {max_bytes:,} are accepted.", limit=max_bytes, value=size
    )


def media_type(content_type: str) -> str:
    """Without its parameters, in lower case."""
    return content_type.split(";", 1)[0].strip().lower()


async def in_thread_if_large(size: int, function: Callable[..., T], *args: object) -> T:
    """`function(*args)`, in a thread when it goes through so many bytes that it would hold up others."""
    return await asyncio.to_thread(function, *args) if size > _THREAD_FROM else function(*args)


def given_in(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The raw parameters among the fields; an empty text, as forms send it, or null counts as not given."""
    return {name: fields[name] for name in NAMES if fields.get(name) not in (None, "")}


def read_parameters(given: Mapping[str, Any], classes: int) -> Parameters:
    """Parameters from their raw values."""
    for name in NAMES:
        if isinstance(given.get(name), bool):  # which Python would take for 0 or 1
            raise InvalidParameter(f"{name}: a boolean is no value for it.", value=str(given[name]).lower())
    try:
        parameters = _PARAMETERS.validate_python(given_in(given))
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


async def read_raw(request: Request) -> bytes:
    """The whole body; `request.body()` would be kept beside it, and joining one chunk with nothing would copy it."""
    return b"".join([chunk async for chunk in request.stream() if chunk])


def parse_json(raw: bytes) -> Any:
    """The value that the JSON is. Raises `BadJson`."""
    try:
        return from_json(raw)
    except ValueError as error:
        raise BadJson(f"The body is not valid JSON: {error}.") from error


def from_base64(text: str) -> bytes:
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


async def read_form(request: Request, max_files: int | None = None) -> FormData:
    """The parts of a multipart body, to be closed by the caller; the files are in memory.

    Raises:
        BadForm: it is none, or ends before its end.
        TooManyImages: it has more than `max_files` files.
    """
    parser = _InMemory(request.headers, request.stream(), max_files=max_files or _MAX_PARTS, max_fields=_MAX_PARTS)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if max_files is not None and parser._current_files > max_files:
            raise too_many_images(parser._current_files, max_files) from error
        raise BadForm(f"The form cannot be read: {error.message}") from error
    if parser.begun and not parser.ended:
        for file in parser._files_to_close_on_error:  # the part that was cut off is not in the form yet
            file.close()
        raise BadForm("The form ends before its closing boundary.")
    return form


def too_many_images(count: int, limit: int) -> TooManyImages:
    """The refusal of a batch of so many images."""
    return TooManyImages(
        f"The batch holds at least {count:,} images; {limit:,} are accepted.", limit=limit, value=count
    )


def is_unfilled(value: UploadFile | str) -> bool:
    """Whether this is what a browser sends for a file input in which nothing was chosen."""
    return isinstance(value, UploadFile) and not value.filename and not value.size
