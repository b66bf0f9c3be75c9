"""Encoded bytes become pixels here: format, parts, size, memory, decode, crop, RGB; `see` is the whole of it.

Nothing is decoded before the header is known to be safe, nothing is resized that the crop throws away, and whatever
the decoder raises on hostile bytes is `BrokenImage`.
"""

import math
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from eyespot.errors import BrokenImage, Refusal, TooManyPixels, TooMuchMemory, TooSmall, UnsupportedFormat
from eyespot.types import Recipe
from eyespot.vision.orientation import orientation
from eyespot.vision.structure import take_apart

Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]
Box = tuple[float, float, float, float]

FORMATS = ("jpeg", "png", "webp")
MAX_PIXELS = 25_000_000  # unless the caller says otherwise
MIN_SIDE = 4  # pixels

# Bytes that decoding may take for each pixel that is allowed. A progressive photograph without subsampling takes 6 for
# its coefficients, and its reduced bitmap. A WebP, which may have half the pixels, takes 12: two canvases and a copy.
_BYTES_PER_PIXEL = 6.5

# A JPEG is decoded at a reduced DCT scale as long as its short side stays this many times the resize size. Measured on
# enlarged photographs: the top-1 of the full decode on more than 98 % of them.
_REDUCED_SIDE = 2.9

# Pillow warns of what is odd in a client's file, a broken EXIF block say; it is decoded or refused, and that is all.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")


class _WebP(WebPImagePlugin.WebPImageFile):
    """A WebP that lets go of libwebp's two canvases once it has a copy of the first frame."""

    def _get_next(self) -> tuple[bytes, int, int]:
        frame = super()._get_next()
        self._decoder = None
        return frame


# The plugins' own classes rather than Image.open: nothing but the format that the bytes announce is tried, MPO is read
# as the JPEG that it begins with, and Pillow's process-wide pixel limit, which warns before it refuses, stays out.
_DECODERS: dict[str, Callable[[BytesIO], Image.Image]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": _WebP,
}

_OTHER_FORMATS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"<svg": "an SVG",
    b"<?xml": "XML",
    b"<!DOCTYPE": "HTML",
    b"<html": "HTML",
}
_ISO_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}


class _Turn(NamedTuple):
    """What makes a stored image upright, and how a box of the upright one lies in the stored one."""

    transpose: Image.Transpose
    swapped: bool  # width and height
    from_right: bool
    from_bottom: bool


