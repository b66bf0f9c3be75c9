"""What a program has of an image, made into the encoded bytes that are sent."""

import io
import os
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from eyespot.errors import ImageTooLarge, NoImage, TooSmall

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image | npt.NDArray[np.uint8]"
)
"""A path, the encoded bytes, a binary file, a PIL image, or RGB of uint8 and shape (h, w, 3), (h, w, 4) or (h, w)."""

_FILE_BYTES = 256 * 1024 * 1024  # more than any photograph has; read whole, a larger one would take all memory
_PNG_BYTES = 5_000_000  # of pixels: even noise, which no PNG makes smaller, is below the 5 MiB that servers accept


def encoded(image: ImageSource) -> bytes:
    """The encoded bytes of an image.

    PIL images and arrays become PNGs, upright; those of more than 5 MB of pixels are made smaller.

    Raises:
        OSError: its file cannot be read.
        TypeError: it is none of these things, or an array of another shape or of other numbers than uint8.
        ImageTooLarge: its file has more than 256 MiB.
        NoImage: its file is empty.
        TooSmall: it has no pixels.
    """
    if isinstance(image, str | os.PathLike):
        return read_file(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if hasattr(image, "read"):
        data = image.read()
        if not isinstance(data, bytes):
            raise TypeError("the file must be opened in binary mode: open(path, 'rb')")
        return data
    if hasattr(type(image), "__array_interface__"):  # of a PIL image too, which would copy its pixels for an answer
        return _png(image)
    raise TypeError(
        f"an image is a path, bytes, a binary file, a PIL image or a numpy array, not {type(image).__name__}"
    )


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: it cannot be read.
        ImageTooLarge: it has more than 256 MiB.
        NoImage: it is empty.
    """
    with open(path, "rb") as file:
        data = file.read(_FILE_BYTES + 1)
    if len(data) > _FILE_BYTES:
        raise ImageTooLarge(f"The file has more than {_FILE_BYTES:,} bytes.", limit=_FILE_BYTES)
    if not data:
        raise NoImage("The file is empty.")
    return data


def _png(image: Any) -> bytes:
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        _check_array(image.__array_interface__)
        image = Image.fromarray(image)
    if 0 in image.size:
        raise TooSmall("The image has no pixels.")
    image = _writable(ImageOps.exif_transpose(image))
    if _bytes_of(image) > _PNG_BYTES:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        scale = (_PNG_BYTES / _bytes_of(image)) ** 0.5
        size = [max(1, int(side * scale)) for side in image.size]
        image = image.resize(size, Image.Resampling.HAMMING, reducing_gap=2)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _check_array(layout: dict[str, Any]) -> None:
    shape, kind = layout["shape"], layout["typestr"]
    if kind != "|u1" or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (3, 4)):
        raise TypeError(
            "an array must hold uint8, from 0 to 255, in the order red, green, blue, and be of shape (h, w, 3), "
            f"(h, w, 4) or (h, w); this holds {kind} and is of shape {shape}"
        )


def _writable(image: "Image") -> "Image":
    """The image in a mode that a PNG has and the server reads as it would the image's own file."""
    if image.mode == "F":
        raise TypeError("an image must hold whole numbers; this one holds floats: convert it to RGB")
    if image.mode.startswith("I;16"):  # of which convert would make white where there is more than 255
        return image.convert("I").point(lambda level: level / 256).convert("L")
    if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _bytes_of(image: "Image") -> int:
    return image.width * image.height * len(image.getbands())
