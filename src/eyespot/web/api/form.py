"""Multipart bodies (RFC 7578), parsed in memory as they arrive."""

from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from eyespot.errors import BadForm, Refusal

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_FIELDS = 100


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

    def __init__(self, max_files: int, too_many_files: Refusal) -> None:
        self.parts: list[Part] = []
        self.open = False  # within a part, or between two
        self._max_files = max_files
        self._too_many_files = too_many_files
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
        if self._files > self._max_files:
            raise self._too_many_files
        if len(self.parts) - self._files >= _MAX_FIELDS:
            raise BadForm(f"The form has more than {_MAX_FIELDS} fields.", limit=_MAX_FIELDS)
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
    content_type: str, chunks: AsyncIterable[bytes], max_files: int, too_many_files: Refusal
) -> list[Part]:
    """The parts of a form, in order.

    Raises:
        BadForm: it cannot be parsed, or stops before its closing boundary.
        Refusal: `too_many_files`, when there are more than `max_files`.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadForm("The Content-Type of the form has no boundary.")
    found = _Parts(max_files, too_many_files)
    try:
        parser = MultipartParser(boundary, found.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
    except FormParserError as error:
        raise BadForm(f"The form cannot be parsed: {error}") from error
    if found.open:
        raise BadForm("The form ends before its closing boundary.")
    return found.parts
