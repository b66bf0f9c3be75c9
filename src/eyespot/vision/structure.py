"""The parts of an encoded image: its pixels, and the metadata that gives its orientation.

Pillow walks segments and chunks in Python, with the interpreter's lock held, and unpacks metadata that is never used.
So the parts are counted here first, and Pillow gets only those that make the pixels.
"""

import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from eyespot.errors import BrokenImage, Refusal, TooManyScans

MAX_SCANS = 100
MAX_SEGMENTS = 1_000  # of a JPEG; a camera writes tens
MAX_TABLE_BYTES = 128 * 1024  # of a JPEG before its first scan, which Pillow reads in Python; cameras write 1 kB
MIN_CHUNK_BYTES = 256  # mean size of a PNG's or WebP's chunks beyond the first thousand; encoders write kilobytes
MAX_TEXT_BYTES = 1024 * 1024  # of a PNG's text

_SOI, _EOI, _SOS, _APP1, _COM = 0xD8, 0xD9, 0xDA, 0xE1, 0xFE
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# Without APP0 (JFIF) and APP14 (Adobe), from which libjpeg takes the colour space.
_JPEG_METADATA = {_SOI, _EOI, _COM, *range(_APP1, 0xEE), 0xEF}
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"

_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_RAW_EXIF, _PNG_XMP = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"  # the first is ImageMagick's


@dataclass(frozen=True, slots=True)
class Parts:
    """An encoded image taken apart.

    `pixels` is the encoded image without metadata; `coefficients` is what a JPEG decoder holds, 0 if row by row.
    """

    pixels: bytes
    exif: bytes = b""
    xmp: bytes = b""
    coefficients: int = 0


def take_apart(kind: str, data: bytes) -> Parts:
    """The parts of an image; a format that is unknown here is one part. Takes time and memory proportional to `data`.

    Raises `TooManyScans` or `BrokenImage`, and `struct.error` or `IndexError` if it is cut off.
    """
    return _TAKE_APART.get(kind, Parts)(data)


class _Segment(NamedTuple):
    """A segment of a JPEG, from its marker up to any entropy-coded data."""

    marker: int
    start: int
    end: int


def _jpeg(data: bytes) -> Parts:
    segments = _segments(data)
    first = next((index for index, segment in enumerate(segments) if segment.marker == _SOS), None)
    if first is None:
        raise BrokenImage("The JPEG ends before its first scan.")
    header, scan = segments[:first], segments[first]
    tables = b"".join(data[start:end] for marker, start, end in header if marker not in _JPEG_METADATA)
    _check(len(tables), MAX_TABLE_BYTES, "JPEG", "bytes of tables before its first scan")
    end = segments[-1].end if segments[-1].marker == _EOI else len(data)
    app1 = [data[start + 4 : stop] for marker, start, stop in header if marker == _APP1]
    return Parts(
        pixels=b"".join((b"\xff\xd8", tables, data[scan.start : end])),
        # EXIF of more than 64 kB takes several segments.
        exif=b"".join(part.removeprefix(_EXIF) for part in app1 if part.startswith(_EXIF)),
        xmp=next((part.removeprefix(_XMP) for part in reversed(app1) if part.startswith(_XMP)), b""),
        coefficients=_coefficients(data, header, scan),
    )


def _segments(data: bytes) -> list[_Segment]:
    """The segments of the first image in a JPEG, as libjpeg finds them."""
    # All markers except restarts (ITU-T T.81, table B.1). libjpeg knows none below \xc0; if TEM counted as one, its
    # length could hide scans. Found with numpy because 5 MB can hold millions of stuffed zeros, for which a regular
    # expression held the interpreter's lock for 40 ms.
    octets = np.frombuffer(data, np.uint8)
    starts = np.flatnonzero(octets[:-1] == 0xFF)
    second = octets[starts + 1]
    markers = memoryview(starts[(second >= 0xC0) & (second != 0xFF) & (second & 0xF8 != 0xD0)])
    segments: list[_Segment] = []
    index, position, scans = 0, 2, 0
    while (index := bisect_left(markers, position, index)) < len(markers):
        start = markers[index]
        marker, position = data[start + 1], start + 2
        if marker not in (_SOI, _EOI):
            position += max(2, int.from_bytes(data[position : position + 2]))
        segments.append(_Segment(marker, start, position))
        scans += marker == _SOS
        _check(scans, MAX_SCANS, "JPEG", "scans", TooManyScans)
        _check(len(segments), MAX_SEGMENTS, "JPEG", "segments")
        if marker == _EOI and scans:
            break
    return segments


