"""The parts of any file are walked in bounded time."""

import contextlib
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from eyespot.errors import BrokenImage, Refusal, TooManyScans
from eyespot.vision import preprocess
from eyespot.vision.structure import take_apart
from tests import makers
from tests.serving import RECIPE

MB_5 = 5_000_000
SMALL = makers.photograph().resize((64, 64))
JPEG, PNG = makers.encode(SMALL), makers.encode(SMALL, "PNG")
PROGRESSIVE = makers.encode(SMALL, progressive=True)
WEBP = makers.encode(SMALL, "WEBP", lossless=True)[12:]  # its one chunk
CANVAS = (63).to_bytes(3, "little") * 2
FRAME = makers.riff(b"ANMF", bytes(6) + CANVAS + bytes(4) + WEBP)
MEGABYTE = zlib.compress(bytes(2**20), 9)

JPEG_PLACES = {
    "before the frame": (JPEG, 2),
    "before the scan": (JPEG, JPEG.index(b"\xff\xda")),
    "in the scan": (JPEG, JPEG.index(b"\xff\xda") + 100),
    "between scans": (PROGRESSIVE, PROGRESSIVE.index(b"\xff\xc4", PROGRESSIVE.index(b"\xff\xda"))),
    "at the end": (JPEG, len(JPEG) - 2),
    "after the end": (JPEG, len(JPEG)),
}
JPEG_PARTS = {
    "fill bytes": b"\xff",
    "stuffed zeros": b"\xff\0",
    "fill and zero": b"\xff\xff\0",
    "restarts": b"\xff\xd0",
    "TEM": b"\xff\x01",
    "starts": b"\xff\xd8",
    "ends": b"\xff\xd9",
    "JPG0": b"\xff\xf0",
    "zeros": b"\0",
    "empty comments": makers.segment(0xFE),
    "comments without a length": b"\xff\xfe\0\0",
    "comments of 64 kB": makers.segment(0xFE, bytes(65_533)),
    "EXIF": makers.segment(0xE1, b"Exif\0\0" + bytes(500)),
    "EXIF of 64 kB": makers.segment(0xE1, b"Exif\0\0" + makers.tiff(5400)),
    "XMP": makers.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + bytes(500)),
    "colour profiles": makers.segment(0xE2, b"ICC_PROFILE\0\x01\x01" + bytes(500)),
    "Photoshop resources": makers.segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\0" * 5000),
    "quantization tables": makers.segment(0xDB, (b"\0" + b"\1" * 64) * 1008),
    "Huffman tables": makers.segment(0xC4, (b"\0" + bytes(16)) * 3800),
    "restart intervals": makers.segment(0xDD, b"\0\x08"),
    "frames": makers.segment(0xC0, JPEG[JPEG.index(b"\xff\xc0") + 4 :][:15]),
    "scans": PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2],
}
PNG_PLACES = {"before the pixels": 33, "before the end": len(PNG) - 12, "after the end": len(PNG)}
PNG_PARTS = {
    "empty chunks": makers.chunk(b"abCd"),
    "text": makers.chunk(b"tEXt", b"a\0"),
    "packed text": makers.chunk(b"zTXt", b"a\0\0" + MEGABYTE),
    "packed text without a keyword": makers.chunk(b"zTXt", b"\0\0" + MEGABYTE),
    "packed XMP": makers.chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + MEGABYTE),
    "packed EXIF": makers.chunk(b"zTXt", b"Raw profile type exif\0\0" + MEGABYTE),
    "EXIF in short lines": makers.chunk(b"tEXt", b"Raw profile type exif\0" + b"ab\n" * 1_600_000),
    "colour profiles": makers.chunk(b"iCCP", b"a\0\0" + MEGABYTE),
    "EXIF": makers.chunk(b"eXIf", makers.tiff(5400)),
    "empty pixels": makers.chunk(b"IDAT"),
    "palettes": makers.chunk(b"PLTE", bytes(3)),
    "frames": makers.chunk(b"acTL", struct.pack(">II", 2, 0)),
    "zeros": b"\0",
}
WEBP_PARTS = {
    "empty chunks": makers.riff(b"abcd"),
    "EXIF": makers.riff(b"EXIF"),
    "frames": makers.riff(b"ANMF", bytes(16) + makers.encode(SMALL.resize((1, 1)), "WEBP", lossless=True)[12:]),
    "zeros": b"\0",
}


