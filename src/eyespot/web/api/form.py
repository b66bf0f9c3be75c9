"""Multipart bodies (RFC 7578), parsed in memory as they arrive."""

from collections import deque
from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from io import BytesIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from eyespot.errors import BadForm, NoImage, SeveralImages, TooManyImages
from eyespot.web.api.image import Item

_MAX_PARTS = 100  # besides the images of a batch
_FILE_FIELDS = ("file", "image")


@dataclass(slots=True)
class _Part:
    name: str
    filename: str | None  # None: a field
    # Grows in one block: a list of pieces would leave holes all over the heap.
    content: BytesIO = field(default_factory=BytesIO)

    def take(self) -> bytes:
        content, self.content = self.content.getvalue(), BytesIO()
        return content


class _Parts:
    """The callbacks of `MultipartParser`, and the parts that it found.

    Not the library's `FormParser`: it decodes a part with Content-Transfer-Encoding, wrongly when it is wrapped, and a
    reference cycle keeps every form in memory until the garbage collector runs.
    """

    def __init__(self, max_images: int | None) -> None:
        self.parts: list[_Part] = []
        self.complete = True  # False from the first part to the closing boundary
        self._max_images = max_images
        self._files = 0
        self._header, self._value, self._disposition = b"", b"", b""

    def on_part_begin(self) -> None:
        self.complete, self._disposition = False, b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise BadForm("A part of the form has no name in its Content-Disposition header.")
        filename = options.get(b"filename")
        self.parts.append(_Part(_text(options[b"name"]), None if filename is None else _text(filename)))
        self._files += filename is not None
        if self._max_images and self._files > self._max_images:
            detail = f"The form has more than {self._max_images:,} files."
            raise TooManyImages(detail, limit=self._max_images, value=self._files)
        if len(self.parts) - self._files * bool(self._max_images) > _MAX_PARTS:
            raise BadForm(f"The form has more than {_MAX_PARTS} parts.", limit=_MAX_PARTS)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].content.write(memoryview(data)[start:end])

    def on_end(self) -> None:
        self.complete = True


async def read_form(
    content_type: str, chunks: AsyncIterable[bytes], max_images: int | None
) -> tuple[deque[Item], dict[str, str]]:
    """The files of a batch of at most `max_images`, or else the one file, and the fields.

    Raises `BadForm`, or `NoImage`, `SeveralImages`, `TooManyImages`.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadForm("The Content-Type of the form has no boundary.")
    found = _Parts(max_images)
    callbacks = {name: getattr(found, name) for name in vars(_Parts) if name.startswith("on_")}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        async for chunk in chunks:
            parser.write(chunk)
    except FormParserError as error:
        raise BadForm("The body is not a form with the boundary of its Content-Type.") from error
    if not found.complete:
        raise BadForm("The form ends before its closing boundary.")
    images = _images(found.parts, single=max_images is None)
    items = deque(Item(index, part.take(), part.filename) for index, part in enumerate(images))
    return items, {part.name: _text(part.take()) for part in found.parts if part.filename is None}


def _images(parts: list[_Part], single: bool) -> list[_Part]:
    # A browser sends a file input in which nothing was chosen as a file without a name and without bytes.
    files = [part for part in parts if part.filename or (part.filename is not None and part.content.tell())]
    if single:
        if len(files) > 1:
            raise SeveralImages(f"The form has {len(files)} files; send one.", limit=1, value=len(files))
        files = [part for part in files if part.name in _FILE_FIELDS]
    if files:
        return files
    if any(part.filename is None and part.name in _FILE_FIELDS for part in parts):
        raise NoImage("The image is a text field, not a file; curl needs an @: -F file=@cat.jpg")
    names = ", ".join(sorted({repr(part.name[:40]) for part in parts})) or "nothing"
    expected = "no file part called `file` or `image`" if single else "no files"
    raise NoImage(f"The form has {expected}; it has {names}.")


def _text(value: bytes) -> str:
    return value.decode(errors="replace")  # browsers and curl send UTF-8
