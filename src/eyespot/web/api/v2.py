"""`/v2`: the Open Inference Protocol, for clients of Triton, KServe and MLServer.

A model NAME takes encoded images, NAME-tensor what the model itself takes. Both are the model that `/predict` uses.
"""

from collections import deque
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from fastapi import Request, Response

from eyespot._version import __version__
from eyespot.errors import BadTensor, NotFound, Refusal
from eyespot.recognizer import Compute, Recognizer
from eyespot.telemetry import Trace
from eyespot.values import shown
from eyespot.vision.classifier import Classifier
from eyespot.vision.scores import Scores
from eyespot.web.api import health, inference, many, tensors
from eyespot.web.api.image import Item, image_of, in_thread_if_large
from eyespot.web.api.inference import Output, TensorInfo, Values
from eyespot.web.gate import header

PROBABILITIES, EMBEDDING = "probabilities", "embedding"
_VERSION_DIGITS = 12
_JSON_VALUES = 810_000  # four images of 224 x 224 as nested lists; each number takes up to 32 bytes of memory


@dataclass(frozen=True, slots=True)
class Server:
    """What serves."""

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
    served = _served(request.app.state.recognizer.model.classifier, **request.path_params)
    await ready(request)
    return ModelReadiness(served.name, ready=True)


def metadata(request: Request) -> ModelMetadata:
    """The model's inputs and outputs; -1 is the number of images."""
    classifier: Classifier = request.app.state.recognizer.model.classifier
    served = _served(classifier, **request.path_params)
    probabilities, embedding = served.outputs
    return replace(served, outputs=[probabilities, replace(embedding, shape=[-1, classifier.embedding_size])])


async def infer(request: Request) -> Response:
    """Recognise the images of one tensor. If one cannot be recognised, the whole request fails.

    The reply has `probabilities` unless `outputs` asks for something else. Each image counts as one request for the
    rate limit.
    """
    trace: Trace = request.state.trace
    trace.lap("admit")
    raw = b"".join([chunk async for chunk in request.stream() if chunk])
    classifier: Classifier = request.app.state.recognizer.model.classifier  # not before the body: see `body.read`
    served, most = _served(classifier, **request.path_params), request.app.state.batch_max
    length = header(request.scope, inference.HEADER.lower().encode())
    request_id, outputs, items = await in_thread_if_large(len(raw), _read, raw, length, classifier, served, most)
    del raw
    if request.state.charge_rate_limit:
        await request.state.charge_rate_limit(len(items))
    request.state.facts.update(images=len(items), model=classifier.info.name)
    embed = any(output.name == EMBEDDING for output in outputs)
    compute = partial(classifier.scores, tensor=served.inputs[0].datatype != "BYTES", embed=embed)
    scores = await _recognize(request, classifier, items, compute, reuse=not embed)
    values = [(output, _values(output, classifier, scores)) for output in outputs]
    response = inference.respond(request_id, served.name, served.versions[0], values)
    trace.lap("respond")
    return response


def _served(classifier: Classifier, name: str, version: str | None = None) -> ModelMetadata:
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
    outputs = {PROBABILITIES: len(classifier.labels), EMBEDDING: -1}
    tensors = [TensorInfo(output, "FP32", [-1, size]) for output, size in outputs.items()]
    return ModelMetadata(name, [digest], classifier.info.engine, [inputs[name]], tensors)


def _read(
    raw: bytes, length: str | None, classifier: Classifier, served: ModelMetadata, most: int
) -> tuple[str | None, list[Output], deque[Item]]:
    """The request's `id`, outputs and images. Raises `BadJson`, `BadTensor`, `NoImage` or `TooManyImages`."""
    recipe, (expected,) = classifier.recipe, served.inputs
    max_values = max(_JSON_VALUES, 4 * recipe.crop**2)  # at least one image, whatever its size
    asked, binary = inference.read(raw, length, expected, max_values)
    if len(asked.inputs) != 1:
        raise BadTensor(f"The model has one input, `{expected.name}`; the request has {len(asked.inputs)}.")
    outputs = inference.outputs(asked, [output.name for output in served.outputs])
    found = tensors.images(asked.inputs[0], expected, binary, recipe, most)
    return asked.id, outputs, deque(Item(index, image) for index, image in enumerate(found))


async def _recognize(
    request: Request, classifier: Classifier, items: deque[Item], compute: Compute, reuse: bool
) -> list[Scores]:
    """The scores of each image. A single one is interactive, several are a batch. Raises the first `Refusal`."""
    recognizer: Recognizer = request.app.state.recognizer
    trace: Trace = request.state.trace
    limit = classifier.card.limits.max_bytes
    if len(items) == 1:
        image = await image_of(items.pop(), limit)
        trace.lap("read")
        request.state.facts.update(sha256=image.sha256)
        return [await recognizer.recognize(classifier, image, trace, request.receive, compute=compute, reuse=reuse)]
    trace.lap("read")

    async def work(item: Item, trace: Trace) -> Scores:
        image = await image_of(item, limit)
        return await recognizer.recognize(classifier, image, trace, lane="batch", compute=compute, reuse=reuse)

    found = {}
    async with aclosing(many.each(request, items, work)) as results:
        async for item, outcome in results:
            if isinstance(outcome, Refusal):
                outcome.detail = f"Image {item.index}: {outcome.detail}"
                raise outcome
            found[item.index] = outcome
    return [found[index] for index in sorted(found)]


def _values(output: Output, classifier: Classifier, scores: list[Scores]) -> Values:
    """An output for n images: float32 (n, size), or for `classification` strings (n, count), value:class_id:label."""
    if output.name == EMBEDDING:
        return np.stack([one.embedding for one in scores if one.embedding is not None])
    if output.classification:
        names, count = classifier.labels.names["en"], output.classification
        best = [zip(one.confidences[:count].tolist(), one.class_ids[:count].tolist(), strict=True) for one in scores]
        return np.array([[f"{value:.6f}:{index}:{names[index]}" for value, index in row] for row in best], object)
    values = np.empty((len(scores), len(classifier.labels)), np.float32)
    for row, one in zip(values, scores, strict=True):
        row[one.class_ids] = one.confidences
    return values
