"""Images out of the input tensor of an inference request."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from eyespot.errors import BadTensor, NoImage, TooManyImages
from eyespot.types import Recipe
from eyespot.values import shown
from eyespot.vision.preprocess import to_ppm
from eyespot.web.api.inference import LENGTH_BYTES, Tensor, TensorInfo

_OVERSHOOT = 64  # levels beyond black and white, where bicubic resizing of floats may go


def images(tensor: Tensor, expected: TensorInfo, binary: memoryview, recipe: Recipe, most: int) -> list[object]:
    """One for each image of a tensor: encoded bytes or, from JSON, a base64 string; from numbers, a PPM image.

    Raises:
        NoImage, TooManyImages: there are none, or more than `most`.
        BadTensor: it is not the `expected` tensor, or its data is not what its shape says.
    """
    encoded = tensor.datatype == "BYTES"
    if tensor.name != expected.name or encoded != (expected.datatype == "BYTES"):
        raise BadTensor(
            f"The model's input is `{expected.name}`, {expected.datatype}; this is {shown(tensor.name)}, "
            f"{shown(tensor.datatype)}."
        )
    count = tensor.shape[0] if tensor.shape else 0
    if count < 1:
        raise NoImage(f"`{tensor.name}` has the shape {tensor.shape}; its first number must be that of the images.")
    if count > most:
        raise TooManyImages(f"The request has {count:,} images; the limit is {most:,}.", limit=most, value=count)
    if tensor.data is None and len(binary) != (tensor.parameters or {}).get("binary_data_size"):
        raise BadTensor(
            f"`{tensor.name}` needs `data`, or `binary_data_size` and that many bytes after the JSON; there are "
            f"{len(binary):,}."
        )
    return _elements(tensor, binary) if encoded else list(_pixels(tensor, binary, recipe))


def _elements(tensor: Tensor, binary: memoryview) -> list[object]:
    found: list[object] = [*_unpack(binary)] if tensor.data is None else [*_flatten(tensor.data)]
    if len(found) != math.prod(tensor.shape) or len(found) != tensor.shape[0]:
        raise BadTensor(f"`{tensor.name}` has the shape {tensor.shape}, but its data has {len(found):,} elements.")
    return found


def _unpack(binary: memoryview) -> Iterator[bytes]:
    while binary:
        end = LENGTH_BYTES + int.from_bytes(binary[:LENGTH_BYTES], "little")
        if end > len(binary):
            raise BadTensor("The binary data ends within an element; 4 bytes before each must say how long it is.")
        yield bytes(binary[LENGTH_BYTES:end])
        binary = binary[end:]


def _flatten(data: list[object]) -> Iterator[object]:
    for element in data:
        if isinstance(element, list):
            yield from _flatten(element)
        else:
            yield element


def _pixels(tensor: Tensor, binary: memoryview, recipe: Recipe) -> Iterator[bytes]:
    side, floats = recipe.crop, tensor.datatype == "FP32"
    if tensor.datatype not in ("UINT8", "FP32") or tensor.shape[1:] != ([3, side, side] if floats else [side, side, 3]):
        raise BadTensor(
            f"`{tensor.name}` must have the shape [n, {side}, {side}, 3] as UINT8, or [n, 3, {side}, {side}] as FP32; "
            f"it has {tensor.shape} as {tensor.datatype}."
        )
    size = len(binary) // (4 if floats else 1)
    values = np.frombuffer(binary, "<f4" if floats else "u1", size) if tensor.data is None else _numbers(tensor)
    if values.size != math.prod(tensor.shape):
        raise BadTensor(f"`{tensor.name}` has the shape {tensor.shape}, but its data has {values.size:,} values.")
    for image in values.reshape(tensor.shape):
        yield to_ppm(_denormalise(tensor.name, image, recipe) if floats else image.astype(np.uint8))


def _numbers(tensor: Tensor) -> npt.NDArray[np.generic]:
    try:
        values = np.array(tensor.data)
    except ValueError as error:
        raise BadTensor(f"The rows of `{tensor.name}` have different lengths.") from error
    if tensor.datatype == "FP32" and values.dtype.kind in "iuf":
        return values
    if values.dtype.kind in "iu" and (not values.size or (values.min() >= 0 and values.max() <= 255)):
        return values
    raise BadTensor(f"`{tensor.name}` has values that are not {tensor.datatype}.")


def _denormalise(name: str, image: npt.NDArray[np.generic], recipe: Recipe) -> npt.NDArray[np.uint8]:
    """From float (3, crop, crop), as torchvision's transforms leave it, the uint8 (crop, crop, 3) it was made from."""
    mean, std = (np.array(numbers, np.float32).reshape(3, 1, 1) for numbers in (recipe.mean, recipe.std))
    levels = (image.astype(np.float32) * std + mean) * np.float32(255)
    if not (np.abs(levels - 127.5) <= 127.5 + _OVERSHOOT).all():  # NaN included
        raise BadTensor(f"`{name}` is not normalised with the model's mean and std, which `/model` shows.")
    return levels.clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0)
