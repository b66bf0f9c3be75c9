"""From encoded bytes to the pixels that a model takes. Nothing is decoded before the header is known to be safe."""

import math
import pkgutil
import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from eyespot.choices import FORMATS, OTHER_FORMATS, ImageFormat, titles
from eyespot.errors import BrokenImage, Refusal, TooManyPixels, TooMuchMemory, TooSmall, UnsupportedFormat
from eyespot.types import Recipe
from eyespot.vision.crop import orientation, upright_crop
from eyespot.vision.resize import Size
from eyespot.vision.structure import take_apart

MAX_PIXELS = 25_000_000  # by default
MIN_SIDE = 4  # pixels

# Decoding may take this many bytes for each allowed pixel. A progressive photograph without subsampling takes 6 for its
# coefficients, and its reduced bitmap. A WebP, which may have half the pixels, takes 12: two canvases and a copy.
BYTES_PER_PIXEL = 6.5

# A JPEG is decoded at a reduced DCT scale as long as its short side stays this many times the resize size. Measured on
# enlarged photographs: the top-1 of the full decode on more than 98 % of them.
REDUCED_SIDE = 2.9

# Pillow warns about odd files, such as a broken EXIF block. Here they are decoded or refused.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")


@dataclass(frozen=True, slots=True)
class ModelInput:
    """The model's input, uint8 RGB of shape (crop, crop, 3); `width` and `height` are those of the upright image."""

    pixels: npt.NDArray[np.uint8]
    format: str
    width: int
    height: int


def preprocess(
    data: bytes,
    recipe: Recipe,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Collection[str] = tuple(FORMATS),
    reduced_side: float = REDUCED_SIDE,
) -> ModelInput:
    """Decode the first frame of an encoded image, and crop it as the model's recipe says.

    Raises `UnsupportedFormat` unless it is in one of `formats`, `TooManyPixels`, `TooSmall`, `TooManyScans` or
    `TooMuchMemory` if the header breaks a limit, `BrokenImage` if it is damaged or no camera or editor writes it so.
    """
    choice = _detect_format(data, formats)
    refusal: Refusal
    try:
        return _decode(choice, data, recipe, max_pixels, reduced_side)
    except (Refusal, MemoryError):
        raise
    except Image.DecompressionBombError:  # Pillow checks a WebP before it makes its canvas
        limit = max_pixels // choice.pixel_factor
        refusal = TooManyPixels(f"At most {limit:,} pixels are accepted.", limit=limit)
    # Pillow has no base class for a broken file: OSError, SyntaxError, ValueError, TypeError, IndexError, struct.error
    # and zlib.error were all seen.
    except Exception as error:
        refusal = BrokenImage(f"The {choice.title} cannot be decoded: {error}.")
    raise refusal  # without its cause, whose traceback would keep the image in memory


def to_ppm(pixels: npt.NDArray[np.uint8]) -> bytes:
    """The model's input as a PPM image, so that it has a sha256 and can be kept like any other image."""
    height, width, _ = pixels.shape
    return b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes()


def from_ppm(data: bytes, side: int) -> ModelInput:
    """The model's input from `to_ppm`; nothing is resized or cropped."""
    pixels = np.frombuffer(data, np.uint8, offset=len(data) - 3 * side * side)
    return ModelInput(pixels.reshape(side, side, 3), "PPM", side, side)


def announced_format(data: bytes) -> str | None:
    """The name of the format whose signature the bytes begin with, accepted or not."""
    return next((name for name, choice in FORMATS.items() if re.match(choice.signature, data, re.DOTALL)), None)


def other_format(data: bytes) -> str | None:
    """What the bytes are that begin with the signature of no accepted format, such as "a GIF"; None if unknown."""
    return next((title for signature, title in OTHER_FORMATS if re.match(signature, data[:512], re.DOTALL)), None)


def _detect_format(data: bytes, formats: Collection[str]) -> ImageFormat:
    if not data:
        raise UnsupportedFormat("The image is empty: 0 bytes.")
    name = announced_format(data)
    if name is not None and name in formats:
        return FORMATS[name]
    if found := f"a {FORMATS[name].title}" if name else other_format(data):
        verb = "is" if len(formats) == 1 else "are"
        raise UnsupportedFormat(f"This is {found}; {titles(formats, 'and')} {verb} accepted.")
    raise UnsupportedFormat(f"This is not a {titles(formats)} image.")


def _decode(choice: ImageFormat, data: bytes, recipe: Recipe, max_pixels: int, reduced_side: float) -> ModelInput:
    parts = take_apart(choice.name, data)
    # Not Image.open, which tries other formats, reads an MPO's second image, and has a process-wide pixel limit.
    image: ImageFile.ImageFile = pkgutil.resolve_name(choice.decoder)(BytesIO(parts.pixels))  # reads the header only
    size, scale = image.size, 1.0
    _check_size(size, choice, max_pixels)
    side = round(reduced_side * recipe.resize)
    if drafted := image.draft(None, (side, side)):
        scale = size[0] / drafted[1][2]
    _check_memory(parts.coefficients, image, max_pixels)
    # In one piece: Pillow copies what a decoder has not consumed at the end of a piece, and tries again.
    image.decodermaxblock = max(image.decodermaxblock, len(parts.pixels))
    image.load()
    exif, xmp = parts.exif or image.info.get("exif", b""), parts.xmp or image.info.get("xmp", b"")
    pixels, upright = upright_crop(image, size, scale, orientation(exif, xmp), recipe)
    return ModelInput(np.asarray(pixels), choice.name.upper(), *upright)


def _check_size(size: Size, choice: ImageFormat, max_pixels: int) -> None:
    """Refuse what takes too much memory or shows nothing. Unless reduced, a bitmap exists twice, and counts so."""
    width, height = size
    limit = max_pixels // choice.pixel_factor
    if width * height > limit:
        detail = f"The {choice.title} has {width} x {height} pixels; at most {limit:,} are accepted."
        raise TooManyPixels(detail, limit=limit, value=width * height)
    if min(size) < MIN_SIDE:
        detail = f"The image has {width} x {height} pixels; at least {MIN_SIDE} a side are needed."
        raise TooSmall(detail, limit=MIN_SIDE, value=min(size))


def _check_memory(coefficients: int, bitmap: Image.Image, max_pixels: int) -> None:
    limit = int(BYTES_PER_PIXEL * max_pixels)
    needed = 2 * coefficients + math.prod(bitmap.size) * (1 if bitmap.mode == "L" else 4)
    if needed > limit:
        detail = (
            f"The JPEG is progressive or not interleaved, and takes {math.ceil(needed / 1e6):,} MB to decode; at most "
            f"{limit / 1e6:,.0f} MB are allowed. Save it as a baseline JPEG, or make it smaller."
        )
        raise TooMuchMemory(detail, limit=limit, value=needed)
