"""Images out of the input tensor of an inference request."""

import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt

from eyespot.errors import BadTensor, NoImage, TooManyImages
from eyespot.types import Recipe
from eyespot.values import shown
from eyespot.vision.preprocess import to_ppm
from eyespot.web.api.inference_types import Tensor, TensorInfo
from eyespot.web.api.messages import LENGTH_BYTES

_OVERSHOOT = 64  # levels beyond black and white, where bicubic resizing of floats may go


def images(tensor: Tensor, expected: TensorInfo, binary: memoryview, recipe: Recipe, max_images: int) -> list[object]:
    """One for each image of a tensor: encoded bytes or, from JSON, a base64 string; from numbers, a PPM image.

    Raises:
        NoImage, TooManyImages: there are none, or more than `max_images`.
        BadTensor: it is not the `expected` tensor, or its data is not what its shape says.
    """
    encoded = tensor.datatype == "BYTES"
    if tensor.name != expected.name or encoded != (expected.datatype == "BYTES"):
        raise BadTensor(
            f"The input must be `{expected.name}` with datatype {expected.datatype}, not {shown(tensor.name)} with "
            f"{shown(tensor.datatype)}."
        )
    count = tensor.shape[0] if tensor.shape else 0
    if count < 1:
        raise NoImage(
            f"`{tensor.name}` has the shape {tensor.shape}; its first dimension must be the number of images."
        )
    if count > max_images:
        raise TooManyImages(
            f"The request has {count:,} images; the limit is {max_images:,}.", limit=max_images, value=count
        )
    size = (tensor.parameters or {}).get("binary_data_size", 0)
    if len(binary) != size or bool(size) is (tensor.data is not None):
        raise BadTensor(
            f"`{tensor.name}` needs either `data`, or `binary_data_size` and that many bytes after the JSON; there are "
            f"{len(binary):,}."
        )
    return _elements(tensor, binary) if encoded else list(_pixels(tensor, binary, recipe))


def _elements(tensor: Tensor, binary: memoryview) -> list[object]:
    count = tensor.shape[0]
    found = list(islice(_unpack(binary), count + 1)) if tensor.data is None else _leaves(tensor)
    if len(found) != count or math.prod(tensor.shape) != count:
        raise _wrong_shape(tensor)
    return found


def _unpack(binary: memoryview) -> Iterator[object]:
    while binary:
        end = LENGTH_BYTES + int.from_bytes(binary[:LENGTH_BYTES], "little")
        if end > len(binary):
            raise BadTensor("The binary data ends within an element; 4 bytes before each must say how long it is.")
        yield bytes(binary[LENGTH_BYTES:end])
        binary = binary[end:]


def _leaves(tensor: Tensor) -> list[object]:
    """The values of JSON data, which is flat or has the tensor's shape."""
    rows: list[object] = [tensor.data]
    nested = tensor.data and isinstance(tensor.data[0], list)
    for size in tensor.shape if nested else [math.prod(tensor.shape)]:
        lists = [row for row in rows if isinstance(row, list) and len(row) == size]
        if len(lists) != len(rows):
            raise _wrong_shape(tensor)
        rows = list(chain.from_iterable(lists))
    return rows


def _wrong_shape(tensor: Tensor) -> BadTensor:
    return BadTensor(f"The data of `{tensor.name}` does not fit its shape, {tensor.shape}.")


def _pixels(tensor: Tensor, binary: memoryview, recipe: Recipe) -> Iterator[bytes]:
    side, floats = recipe.crop, tensor.datatype == "FP32"
    if tensor.datatype not in ("UINT8", "FP32") or tensor.shape[1:] != ([3, side, side] if floats else [side, side, 3]):
        raise BadTensor(
            f"`{tensor.name}` must have the shape [n, {side}, {side}, 3] as UINT8, or [n, 3, {side}, {side}] as FP32; "
            f"it has {tensor.shape} as {shown(tensor.datatype)}."
        )
    kind = np.dtype("<f4" if floats else "u1")
    if tensor.data is None and len(binary) != math.prod(tensor.shape) * kind.itemsize:
        raise _wrong_shape(tensor)
    values = np.frombuffer(binary, kind) if tensor.data is None else _numbers(tensor, kind)
    for image in values.reshape(tensor.shape):
        yield to_ppm(_denormalise(tensor.name, image, recipe) if floats else image)


@np.errstate(over="ignore")  # values beyond float32 are refused as not normalised
def _numbers(tensor: Tensor, kind: np.dtype[Any]) -> npt.NDArray[np.generic]:
    found: list[Any] = _leaves(tensor)
    # Before numpy sees them: an array that holds one long string has as much room for every other element.
    if {*map(type, found)} <= ({int, float} if kind.kind == "f" else {int}):
        with suppress(OverflowError):  # a whole number that is not from 0 to 255, or that no float can be
            return np.array(found, kind)
    raise BadTensor(f"`{tensor.name}` has values that are not {tensor.datatype}.")


@np.errstate(over="ignore")
def _denormalise(name: str, image: npt.NDArray[np.generic], recipe: Recipe) -> npt.NDArray[np.uint8]:
    """From float (3, crop, crop), as torchvision's transforms leave it, the uint8 (crop, crop, 3) it was made from."""
    mean, std = (np.array(numbers, np.float32).reshape(3, 1, 1) for numbers in (recipe.mean, recipe.std))
    levels = (image.astype(np.float32) * std + mean) * np.float32(255)
    if not (np.abs(levels - 127.5) <= 127.5 + _OVERSHOOT).all():  # NaN included
        raise BadTensor(f"`{name}` is not normalised with the model's mean and std, which `/model` shows.")
    return levels.clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0)