def webp(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def hostile() -> dict[str, bytes]:
    """Images with 5 MB of one kind of part."""
    images = {}
    for where, (data, place) in JPEG_PLACES.items():
        for what, part in JPEG_PARTS.items():
            images[f"JPEG: {what} {where}"] = data[:place] + part * (MB_5 // len(part)) + data[place:]
    for where, place in PNG_PLACES.items():
        for what, part in PNG_PARTS.items():
            images[f"PNG: {what} {where}"] = PNG[:place] + part * (MB_5 // len(part)) + PNG[place:]
    for what, part in WEBP_PARTS.items():
        many, extended = part * (MB_5 // len(part)), makers.riff(b"VP8X", b"\x2c\0\0\0" + CANVAS)
        animated = makers.riff(b"VP8X", b"\x2e\0\0\0" + CANVAS) + makers.riff(b"ANIM", bytes(6)) + FRAME
        images |= {
            f"WebP: {what} before the pixels": webp(extended, many, WEBP),
            f"WebP: {what} after the pixels": webp(extended, WEBP, many),
            f"WebP: {what} in an animation": webp(animated, many),
            f"WebP: {what} after the end": webp(WEBP) + many,
        }
    return images


def cpu_seconds(data: bytes) -> float:
    begun = time.thread_time()
    with contextlib.suppress(Refusal):
        preprocess.preprocess(data, RECIPE)
    return time.thread_time() - begun


def test_5_mb_of_anything_are_refused_or_decoded_within_100_ms() -> None:
    """In CPU time of this thread; three times as much is allowed for slower machines."""
    images = hostile()
    assert len(images) > 170
    slow = {name for name, data in images.items() if cpu_seconds(data) > 0.3}
    assert {name for name in slow if cpu_seconds(images[name]) > 0.3} == set()


def test_thousands_of_tags_are_read_within_100_ms() -> None:
    tags = makers.tiff(65_535, kind=1, count=60_000)
    pieces = b"".join(makers.segment(0xE1, b"Exif\0\0" + tags[at : at + 65_000]) for at in range(0, len(tags), 65_000))
    assert cpu_seconds(JPEG[:2] + pieces + JPEG[2:]) < 0.3
    assert cpu_seconds(makers.with_chunks(PNG, makers.chunk(b"eXIf", tags))) < 0.3


@pytest.mark.parametrize("end", [b"", b"\x00", b"\xd0", b"\xff\x01"])
def test_a_run_of_fill_bytes_costs_nothing(end: bytes) -> None:
    """In a process that is killed after a minute, because quadratic code would take days and cannot be interrupted."""
    script = (
        "from eyespot.errors import BrokenImage; from eyespot.vision.structure import take_apart\n"
        f"try: take_apart('jpeg', b'\\xff\\xd8' + b'\\xff' * 5_000_000 + {end!r})\n"
        "except BrokenImage: pass"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_fill_bytes_before_a_marker_are_allowed() -> None:
    assert preprocess.preprocess(makers.with_part(makers.jpeg(), b"\xff\xdb", b"\xff" * 50), RECIPE).width == 451


def test_thousands_of_scans_are_refused() -> None:
    with pytest.raises(TooManyScans) as caught:
        preprocess.preprocess(makers.many_scans(3000), RECIPE)
    assert (caught.value.limit, caught.value.value) == (100, 101)


@pytest.mark.parametrize(
    "bait",
    [b"\xff\x01\xff\xff", b"\xff\xd0\xff\xff", b"\xff\x00\xff\xff", b"\xff\xff\xff", b"\xff\xd9\xff\xd8"],
    ids=["TEM", "restart", "stuffed zero", "fill", "an image of tables alone"],
)
def test_scans_cannot_hide(bait: bytes) -> None:
    """Behind a marker without a length, followed by what looks like 65,535 bytes; or behind an end of image."""
    data = makers.many_scans(150)  # 51 kB of them
    with pytest.raises(TooManyScans):
        preprocess.preprocess(makers.with_part(data, b"\xff\xda", bait), RECIPE)


def test_the_scans_of_an_ordinary_progressive_jpeg_are_few() -> None:
    data = makers.jpeg(progressive=True)
    assert 5 < data.count(b"\xff\xda") <= 12
    assert take_apart("jpeg", data).pixels.endswith(data[-1000:])


def test_scans_in_a_thumbnail_are_not_counted() -> None:
    comment = makers.segment(0xFE, b"\xff\xda" * 1000)
    for before in (b"\xff\xdb", b"\xff\xda"):
        assert preprocess.preprocess(makers.with_part(makers.jpeg(), before, comment), RECIPE).width == 451


def test_absurdly_many_segments_are_refused() -> None:
    data = makers.many_segments(1000)
    with pytest.raises(BrokenImage, match="segments") as caught:
        preprocess.preprocess(data, RECIPE)
    assert (caught.value.limit, caught.value.value) == (1000, 1001)
    assert preprocess.preprocess(makers.many_segments(900), RECIPE).width == 64


def test_absurdly_large_tables_are_refused() -> None:
    with pytest.raises(BrokenImage, match="tables") as caught:
        preprocess.preprocess(makers.with_part(JPEG, b"\xff\xc0", JPEG_PARTS["quantization tables"] * 3), RECIPE)
    assert caught.value.limit == 131_072
    assert caught.value.value > 3 * 65_000


@pytest.mark.parametrize("kind", ["PNG", "WebP"])
def test_absurdly_many_chunks_are_refused(kind: str) -> None:
    """More than 1,000 and one for every 256 bytes of the file."""

    def image(count: int) -> bytes:
        if kind == "PNG":
            return makers.with_chunks(PNG, makers.chunk(b"abCd") * count)
        return webp(makers.riff(b"VP8X", bytes(4) + CANVAS), WEBP, makers.riff(b"abcd") * count)

    assert preprocess.preprocess(image(990), RECIPE).width == 64
    with pytest.raises(BrokenImage, match="chunks") as caught:
        preprocess.preprocess(image(2000), RECIPE)
    assert caught.value.limit == 1000 + len(image(2000)) // 256
    assert caught.value.value == caught.value.limit + 1


@pytest.mark.parametrize("piece", [300, 4096, 8192])
def test_a_large_png_may_have_its_pixels_in_many_pieces(piece: int) -> None:
    """Encoders that write row by row make pieces of a few hundred bytes, libpng of 8 kB."""
    noise = np.random.default_rng(0).integers(0, 256, (1300, 1300, 3), np.uint8)
    whole = makers.encode(Image.fromarray(noise), "PNG")
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in noise), 1)
    pieces = b"".join(makers.chunk(b"IDAT", pixels[at : at + piece]) for at in range(0, len(pixels), piece))
    data = whole[:33] + pieces + makers.chunk(b"IEND")
    assert (preprocess.preprocess(data, RECIPE).pixels == preprocess.preprocess(whole, RECIPE).pixels).all()


def test_what_cameras_write_around_an_image_is_allowed() -> None:
    """EXIF with a thumbnail, a colour profile and a depth map of many segments, restarts, and a film after the end."""
    plain = makers.encode(makers.photograph(), quality=90, restart_marker_rows=1)
    exif = makers.segment(0xE1, b"Exif\0\0" + makers.tiff(60) + makers.jpeg(progressive=True)[:60_000])
    profile = b"".join(makers.segment(0xE2, b"ICC_PROFILE\0" + bytes([n, 9]) + bytes(65_000)) for n in range(1, 10))
    depth = makers.segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"\xff\xda\xff\xd9" * 16_000) * 20
    film = np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8).tobytes()
    full = plain[:2] + exif + profile + depth + plain[2:] + b"\0" * 1000 + plain + film
    assert (preprocess.preprocess(full, RECIPE).pixels == preprocess.preprocess(plain, RECIPE).pixels).all()


def test_damaged_metadata_does_not_matter_in_a_png() -> None:
    for damaged in (makers.chunk(b"cHRM"), makers.chunk(b"iCCP", b"a\0\1"), makers.chunk(b"tEXt", b"a")[:-1] + b"?"):
        data = makers.with_chunks(PNG, damaged)
        assert (preprocess.preprocess(data, RECIPE).pixels == preprocess.preprocess(PNG, RECIPE).pixels).all()


@pytest.mark.parametrize(
    ("data", "coefficients"),
    [
        (makers.jpeg(), 0),
        (makers.encode(makers.flat((64, 48)), progressive=True, subsampling="4:4:4"), 3 * 64 * 48),
        (makers.encode(makers.flat((64, 48)), progressive=True, subsampling="4:2:0"), 3 * 64 * 48 // 2),
        (makers.encode(makers.flat((65, 41)), progressive=True, subsampling="4:2:0"), 3 * 80 * 48 // 2),
        (makers.encode(makers.flat((65, 41)), progressive=True, subsampling="4:2:2"), 2 * 80 * 48),
        (makers.encode(makers.flat((65, 41), 0, "CMYK"), progressive=True), 4 * 72 * 48),
        (makers.encode(makers.flat((65, 41), 0, "L"), progressive=True), 72 * 48),
        (makers.not_interleaved((65, 41)), 3 * 72 * 48),
    ],
    ids=["baseline", "4:4:4", "4:2:0", "padded", "4:2:2", "CMYK", "grey", "not interleaved"],
)
def test_the_coefficients_in_memory_follow_from_the_header(data: bytes, coefficients: int) -> None:
    assert take_apart("jpeg", data).coefficients == coefficients
