"""`/v2/models/NAME/infer`: recognises the images of one tensor."""

from collections import deque
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import numpy as np
from fastapi import Request, Response

from eyespot.errors import BadTensor, Refusal, UnsupportedBody
from eyespot.recognizer import Image, Recognizer
from eyespot.telemetry import Trace
from eyespot.values import shown
from eyespot.vision.classifier import Classifier
from eyespot.vision.scores import Scores
from eyespot.web.api import many, messages, tensors
from eyespot.web.api.image import Item, image_of, in_thread_if_large
from eyespot.web.api.inference_types import Output, Values
from eyespot.web.api.v2 import EMBEDDING, OUTPUTS, NamedModel, find_model
from eyespot.web.gate import disconnected, header

_JSON_LENGTH = messages.JSON_LENGTH_HEADER.lower().encode()
_JSON_VALUES = 810_000  # four images of 224 x 224 as nested lists; each number takes up to 32 bytes of memory
_BYTES_PER_PROBABILITY = 20  # in JSON


async def infer(request: Request) -> Response:
    """Recognise the images of one tensor. If one cannot be recognised, the whole request fails.

    The reply has `probabilities` unless `outputs` asks for something else. Each image counts as one request for the
    rate limit.
    """
    state, trace = request.state, request.state.trace
    trace.lap("admit")
    if encoding := header(request.scope, b"content-encoding"):
        raise UnsupportedBody(f"Content-Encoding {shown(encoding)} is not supported: send the body uncompressed.")
    length = header(request.scope, _JSON_LENGTH)
    if length == "0":  # one image; of a batch there is always room
        request.app.state.recognizer.refuse_early()
    raw = b"".join([chunk async for chunk in request.stream() if chunk])
    classifier: Classifier = request.app.state.recognizer.model.classifier  # not before the body: see `body.read`
    model = find_model(classifier, **request.path_params)
    max_images = request.app.state.batch_max
    request_id, outputs, items = await in_thread_if_large(len(raw), _read, raw, length, classifier, model, max_images)
    del raw
    trace.lap("read")
    if state.charge_rate_limit:
        await state.charge_rate_limit(len(items))
    state.facts.update(images=len(items), model=classifier.info.name)
    if len(items) > 1:
        state.count_body_as("batch")
    embed = any(output.name == EMBEDDING for output in outputs)
    scores = await _recognize(request, classifier, items, model.takes_tensors, embed)
    size = len(scores) * len(classifier.labels) * _BYTES_PER_PROBABILITY
    response = await in_thread_if_large(size, _render, request_id, model, outputs, classifier, scores)
    trace.lap("respond")
    return response


def _read(
    raw: bytes, length: str | None, classifier: Classifier, model: NamedModel, max_images: int
) -> tuple[str | None, list[Output], deque[Item]]:
    """The request's `id`, outputs and images. Raises `BadJson`, `BadTensor`, `NoImage` or `TooManyImages`."""
    recipe = classifier.recipe
    max_values = max(_JSON_VALUES, 4 * recipe.crop**2 + 2 * recipe.crop + 100)  # at least one image, whatever its size
    asked, binary = messages.read(raw, length, model.input, max_values)
    if len(asked.inputs) != 1:
        raise BadTensor(f"The model has one input, `{model.input.name}`; the request has {len(asked.inputs)}.")
    outputs = messages.requested_outputs(asked, OUTPUTS)
    found = tensors.images(asked.inputs[0], model.input, binary, recipe, max_images)
    return asked.id, outputs, deque(Item(index, image) for index, image in enumerate(found))


async def _recognize(
    request: Request, classifier: Classifier, items: deque[Item], is_tensor: bool, embed: bool
) -> list[Scores]:
    """The scores of each image, a single one in the interactive lane, several in that of batches."""
    recognizer: Recognizer = request.app.state.recognizer
    compute = partial(classifier.scores, tensor=is_tensor, embed=embed)
    recognize = partial(recognizer.recognize, classifier, compute=compute, reuse=not embed)

    async def read(item: Item, trace: Trace) -> Image:
        image = replace(await image_of(item, classifier.card.limits.max_bytes), is_tensor=is_tensor)
        trace.lap("read")
        return image

    if len(items) == 1:
        trace: Trace = request.state.trace
        image = await read(items.pop(), trace)
        request.state.facts["sha256"] = image.sha256
        return [await recognize(image, trace, disconnected(request))]

    async def work(item: Item, trace: Trace) -> Scores:
        return await recognize(await read(item, trace), trace, lane="batch")

    return await _all(request, items, work)


async def _all(request: Request, items: deque[Item], work: many.Work[Scores]) -> list[Scores]:
    """The scores of all images. After a `Refusal` no other is begun; the first is raised once the others are done."""
    found: dict[int, Scores] = {}
    refusals: dict[int, Refusal] = {}
    async with aclosing(many.each(request, items, work)) as results:
        async for item, outcome in results:
            if isinstance(outcome, Refusal):
                refusals[item.index] = outcome
                items.clear()
            else:
                found[item.index] = outcome
    request.state.trace.skip()
    for index in sorted(refusals):
        refusals[index].detail = f"Image {index}: {refusals[index].detail}"
        raise refusals[index]
    return [found[index] for index in sorted(found)]


def _render(
    request_id: str | None, model: NamedModel, outputs: list[Output], classifier: Classifier, scores: list[Scores]
) -> Response:
    values = [(output, _values(output, classifier, scores)) for output in outputs]
    return messages.respond(request_id, model.name, model.version, values)


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
