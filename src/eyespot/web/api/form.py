"""Multipart bodies (RFC 7578), parsed in memory as they arrive."""

from collections import deque
from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from eyespot.errors import BadForm, NoImage, SeveralImages, TooManyImages
from eyespot.web.api.image import Item

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_PARTS = 100  # besides the images of a batch
_FILE_FIELDS = ("file", "image")


@dataclass(slots=True)
class Part:
    """One part: a file when it has a filename, else a field."""

    name: str
    filename: str | None
    chunks: list[bytes] = field(default_factory=list)

    def take(self) -> bytes:
        """The content, which the part then no longer holds."""
        content = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks.clear()
        return content


class _Parts:
    """The callbacks of one `MultipartParser`."""

    def __init__(self, max_images: int | None) -> None:
        self.parts: list[Part] = []
        self.open = False  # within a part, or between two
        self._max_images = max_images
        self._files = 0
        self._header, self._value, self._disposition = b"", b"", b""

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self.open, self._disposition = True, b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise BadForm("A part of the form has no name in its Content-Disposition header.")
        filename = _text(options[b"filename"]) if b"filename" in options else None
        self._files += filename is not None
        if self._max_images is not None and self._files > self._max_images:
            detail = f"The batch has more than {self._max_images:,} images."
            raise TooManyImages(detail, limit=self._max_images, value=self._files)
        if len(self.parts) - self._files * (self._max_images is not None) >= _MAX_PARTS:
            raise BadForm(f"The form has more than {_MAX_PARTS} parts.", limit=_MAX_PARTS)
        self.parts.append(Part(_text(options[b"name"]), filename))

    def _data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].chunks.append(data[start:end])

    def _end(self) -> None:
        self.open = False


def _text(value: bytes) -> str:
    """UTF-8, which browsers and curl send, whatever charset the request names."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


async def read_form(
    content_type: str, chunks: AsyncIterable[bytes], max_images: int | None
) -> tuple[deque[Item], dict[str, str]]:
    """The files of a batch of at most `max_images`, or else the one file, and the fields.

    Raises:
        BadForm: it cannot be parsed, or stops before its closing boundary.
        NoImage, SeveralImages, TooManyImages: it has no file, or too many.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadForm("The Content-Type of the form has no boundary.")
    found = _Parts(max_images)
    try:
        parser = MultipartParser(boundary, found.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
    except FormParserError as error:
        raise BadForm(f"The form cannot be parsed: {error}") from error
    if found.open:
        raise BadForm("The form ends before its closing boundary.")
    files = _files(found.parts, single=max_images is None)
    fields = {part.name: part.take().decode(errors="replace") for part in found.parts if part.filename is None}
    return deque(Item(index, part.take(), part.filename) for index, part in enumerate(files)), fields


def _files(parts: list[Part], single: bool) -> list[Part]:
    # A browser sends a file input in which nothing was chosen as a file without a name and without bytes.
    files = [part for part in parts if part.filename or (part.filename is not None and any(part.chunks))]
    if single:
        if len(files) > 1:
            raise SeveralImages(f"The form has {len(files)} files; send one.", limit=1, value=len(files))
        files = [part for part in files if part.name in _FILE_FIELDS]
    if files:
        return files
    if any(part.name in _FILE_FIELDS and part.filename is None for part in parts):
        raise NoImage("The form's image is text, not a file: with curl, write -F file=@cat.jpg, with the @.")
    if any(part.filename == "" for part in parts):
        raise NoImage("No file was chosen in the form.")
    names = ", ".join(sorted({repr(part.name[:40]) for part in parts})) or "nothing"
    raise NoImage(f"The form has no file part called `file` or `image`; it has {names}.")
