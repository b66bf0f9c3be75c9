"""The types of the Open Inference Protocol, as its JSON has them."""

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import FailFast, Field

_MAX_DIMENSIONS = 8

Shape: TypeAlias = Annotated[
    list[Annotated[int, Field(ge=-1, lt=2**31, strict=True)]], Field(max_length=_MAX_DIMENSIONS), FailFast()
]
Parameters: TypeAlias = dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a model; -1 is any number of images."""

    name: str
    datatype: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Tensor(TensorInfo):
    """An input or output, with its data in row-major order here or, if it has `binary_data_size`, after the JSON."""

    parameters: Parameters = None
    data: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that is asked for, in binary or as a classification if its parameters say so."""

    name: str
    parameters: Parameters = None


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What a client asks of a model."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: Parameters = None
    outputs: list[RequestedOutput] | None = None


@dataclass(frozen=True, slots=True)
class InferenceResponse:
    """What the model answers."""

    model_name: str
    model_version: str
    outputs: list[Tensor]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """An output that is asked for: in binary or not, as numbers or as that many classes."""

    name: str
    binary: bool
    classification: int | None


Values: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.object_]
"""Of an output: FP32, or strings."""
