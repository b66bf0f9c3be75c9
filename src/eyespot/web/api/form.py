"""Multipart bodies (RFC 7578), parsed in memory as they arrive."""

from collections import deque
from collections.abc import AsyncIterable

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header

from eyespot.errors import BadForm, NoImage, SeveralImages, TooManyImages
from eyespot.web.api.image import Item

_MAX_PARTS = 100  # besides the images of a batch
_FILE_FIELDS = (b"file", b"image")
_CONFIG = {"MAX_MEMORY_FILE_SIZE": float("inf")}  # no temporary files: the container's root is read-only


class _Parts:
    """What `FormParser` found so far."""

    def __init__(self, max_images: int | None) -> None:
        self.files: list[File] = []
        self.fields: list[Field] = []
        self.complete = False
        self._max_images = max_images

    def add_file(self, file: File) -> None:
        self.files.append(file)
        most = _MAX_PARTS if self._max_images is None else self._max_images
        if len(self.files) > most:
            kind = BadForm if self._max_images is None else TooManyImages
            raise kind(f"The form has more than {most:,} files.", limit=most, value=len(self.files))

    def add_field(self, field: Field) -> None:
        self.fields.append(field)
        if len(self.fields) > _MAX_PARTS:
            raise BadForm(f"The form has more than {_MAX_PARTS} fields.", limit=_MAX_PARTS, value=len(self.fields))

    def end(self) -> None:
        self.complete = True


async def read_form(
    content_type: str, chunks: AsyncIterable[bytes], max_images: int | None
) -> tuple[deque[Item], dict[str, str]]:
    """The files of a batch of at most `max_images`, or else the one file, and the fields.

    Raises:
        BadForm: it cannot be parsed, or stops before its closing boundary.
        NoImage, SeveralImages, TooManyImages: it has no file, or too many.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    parts = _Parts(max_images)
    try:
        parser = FormParser("multipart/form-data", parts.add_field, parts.add_file, parts.end, boundary, config=_CONFIG)
        async for chunk in chunks:
            parser.write(chunk)
    except FormParserError as error:
        raise BadForm(f"The form cannot be parsed: {error}") from error
    if parser.bytes_received and not parts.complete:
        raise BadForm("The form ends before its closing boundary.")
    files = _chosen(parts, single=max_images is None)
    items = deque(
        Item(index, file.file_object.getvalue(), _text(file.file_name))  # type: ignore[union-attr]
        for index, file in enumerate(files)
    )
    return items, {_text(field.field_name): _text(field.value) for field in parts.fields}


def _chosen(parts: _Parts, single: bool) -> list[File]:
    # A browser sends a file input in which nothing was chosen as a file without a name and without bytes.
    files = [file for file in parts.files if file.file_name or file.size]
    if single:
        if len(files) > 1:
            raise SeveralImages(f"The form has {len(files)} files; send one.", limit=1, value=len(files))
        files = [file for file in files if file.field_name in _FILE_FIELDS]
    if files:
        return files
    if any(field.field_name in _FILE_FIELDS for field in parts.fields):
        raise NoImage("The form's image is text, not a file: with curl, write -F file=@cat.jpg, with the @.")
    if any(not file.file_name for file in parts.files):
        raise NoImage("No file was chosen in the form.")
    names = [file.field_name for file in parts.files] + [field.field_name for field in parts.fields]
    held = ", ".join(sorted({repr(_text(name)[:40]) for name in names})) or "nothing"
    raise NoImage(f"The form has no file part called `file` or `image`; it has {held}.")


def _text(value: bytes | None) -> str:
    """UTF-8, which browsers and curl send, whatever charset the request names."""
    try:
        return (value or b"").decode()
    except UnicodeDecodeError:
        return (value or b"").decode("latin-1")