_TURNS = {
    2: _Turn(Image.Transpose.FLIP_LEFT_RIGHT, swapped=False, from_right=True, from_bottom=False),
    3: _Turn(Image.Transpose.ROTATE_180, swapped=False, from_right=True, from_bottom=True),
    4: _Turn(Image.Transpose.FLIP_TOP_BOTTOM, swapped=False, from_right=False, from_bottom=True),
    5: _Turn(Image.Transpose.TRANSPOSE, swapped=True, from_right=False, from_bottom=False),
    6: _Turn(Image.Transpose.ROTATE_270, swapped=True, from_right=False, from_bottom=True),
    7: _Turn(Image.Transpose.TRANSVERSE, swapped=True, from_right=True, from_bottom=True),
    8: _Turn(Image.Transpose.ROTATE_90, swapped=True, from_right=True, from_bottom=False),
}
_BAND = 128  # rows
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What the network looks at, and what it was cut from.

    `pixels` is uint8 RGB of shape (crop, crop, 3); `width` and `height` are those of the upright image.
    """

    pixels: Pixels
    format: str
    width: int
    height: int


def preprocess(
    data: bytes, recipe: Recipe, *, max_pixels: int = MAX_PIXELS, formats: Collection[str] = FORMATS
) -> ModelInput:
    """The part of an encoded image that a network looks at.

    Raises:
        UnsupportedFormat: the bytes are no image of an allowed format.
        TooManyPixels, TooSmall, TooManyScans, TooMuchMemory: the header says so.
        BrokenImage: the image is damaged or incomplete, or is built as no camera or editor builds one.
    """
    kind = detect_format(data, formats)
    refusal: Refusal
    try:
        return _decode(kind, data, recipe, max_pixels)
    except (Refusal, MemoryError):
        raise
    except Image.DecompressionBombError:  # Pillow's WebP looks for itself before it makes its canvas
        refusal = TooManyPixels(f"At most {max_pixels // 2:,} pixels are accepted.", limit=max_pixels // 2)
    # Pillow has no base class for a broken file: OSError, SyntaxError, ValueError, TypeError, IndexError, struct.error
    # and zlib.error were all seen.
    except Exception as error:
        refusal = BrokenImage(f"The {kind.upper()} cannot be decoded: {error}.")
    raise refusal  # without its cause, whose traceback would keep the image in memory with it


def detect_format(data: bytes, formats: Collection[str] = FORMATS) -> str:
    """`jpeg`, `png` or `webp`, told from the first bytes and never from a name or a content type."""
    kind = announced_format(data)
    if not data:
        raise UnsupportedFormat("The image is empty: 0 bytes.")
    if kind is None:
        raise UnsupportedFormat(f"The bytes are {_describe(data)}; supported are {', '.join(formats)}.")
    if kind not in formats:
        raise UnsupportedFormat(f"{kind.upper()} is not accepted here; supported are {', '.join(formats)}.")
    return kind


def announced_format(data: bytes) -> str | None:
    """The format whose signature the bytes begin with, whether or not it is allowed."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def _describe(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return f"{_ISO_BRANDS.get(data[8:12], 'an MP4 or HEIC file')}"
    head = data[:512].lstrip()
    for signature, name in _OTHER_FORMATS.items():
        if head.lower().startswith(signature.lower()):
            return name
    return "no image that is known here"


def check_size(size: Size, kind: str, max_pixels: int) -> None:
    """Refuse what would cost too much memory, or what holds nothing to see.

    A format that cannot be decoded at a reduced scale counts double: its bitmap exists whole, and once more as RGB.
    """
    width, height = size
    limit = max_pixels if kind == "jpeg" else max_pixels // 2
    if width * height > limit:
        raise TooManyPixels(
            f"The {kind.upper()} has {width} x {height} pixels; at most {limit:,} are accepted.",
            limit=limit,
            value=width * height,
        )
    if min(size) < MIN_SIDE:
        raise TooSmall(
            f"The image has {width} x {height} pixels; at least {MIN_SIDE} a side are needed.",
            limit=MIN_SIDE,
            value=min(size),
        )


def check_memory(coefficients: int, bitmap: Image.Image, max_pixels: int) -> None:
    """Refuse a JPEG for which the decoder would hold too much at once: its coefficients, and the bitmap."""
    limit = int(_BYTES_PER_PIXEL * max_pixels)
    needed = 2 * coefficients + math.prod(bitmap.size) * (1 if bitmap.mode == "L" else 4)
    if needed > limit:
        raise TooMuchMemory(
            f"The JPEG is progressive or not interleaved, and takes {math.ceil(needed / 1e6):,} MB to decode; at most "
            f"{limit / 1e6:,.0f} MB are allowed. Save it as a baseline JPEG, or make it smaller.",
            limit=limit,
            value=needed,
        )


