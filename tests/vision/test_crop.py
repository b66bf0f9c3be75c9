"""The orientation is found wherever Pillow finds it."""

import io
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eyespot.vision import preprocess
from eyespot.vision.crop import orientation
from tests import makers
from tests.serving import RECIPE

XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def exif(value: int, order: str = "<", kind: int = 3) -> bytes:
    """One tag before it and one after it."""
    packed = struct.pack(order + ("H2x" if kind == 3 else "I"), value)
    start = struct.pack(order + "2sHIH", b"II" if order == "<" else b"MM", 42, 8, 3)
    others = [struct.pack(order + "HHI4s", tag, 3, 1, bytes(4)) for tag in (0x100, 0x128)]
    return start + others[0] + struct.pack(order + "HHI", 0x112, kind, 1) + packed + others[1] + bytes(4)


@pytest.mark.parametrize("value", makers.ORIENTATIONS)
@pytest.mark.parametrize("order", ["<", ">"], ids=["Intel", "Motorola"])
@pytest.mark.parametrize("kind", [3, 4], ids=["short", "long"])
def test_exif_of_either_byte_order(value: int, order: str, kind: int) -> None:
    for prefix in (b"", b"Exif\0\0", b"Exif\0\0Exif\0\0"):
        assert orientation(prefix + exif(value, order, kind), b"") == value


@pytest.mark.parametrize("xmp", [XMP, b"<tiff:Orientation>6</tiff:Orientation>"], ids=["attribute", "element"])
def test_xmp_counts_when_exif_says_nothing(xmp: bytes) -> None:
    assert orientation(b"", xmp) == 6
    assert orientation(makers.tiff(3), xmp) == 6
    assert orientation(exif(3), xmp) == 3


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"II",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0",
        exif(9),
        exif(0),
        exif(6)[:20],
        b"PK" + exif(6)[2:],
        b"II+" + exif(6)[3:],
    ],
)
def test_an_invalid_orientation_is_upright(broken: bytes) -> None:
    assert orientation(broken, b"") == 1


@given(st.binary(max_size=300), st.binary(max_size=100))
def test_any_bytes_are_an_orientation(exif: bytes, xmp: bytes) -> None:
    assert 1 <= orientation(b"II*\0\x08\0\0\0" + exif, xmp) <= 8


def jpeg(part: bytes) -> bytes:
    return makers.with_part(makers.jpeg(), b"\xff\xdb", part)


def png(part: bytes, after: bool = False) -> bytes:
    data = makers.encode(makers.photograph(), "PNG", compress_level=1)
    return data[:-12] + part + data[-12:] if after else makers.with_chunks(data, part)


def raw_profile(data: bytes) -> bytes:
    return f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()


TURNED = {
    "JPEG, EXIF": jpeg(makers.segment(0xE1, b"Exif\0\0" + exif(6))),
    "JPEG, EXIF in two segments": jpeg(
        makers.segment(0xE1, b"Exif\0\0" + struct.pack("<2sHI", b"II", 42, 65_008) + bytes(65_000))
        + makers.segment(0xE1, b"Exif\0\0" + exif(6)[8:])
    ),
    "JPEG, XMP": jpeg(makers.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
    "PNG, EXIF": png(makers.chunk(b"eXIf", exif(6))),
    "PNG, EXIF at the end": png(makers.chunk(b"eXIf", exif(6)), after=True),
    "PNG, EXIF in text": png(makers.chunk(b"tEXt", b"Raw profile type exif\0" + raw_profile(exif(6)))),
    "PNG, EXIF in packed text": png(
        makers.chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(b"Exif\0\0" + exif(6)))),
        after=True,
    ),
    "PNG, XMP": png(makers.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
    "PNG, packed XMP": png(makers.chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0name\0" + zlib.compress(XMP))),
    "WebP, EXIF": makers.encode(makers.photograph(), "WEBP", lossless=True, method=0, exif=exif(6)),
    "WebP, XMP": makers.encode(makers.photograph(), "WEBP", lossless=True, method=0, xmp=XMP),
}


@pytest.mark.parametrize("name", TURNED)
def test_every_place_is_read_as_pillow_reads_it(name: str) -> None:
    data = TURNED[name]
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif().get(0x0112) == 6
    result = preprocess.preprocess(data, RECIPE)
    assert (result.width, result.height) == makers.photograph().size[::-1]


@pytest.mark.parametrize(
    "part",
    [
        makers.chunk(b"zTXt", b"Raw profile type exif\0\0" + b"no zlib stream"),
        makers.chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\n\n\nno hexadecimal digits")),
        makers.chunk(b"tEXt", b"Raw profile type exif\0"),
        makers.chunk(b"iTXt", b"XML:com.adobe.xmp\0"),
        makers.chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + b"no zlib stream"),
    ],
)
def test_damaged_text_does_not_matter(part: bytes) -> None:
    assert preprocess.preprocess(png(part), RECIPE).width == 451
