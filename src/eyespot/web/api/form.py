"""Multipart bodies (RFC 7578), parsed in memory as they arrive."""

from collections import deque
from collections.abc import AsyncIterable, Callable
from typing import TypeVar

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header

from eyespot.errors import BadForm, NoImage, Refusal, SeveralImages, TooManyImages
from eyespot.web.api.image import Item

_MAX_PARTS = 100  # besides the images of a batch
_FILE_FIELDS = (b"file", b"image")
_CONFIG = {"MAX_MEMORY_FILE_SIZE": float("inf")}  # no temporary files: the container's root is read-only

P = TypeVar("P", Field, File)


async def read_form(
    content_type: str, chunks: AsyncIterable[bytes], max_images: int | None
) -> tuple[deque[Item], dict[str, str]]:
    """The files of a batch of at most `max_images`, or else the one file, and the fields.

    Raises `BadForm`, or `NoImage`, `SeveralImages`, `TooManyImages`.
    """
    files, fields, complete = list[File](), list[Field](), False
    add_file = _adder(files, max_images or _MAX_PARTS, TooManyImages if max_images else BadForm)
    add_field = _adder(fields, _MAX_PARTS, BadForm)

    def end() -> None:
        nonlocal complete
        complete = True

    boundary = parse_options_header(content_type)[1].get(b"boundary")
    try:
        parser = FormParser("multipart/form-data", add_field, add_file, end, boundary, config=_CONFIG)
        async for chunk in chunks:
            parser.write(chunk)
    except FormParserError as error:
        raise BadForm(f"The form cannot be parsed: {error}") from error
    if parser.bytes_received and not complete:
        raise BadForm("The form ends before its closing boundary.")
    items = deque(
        Item(index, file.file_object.getvalue(), _text(file.file_name))  # type: ignore[union-attr]
        for index, file in enumerate(_images(files, fields, single=max_images is None))
    )
    return items, {_text(field.field_name): _text(field.value) for field in fields}


def _adder(parts: list[P], most: int, refusal: type[Refusal]) -> Callable[[P], None]:
    def add(part: P) -> None:
        parts.append(part)
        if len(parts) > most:
            kind = type(part).__name__.lower()
            raise refusal(f"The form has more than {most:,} {kind}s.", limit=most, value=len(parts))

    return add


def _images(files: list[File], fields: list[Field], single: bool) -> list[File]:
    # A browser sends a file input in which nothing was chosen as a file without a name and without bytes.
    chosen = [file for file in files if file.file_name or file.size]
    if single:
        if len(chosen) > 1:
            raise SeveralImages(f"The form has {len(chosen)} files; send one.", limit=1, value=len(chosen))
        chosen = [file for file in chosen if file.field_name in _FILE_FIELDS]
    if chosen:
        return chosen
    names = [file.field_name for file in files] + [field.field_name for field in fields]
    held = ", ".join(sorted({repr(_text(name)[:40]) for name in names})) or "nothing"
    raise NoImage(f"No file was sent as `file` or `image`; the form has {held}. curl needs the @: -F file=@cat.jpg")


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")  # browsers and curl send UTF-8
