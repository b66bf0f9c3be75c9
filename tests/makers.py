"""Images made here rather than kept as files."""

import io
import struct
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def photograph(name: str = "chelsea") -> Image.Image:
    """A photograph that scikit-image ships: chelsea (a cat), coffee, rocket, astronaut, cat …"""
    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")


@cache
def jpeg(name: str = "chelsea", **options: object) -> bytes:
    return encode(photograph(name), "JPEG", quality=90, **options)


def flat(size: tuple[int, int] = (64, 48), color: object = (200, 30, 90), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, color)


def texture(kind: int, number: int, side: int = 96) -> Image.Image:
    """One of 20 kinds of stripes, by direction and width; in each image they have other colours, a turn and noise."""
    random = np.random.default_rng([kind, number])
    angle = np.pi * (kind % 5) / 5 + random.normal(0, 0.1)
    width = 4 * 1.7 ** (kind // 5) * random.uniform(0.85, 1.15)
    y, x = np.mgrid[:side, :side]
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / width + random.uniform(0, 6))
    colors = random.uniform(0, 255, (2, 3))
    mixed = np.where(wave[..., None] > 0, colors[0], colors[1]) + random.normal(0, 40, (side, side, 3))
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def textures(folder: Path, kinds: int, numbers: Iterable[int]) -> Path:
    """A folder with a subfolder of images for each kind."""
    for kind in range(kinds):
        (folder / f"stripes {kind}").mkdir(parents=True, exist_ok=True)
        for number in numbers:
            (folder / f"stripes {kind}" / f"{number}.png").write_bytes(encode(texture(kind, number), "PNG"))
    return folder


ORIENTATIONS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def turned(image: Image.Image, orientation: int, kind: str = "JPEG", **options: object) -> bytes:
    """The image stored turned, with the EXIF orientation that turns it upright again."""
    turn = ORIENTATIONS[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image if turn is None else image.transpose(turn), kind, exif=exif, **options)


def png_claiming(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG whose header claims a size that its data does not have."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = body or zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes = b"") -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def riff(name: bytes, data: bytes = b"") -> bytes:
    """A chunk of a WebP."""
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def segment(marker: int, data: bytes = b"") -> bytes:
    """A segment of a JPEG, up to 65,533 bytes."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def with_part(data: bytes, before: bytes, part: bytes) -> bytes:
    """A JPEG with `part` before the first `before`."""
    place = data.index(before)
    return data[:place] + part + data[place:]


def with_chunks(data: bytes, chunks: bytes) -> bytes:
    """A PNG with those chunks after its header."""
    return data[:33] + chunks + data[33:]


def tiff(tags: int, kind: int = 3, count: int = 1, value: int = 0, order: str = "<") -> bytes:
    """EXIF of that many tags, from 1 on, all of one kind and with one value, which may be an offset."""
    entries = (struct.pack(f"{order}HHII", tag, kind, count, value) for tag in range(1, tags + 1))
    start = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, tags)
    return start + b"".join(entries) + bytes(4)


def not_interleaved(size: tuple[int, int]) -> bytes:
    """A baseline JPEG in three scans, each of one component."""
    grey = encode(flat(size, 99, "L"))
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    header = grey[:frame] + segment(0xC0, grey[frame + 4 : frame + 9] + b"\x03" + components) + grey[frame + 13 : scan]
    scans = (grey[scan : scan + 5] + bytes([number]) + grey[scan + 6 : -2] for number in (1, 2, 3))
    return header + b"".join(scans) + b"\xff\xd9"


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated until there are `count` more."""
    data = encode(photograph().resize((64, 64)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * count + b"\xff\xd9"


def many_segments(count: int) -> bytes:
    """A JPEG with that many empty comments before the image."""
    data = encode(flat())
    return data[:2] + b"\xff\xfe\x00\x02" * count + data[2:]


def sixteen_bit() -> bytes:
    grey = np.asarray(photograph().convert("L")).astype(np.uint16) * 257
    return encode(Image.fromarray(grey), "PNG")


def animated(kind: str = "WEBP") -> bytes:
    frames = [photograph(), flat(photograph().size), flat(photograph().size, (0, 0, 255))]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


def mpo() -> bytes:
    return encode(photograph(), "MPO", save_all=True, append_images=[flat(photograph().size)], quality=90)


def strip(width: int = 60000, height: int = 8) -> bytes:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, width, dtype=np.uint8)
    return encode(Image.fromarray(pixels), "PNG")


def others() -> dict[bytes, str]:
    """What else people send as an image, and what a refusal calls it."""
    small = flat()
    return {
        encode(small, "GIF"): "a GIF",
        encode(small, "BMP"): "a BMP",
        encode(small, "TIFF"): "a TIFF",
        encode(small, "PDF"): "a PDF",
        encode(small, "AVIF"): "an AVIF image",
        encode(small, "PNG").replace(b"\r\n", b"\n"): "a damaged PNG",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "a HEIC image",
        b"\0\0\0\x18ftypqt  \0\0\0\0qt  ": "a video",
        b"\xff\x0a\xfa\x1f\x01": "a JPEG XL image",
        b"\0\0\0\x0cJXL \r\n\x87\n": "a JPEG XL image",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>': "an SVG",
        b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg/>': "an SVG",
        b"<!doctype html><title>404</title>": "an HTML page",
    }