def _decode(kind: str, data: bytes, recipe: Recipe, max_pixels: int) -> ModelInput:
    """The first frame. Raises whatever Pillow raises.

    The crop is taken before it is turned, for the same pixels at a fraction of the work. At a reduced scale its box is
    that of the full image divided, not that of the reduced one, whose size is rounded up: on photographs of odd sizes
    that kept the mean difference to the full decode at 0.14 levels instead of 0.61.
    """
    parts = take_apart(kind, data)
    image = _DECODERS[kind](BytesIO(parts.pixels))  # reads the header; the bitmap comes with load()
    size, scale = image.size, 1.0
    check_size(size, kind, max_pixels)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        side = round(_REDUCED_SIDE * recipe.resize)
        if drafted := image.draft(None, (side, side)):
            scale = size[0] / drafted[1][2]
        check_memory(parts.coefficients, image, max_pixels)
        # All in one piece: what a decoder has not used up when a piece ends, Pillow copies and lets it try again.
        image.decodermaxblock = len(parts.pixels)
    image.load()
    exif, xmp = parts.exif or image.info.get("exif", b""), parts.xmp or image.info.get("xmp", b"")
    turn = _TURNS.get(orientation(exif, xmp))
    upright = size[::-1] if turn and turn.swapped else size
    box = crop_box(upright, recipe)
    if turn:
        box = _stored_box(box, size, turn)
    pixels = crop(image, box, scale, recipe)
    return ModelInput(np.asarray(pixels.transpose(turn.transpose) if turn else pixels), kind.upper(), *upright)


def _stored_box(box: Box, size: Size, turn: _Turn) -> Box:
    left, top, right, bottom = box
    if turn.swapped:
        left, top, right, bottom = top, left, bottom, right
    if turn.from_right:
        left, right = size[0] - right, size[0] - left
    if turn.from_bottom:
        top, bottom = size[1] - bottom, size[1] - top
    return left, top, right, bottom


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits: 16 bits scaled rather than clipped, CMYK and palette converted, alpha over white."""
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.uint16)
        high_bytes = (levels >> 8).astype(np.uint8)
        if "transparency" in image.info:
            high_bytes[levels == image.info["transparency"]] = 255
        return Image.fromarray(high_bytes).convert("RGB")
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")  # convert copies whatever the mode is
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def crop_box(size: Size, recipe: Recipe) -> Box:
    """The part of the source image, in its own pixels, that the network looks at.

    Equals resizing the short side to `recipe.resize` and taking the central `recipe.crop` square as torchvision's
    `Resize` and `CenterCrop` do, rounding included, without computing what the crop throws away.
    """
    short = min(size)
    resized = [int(recipe.resize * side / short) for side in size]
    scale = [side / new for side, new in zip(size, resized, strict=True)]
    left, top = (round((new - recipe.crop) / 2) for new in resized)
    return (
        left * scale[0],
        top * scale[1],
        (left + recipe.crop) * scale[0],
        (top + recipe.crop) * scale[1],
    )


def crop(image: Image.Image, box: Box, scale: float, recipe: Recipe) -> Image.Image:
    """RGB of the box of an image that was decoded at 1 / `scale`: `recipe.crop` pixels a side."""
    width, height = image.size
    left, top, right, bottom = (edge / scale for edge in box)
    inside = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))  # the last bits of a float
    if image.mode != "RGB" or image.has_transparency_data:
        # A bicubic looks at 2 pixels to each side, or at 2 of those that it makes.
        reach = math.ceil(2 * max(1, (right - left) / recipe.crop, (bottom - top) / recipe.crop)) + 1
        image = _rgb_around(image, inside, reach)
    return image.resize((recipe.crop, recipe.crop), _RESAMPLING[recipe.interpolation], box=inside)


def _rgb_around(image: Image.Image, box: Box, reach: int) -> Image.Image:
    """An image of the same size that is RGB in a box and within `reach` of it; what is nowhere written takes no memory.

    Of the same size, since a resize of a part of it takes other paths, to other last bits. Made in bands, since a
    conversion makes up to two bitmaps more.
    """
    left, top = (max(math.floor(edge) - reach, 0) for edge in box[:2])
    right, bottom = (min(math.ceil(edge) + reach, side) for edge, side in zip(box[2:], image.size, strict=True))
    rgb = Image.new("RGB", image.size, None)
    for row in range(top, bottom, _BAND):
        rgb.paste(to_rgb(image.crop((left, row, right, min(row + _BAND, bottom)))), (left, row))
    return rgb
