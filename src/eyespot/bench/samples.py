"""Encoded images to measure with."""

import os
from contextlib import suppress
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

from eyespot.choices import SUFFIXES, titles
from eyespot.errors import Refusal, TooFewImages
from eyespot.types import Recipe
from eyespot.vision import export, preprocess

_ANY_RECIPE = Recipe(256, 224, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_RUN, _NUMBERS = os.urandom(8), count()


def load(folder: Path | None, max_bytes: int) -> list[bytes]:
    """At most 100 valid images of the folder, or the sample image at 8 angles. Raises `TooFewImages` if it has none."""
    if folder is None:
        sample = Image.open(export.SAMPLE).convert("RGB")
        return [encode(sample.rotate(angle)) for angle in range(0, 360, 45)]
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    images = []
    for path in paths[:: -(-len(paths) // 100) or 1]:
        with suppress(Refusal):
            preprocess.preprocess(data := path.read_bytes(), _ANY_RECIPE)
            images += [data] if len(data) <= max_bytes else []
    if not images:
        raise TooFewImages(f"{folder} has no valid {titles()} image")
    return images


def unique(data: bytes) -> bytes:
    """The same image with a number after its end, so that no cache has it."""
    return data + _RUN + next(_NUMBERS).to_bytes(8)


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """The image as PNG, or as JPEG or WebP of quality 90."""
    buffer = BytesIO()
    image.save(buffer, kind, **({} if kind == "PNG" else {"quality": 90}), **options)
    return buffer.getvalue()
