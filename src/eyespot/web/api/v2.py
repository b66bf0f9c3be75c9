"""`/v2`: the Open Inference Protocol, for clients of Triton, KServe and MLServer.

A model NAME takes encoded images, NAME-tensor what the model itself takes. Both are the model that `/predict` uses.
"""

from dataclasses import dataclass

from fastapi import Request

from eyespot._version import __version__
from eyespot.errors import NotFound
from eyespot.values import shown
from eyespot.vision.classifier import Classifier
from eyespot.web.api import health
from eyespot.web.api.inference_types import TensorInfo

PROBABILITIES, EMBEDDING = OUTPUTS = "probabilities", "embedding"
_VERSION_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Server:
    """The server's metadata."""

    name: str
    version: str
    extensions: list[str]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """A model's inputs and outputs. Its version is the start of its weights' sha256."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


@dataclass(frozen=True, slots=True)
class ModelReadiness:
    """Whether a model answers."""

    name: str
    ready: bool


@dataclass(frozen=True, slots=True)
class NamedModel:
    """The model that a path names."""

    name: str
    version: str
    input: TensorInfo

    @property
    def takes_tensors(self) -> bool:
        """Whether its input is pixels instead of encoded images."""
        return self.input.datatype != "BYTES"


def find_model(classifier: Classifier, name: str, version: str | None = None) -> NamedModel:
    """NAME or NAME-tensor. Raises `NotFound` for another model or version."""
    own, side, digest = classifier.info.name, classifier.recipe.crop, classifier.info.digest[:_VERSION_DIGITS]
    inputs = {
        own: TensorInfo("image", "BYTES", [-1]),
        f"{own}-tensor": TensorInfo("pixels", "UINT8", [-1, side, side, 3]),
    }
    if name not in inputs:
        raise NotFound(f"There is no model {shown(name)}; this server has {' and '.join(inputs)}.")
    if version not in (None, digest):
        raise NotFound(f"{name} has no version {shown(version)}; this server has {digest}.")
    return NamedModel(name, digest, inputs[name])


async def live() -> dict[str, bool]:
    """200 while the process answers at all."""
    return {"live": True}


async def ready(request: Request) -> dict[str, bool]:
    """200 when this server should get requests, 503 otherwise; as `/readyz`."""
    if refusal := health.unready(request.app.state.recognizer):
        raise refusal
    return {"ready": True}


async def server() -> Server:
    """The server and the extensions of the protocol that it supports."""
    return Server("eyespot", __version__, ["binary_tensor_data", "classification"])


async def model_ready(request: Request) -> ModelReadiness:
    """200 when the model answers."""
    model = find_model(request.app.state.recognizer.model.classifier, **request.path_params)
    await ready(request)
    return ModelReadiness(model.name, ready=True)


def metadata(request: Request) -> ModelMetadata:
    """The model's inputs and outputs; -1 is the number of images."""
    classifier: Classifier = request.app.state.recognizer.model.classifier
    model = find_model(classifier, **request.path_params)
    sizes = len(classifier.labels), classifier.embedding_size
    outputs = [TensorInfo(name, "FP32", [-1, size]) for name, size in zip(OUTPUTS, sizes, strict=True)]
    return ModelMetadata(model.name, [model.version], classifier.info.engine, [model.input], outputs)