def _coefficients(data: bytes, header: list[_Segment], scan: _Segment) -> int:
    """The DCT coefficients that libjpeg holds: all, unless the first scan is the whole image (ITU-T T.81, A.2)."""
    frame = next((segment for segment in header if segment.marker in _SOF), None)
    if frame is None:
        raise BrokenImage("The JPEG has no frame header before its first scan.")
    height, width, components = struct.unpack_from(">HHB", data, frame.start + 5)
    if frame.marker not in _PROGRESSIVE and data[scan.start + 4] >= components:
        return 0
    sampling = [divmod(data[frame.start + 11 + 3 * index], 16) for index in range(components)]
    widest, highest = (max(1, *factors) for factors in zip(*sampling, strict=True))
    mcus: int = -(-width // (8 * widest)) * -(-height // (8 * highest))  # whole ones
    return 64 * mcus * sum(horizontal * vertical for horizontal, vertical in sampling)


def _png(data: bytes) -> Parts:
    pixels, exif, texts = [data[:8]], b"", {}
    position, count, kind = 8, 0, b""
    while position + 8 <= len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        body, position = position + 8, position + 12 + length
        count += 1
        _check(count, _max_chunks(data), "PNG", "chunks")
        if kind in _PNG_PIXELS:
            pixels.append(data[body - 8 : position])
        elif kind == b"eXIf":
            exif = data[body : body + length]
        elif kind in _PNG_TEXTS and data.startswith((_RAW_EXIF, _PNG_XMP), body):
            keyword, text = data[body : body + length].split(b"\0", 1)
            texts[keyword + b"\0"] = (kind, text)
    return Parts(
        b"".join(pixels),
        exif or _raw_exif(_text(*texts.get(_RAW_EXIF, (b"", b"")))),
        _text(*texts.get(_PNG_XMP, (b"", b""))),
    )


def _text(kind: bytes, body: bytes) -> bytes:
    """The text of a chunk, from after its keyword (PNG specification, 11.3.3); empty if it is damaged."""
    packed = kind == b"zTXt" or (kind == b"iTXt" and body[:1] == b"\1")
    if kind == b"iTXt":
        body = body[2:].split(b"\0", 2)[-1]  # after the language and the translated keyword
    elif kind == b"zTXt":
        body = body[1:]
    if not packed:
        return body[:MAX_TEXT_BYTES]
    try:
        return zlib.decompressobj().decompress(body, MAX_TEXT_BYTES)
    except zlib.error:
        return b""


def _raw_exif(text: bytes) -> bytes:
    """EXIF from a text by ImageMagick: a blank line, a name, a length, then lines of hexadecimal digits."""
    try:
        return bytes.fromhex(text.decode("latin-1").split("\n", 3)[-1])
    except ValueError:
        return b""


def _webp(data: bytes) -> Parts:
    """One part: libwebp's demuxer is quick. But it allocates memory for each chunk, so they are counted."""
    end = 8 + int.from_bytes(data[4:8], "little")
    position, count = 12, 0
    while position + 8 <= min(end, len(data)):
        position += 8 + (int.from_bytes(data[position + 4 : position + 8], "little") + 1 & ~1)
        count += 1
        _check(count, _max_chunks(data), "WebP", "chunks")
    return Parts(data)


def _max_chunks(data: bytes) -> int:
    return MAX_SEGMENTS + len(data) // MIN_CHUNK_BYTES


def _check(value: int, limit: int, kind: str, parts: str, refusal: type[Refusal] = BrokenImage) -> None:
    if value > limit:
        raise refusal(f"The {kind} has more than {limit:,} {parts}.", limit=limit, value=value)


_TAKE_APART: dict[str, Callable[[bytes], Parts]] = {"jpeg": _jpeg, "png": _png, "webp": _webp}
