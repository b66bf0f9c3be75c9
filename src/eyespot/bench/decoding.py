"""What decoding and cropping cost by the size of the image, beside what they cost the plain way."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from statistics import median
from typing import Annotated

from PIL import Image
from pydantic import Field

from eyespot.bench import samples
from eyespot.types import Recipe
from eyespot.vision import preprocess

SIZES = (
    ("JPEG", 500, 375),
    ("JPEG", 1600, 1200),
    ("JPEG", 4000, 3000),
    ("PNG", 1000, 750),
    ("WEBP", 1000, 750),
)
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, slots=True)
class DecodeFigures:
    """One format and size, on one core."""

    format: str
    width: int
    height: int
    ms: Annotated[float, Field(description="Median of decode and crop.")]
    plain_ms: Annotated[float, Field(description="Median of the whole decode, the whole resize and the crop.")]


def measure(data: bytes, kind: str, width: int, height: int, recipe: Recipe, seconds: float) -> DecodeFigures:
    """Decode and crop that image, enlarged to that size, both ways in turn for about `seconds` in all."""
    image = samples.enlarged(data, (width, height), kind)
    ours: list[float] = []
    plain: list[float] = []
    end = time.monotonic() + seconds
    while len(ours) < 3 or time.monotonic() < end:
        ours.append(_ms(preprocess.preprocess, image, recipe))
        plain.append(_ms(see_plainly, image, recipe))
    return DecodeFigures(kind, width, height, median(ours), median(plain))


def _ms(see: Callable[[bytes, Recipe], object], image: bytes, recipe: Recipe) -> float:
    started = time.perf_counter()
    see(image, recipe)
    return (time.perf_counter() - started) * 1000


def see_plainly(data: bytes, recipe: Recipe) -> Image.Image:
    """The crop as torchvision's `Resize` and `CenterCrop` make it: everything decoded, everything resized, then cut."""
    image = Image.open(BytesIO(data)).convert("RGB")
    short = min(image.size)
    width, height = (int(recipe.resize * side / short) for side in image.size)
    left, top = round((width - recipe.crop) / 2), round((height - recipe.crop) / 2)
    resized = image.resize((width, height), _RESAMPLING[recipe.interpolation])
    return resized.crop((left, top, left + recipe.crop, top + recipe.crop))
