"""The images that programs hold, as the encoded bytes that are sent."""

import io
import os
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from eyespot.choices import FORMATS
from eyespot.errors import ImageTooLarge, NoImage, TooSmall

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image | npt.NDArray[np.uint8]"
)
"""A path, encoded bytes, a binary file, a PIL image, or RGB as uint8 of shape (h, w), (h, w, 3) or (h, w, 4)."""

_MAX_FILE_BYTES = 256 * 1024 * 1024  # larger than any photograph; a file is read whole
_MAX_PIXEL_BYTES = 5_000_000  # noise, which PNG cannot compress, then stays below the 5 MiB that servers accept


def to_bytes(image: ImageSource) -> bytes:
    """The encoded bytes of an image: PNG for a PIL image or an array, upright, and scaled down above 5 MB of pixels.

    Raises `OSError`; `TypeError` for anything that is not an image source; `ImageTooLarge` above 256 MiB; `NoImage`
    without bytes; `TooSmall` without pixels.
    """
    if isinstance(image, str | os.PathLike):
        with open(image, "rb") as file:
            data = read_file(file)
    elif isinstance(image, bytes | bytearray | memoryview):
        data = bytes(image)
    elif hasattr(image, "read"):
        data = image.read()
        if not isinstance(data, bytes):
            raise TypeError("the file must be opened in binary mode: open(path, 'rb')")
    elif hasattr(type(image), "__array_interface__"):  # on a PIL image itself, it would copy the pixels
        data = _to_png(image)
    else:
        kind = type(image).__name__
        raise TypeError(f"an image is a path, bytes, a binary file, a PIL image or a numpy array, not {kind}")
    if not data:
        raise NoImage("The image is empty: 0 bytes.")
    return data


def read_file(file: BinaryIO) -> bytes:
    """All bytes of an open file. Raises `ImageTooLarge` above 256 MiB."""
    data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise ImageTooLarge(f"The file has more than {_MAX_FILE_BYTES:,} bytes.", limit=_MAX_FILE_BYTES)
    return data


def is_image(value: Any) -> bool:
    """Whether this is one image source, rather than several: some are iterable as well."""
    if hasattr(type(value), "__array_interface__"):
        return _is_image_shape(getattr(value, "shape", (1, 1)))  # a PIL image has none
    return isinstance(value, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(value, "read")


def fit(data: bytes, max_bytes: int) -> bytes:
    """The encoded image, scaled down to a PNG, upright, if it has more than `max_bytes` and Pillow can decode it."""
    if len(data) <= max_bytes:
        return data
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=[name.upper() for name in FORMATS]) as image:
            image.draft(None, (1290, 1290))  # a JPEG is decoded at a scale that is still larger than the PNG
            return _to_png(image, min(_MAX_PIXEL_BYTES, int(max_bytes * 0.95)))
    except Exception:  # Pillow found the file broken, in any of many ways: the client then raises `ImageTooLarge`
        return data


def _to_png(source: Any, max_pixel_bytes: int = _MAX_PIXEL_BYTES) -> bytes:
    from PIL import Image, ImageOps

    if not isinstance(source, Image.Image):
        _check_array(source.__array_interface__)
        source = Image.fromarray(source)
    if 0 in source.size:
        raise TooSmall("The image has no pixels.")
    image = _to_png_mode(ImageOps.exif_transpose(source))
    if _pixel_bytes(image) > max_pixel_bytes:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        scale = (max_pixel_bytes / _pixel_bytes(image)) ** 0.5
        width, height = (max(1, int(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.HAMMING, reducing_gap=2)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1, icc_profile=None)  # a profile of CMYK can have megabytes
    return file.getvalue()


def _check_array(layout: dict[str, Any]) -> None:
    shape, dtype = layout["shape"], layout["typestr"]
    if dtype != "|u1" or not _is_image_shape(shape):
        raise TypeError(
            "an array must be uint8 (0 to 255), in the order red, green, blue, and of shape (h, w), (h, w, 3) or "
            f"(h, w, 4); this is {dtype} of shape {shape}"
        )


def _is_image_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))


def _to_png_mode(image: "Image") -> "Image":
    """The image in a mode that PNG has, converted as the server converts the image's own file."""
    if image.mode == "F":
        raise TypeError("an image must hold integers, and this one holds floats: convert it to RGB")
    if image.mode.startswith("I;16"):  # convert() alone clips everything above 255 to white
        return image.convert("I").point(lambda level: level / 256).convert("L")
    if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _pixel_bytes(image: "Image") -> int:
    return image.width * image.height * len(image.getbands())
