"""The encoded images that are measured with: those of a folder, or the sample image and what is cut from it."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from eyespot.errors import Refusal, TooFewImages
from eyespot.types import Recipe
from eyespot.vision import export, preprocess

MAX_IMAGES = 100
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
# Whether an image can be recognised does not depend on it.
_ANY_RECIPE = Recipe(256, 224, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def load(folder: Path | None, max_bytes: int) -> list[bytes]:
    """At most 100 encoded images that a server would recognise, spread evenly over the names of the folder.

    Without a folder, the sample image in eight forms.

    Raises:
        TooFewImages: the folder has none.
    """
    if folder is None:
        return list(_forms_of_the_sample())
    if not folder.is_dir():
        raise TooFewImages(f"{folder} is no folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    spread = paths[:: -(-len(paths) // MAX_IMAGES) or 1]
    images = [data for path in spread if _is_recognisable(data := path.read_bytes(), max_bytes)]
    if not images:
        raise TooFewImages(f"{folder} has no JPEG, PNG or WebP image that can be recognised")
    return images


def _is_recognisable(data: bytes, max_bytes: int) -> bool:
    try:
        preprocess.preprocess(data, _ANY_RECIPE)
    except Refusal:
        return False
    return len(data) <= max_bytes


def _forms_of_the_sample() -> Iterator[bytes]:
    sample = Image.open(export.SAMPLE).convert("RGB")
    width, height = sample.size
    for left, top in ((0, 0), (width // 8, 0), (0, height // 8), (width // 8, height // 8)):
        cut = sample.crop((left, top, left + width * 7 // 8, top + height * 7 // 8))
        yield encode(cut, "JPEG")
        yield encode(ImageOps.mirror(cut), "JPEG")


def enlarged(data: bytes, size: tuple[int, int], kind: str) -> bytes:
    """The image cut to the proportions of `size` and scaled to it, encoded anew."""
    return encode(ImageOps.fit(Image.open(BytesIO(data)).convert("RGB"), size), kind)


def encode(image: Image.Image, kind: str) -> bytes:
    """The image as JPEG or WebP of quality 90, or as PNG."""
    buffer = BytesIO()
    image.save(buffer, kind, **({} if kind == "PNG" else {"quality": 90}))
    return buffer.getvalue()
