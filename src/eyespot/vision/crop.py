"""From a decoded image to the crop that a model takes: upright, RGB."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from eyespot.types import Recipe

Size = tuple[int, int]
Box = tuple[float, float, float, float]

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_BAND = 128  # rows


class _Turn(NamedTuple):
    """What makes a stored image upright, and where a box of the upright image lies in the stored one."""

    transpose: Image.Transpose
    swapped: bool  # width and height
    from_right: bool
    from_bottom: bool


_TURNS = {  # by EXIF orientation
    2: _Turn(Image.Transpose.FLIP_LEFT_RIGHT, swapped=False, from_right=True, from_bottom=False),
    3: _Turn(Image.Transpose.ROTATE_180, swapped=False, from_right=True, from_bottom=True),
    4: _Turn(Image.Transpose.FLIP_TOP_BOTTOM, swapped=False, from_right=False, from_bottom=True),
    5: _Turn(Image.Transpose.TRANSPOSE, swapped=True, from_right=False, from_bottom=False),
    6: _Turn(Image.Transpose.ROTATE_270, swapped=True, from_right=False, from_bottom=True),
    7: _Turn(Image.Transpose.TRANSVERSE, swapped=True, from_right=True, from_bottom=True),
    8: _Turn(Image.Transpose.ROTATE_90, swapped=True, from_right=True, from_bottom=False),
}


def upright_crop(
    image: Image.Image, size: Size, scale: float, orientation: int, recipe: Recipe
) -> tuple[Image.Image, Size]:
    """The crop of an image of `size` that was decoded at 1 / `scale`, and the size of the upright image.

    The image is cropped before it is turned, for the same pixels at a fraction of the work. At a reduced scale the box
    is that of the full image, divided, because the reduced size is rounded up: on photographs of odd sizes this kept
    the mean difference to a full decode at 0.14 levels instead of 0.61.
    """
    turn = _TURNS.get(orientation)
    if turn is None:
        return crop(image, crop_box(size, recipe), scale, recipe), size
    upright = size[::-1] if turn.swapped else size
    stored = crop(image, _stored_box(crop_box(upright, recipe), size, turn), scale, recipe)
    return stored.transpose(turn.transpose), upright


def crop_box(size: Size, recipe: Recipe) -> Box:
    """The box that a model sees, in pixels of the source image.

    Equals resizing the short side to `recipe.resize` and taking the central `recipe.crop` square as torchvision's
    `Resize` and `CenterCrop` do, rounding included, without computing what the crop throws away.
    """
    short = min(size)
    resized = [int(recipe.resize * side / short) for side in size]
    across, down = (side / new for side, new in zip(size, resized, strict=True))
    left, top = (round((new - recipe.crop) / 2) for new in resized)
    return left * across, top * down, (left + recipe.crop) * across, (top + recipe.crop) * down


def _stored_box(box: Box, size: Size, turn: _Turn) -> Box:
    left, top, right, bottom = box
    if turn.swapped:
        left, top, right, bottom = top, left, bottom, right
    if turn.from_right:
        left, right = size[0] - right, size[0] - left
    if turn.from_bottom:
        top, bottom = size[1] - bottom, size[1] - top
    return left, top, right, bottom


def crop(image: Image.Image, box: Box, scale: float, recipe: Recipe) -> Image.Image:
    """RGB of a box of the full image, from one that was decoded at 1 / `scale`: `recipe.crop` pixels a side."""
    width, height = image.size
    left, top, right, bottom = (edge / scale for edge in box)
    inside = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))  # float errors in the last bits
    if image.mode != "RGB" or image.has_transparency_data:
        # Bicubic reads 2 pixels on each side, of the source or of the result, whichever are larger.
        reach = math.ceil(2 * max(1, (right - left) / recipe.crop, (bottom - top) / recipe.crop)) + 1
        image = _rgb_around(image, inside, reach)
    return image.resize((recipe.crop, recipe.crop), _RESAMPLING[recipe.interpolation], box=inside)


def _rgb_around(image: Image.Image, box: Box, reach: int) -> Image.Image:
    """An image of the same size, RGB within `reach` of the box and unwritten elsewhere, where it takes no memory.

    The size stays because resizing a part of the image rounds differently in the last bits. The conversion goes in
    bands because it makes up to two more bitmaps.
    """
    left, top = (max(math.floor(edge) - reach, 0) for edge in box[:2])
    right, bottom = (min(math.ceil(edge) + reach, side) for edge, side in zip(box[2:], image.size, strict=True))
    rgb = Image.new("RGB", image.size, None)
    for row in range(top, bottom, _BAND):
        rgb.paste(to_rgb(image.crop((left, row, right, min(row + _BAND, bottom)))), (left, row))
    return rgb


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits: 16 bits scaled rather than clipped, CMYK and palette converted, alpha over white."""
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.uint16)
        high_bytes = (levels >> 8).astype(np.uint8)
        if "transparency" in image.info:
            high_bytes[levels == image.info["transparency"]] = 255
        return Image.fromarray(high_bytes).convert("RGB")
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")  # convert always copies
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
