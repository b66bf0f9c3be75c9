"""`/predict`, `/predict/batch` and `/results/{sha256}`: what is in one image, in many, and in one sent before."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter

from eyespot.errors import InvalidParameter, NotFound, Refusal
from eyespot.job import ClientDisconnected
from eyespot.recognizer import Recognizer
from eyespot.telemetry import Trace, child
from eyespot.types import Batch, BatchItem, ImageInfo, ModelInfo
from eyespot.values import SHA256, complaint, shown
from eyespot.web.api import answer, body, language, many
from eyespot.web.api.body import Body
from eyespot.web.api.image import Item, image_of
from eyespot.web.api.parameters import parse
from eyespot.web.gate import disconnected, header, problems

NDJSON = "application/x-ndjson"
_BATCH = TypeAdapter(Batch)
_ITEM = TypeAdapter(BatchItem)


async def predict(request: Request) -> Response:
    """Recognise one image: a form with one file, base64 in JSON, or the image itself as the body.

    `PUT` does the same: `curl -T cat.jpg` sends it. The parameters may also be fields of the form.
    """
    recognizer: Recognizer = request.app.state.recognizer
    recognizer.refuse_early()
    image, parameters, classifier = await body.read_one(request)
    trace: Trace = request.scope["state"]["trace"]
    scores = await recognizer.recognize(classifier, image, trace, disconnected(request))
    return answer.recognition(request, classifier, image.sha256, scores, parameters)


async def predict_batch(request: Request) -> Response:
    """Recognise many images: a form with a file for each, or JSON with a list of base64 strings.

    An image that cannot be recognised gets a problem in its place and does not affect the others. With
    `Accept: application/x-ndjson` each result is a line, sent as soon as it is done; `index` says which image it is
    for. Each image counts as one request for the rate limit.
    """
    trace: Trace = request.state.trace
    trace.lap("admit")
    asked = await body.read(request, request.app.state.batch_max)
    if request.state.charge_rate_limit:
        await request.state.charge_rate_limit(len(asked.items))
    trace.lap("read")
    request.state.facts.update(images=len(asked.items), model=asked.classifier.info.name, refused=0)
    results, headers = _results(request, asked), language.headers(asked.parameters.lang, "Accept")
    if NDJSON in (header(request.scope, b"accept") or "").lower():
        lines = _lines(results, asked.classifier.info)
        if request.scope["http_version"] == "1.0":  # HTTP/1.0 has no chunked encoding, so send a Content-Length
            return Response(b"".join([line async for line in lines]), media_type=NDJSON, headers=headers)
        return StreamingResponse(lines, media_type=NDJSON, headers=headers)
    items = sorted([item async for item in results], key=lambda item: item.index)
    reply = _BATCH.dump_json(Batch(items, asked.classifier.info, trace.request_id), exclude_none=True)
    return Response(reply, media_type="application/json", headers=headers)


async def result(request: Request) -> Response:
    """The cached answer for an image, by the sha256 of its encoded bytes; 404 when there is none.

    Unless EYESPOT_CACHE_SCOPE is `key`, it tells every caller whether anyone has sent that image.
    """
    recognizer: Recognizer = request.app.state.recognizer
    classifier = recognizer.model.classifier
    trace: Trace = request.state.trace
    trace.lap("admit")
    sha256 = request.path_params["sha256"]
    if not re.fullmatch(SHA256, sha256):
        raise InvalidParameter(f"{complaint('sha256', shown(sha256), {'pattern': SHA256})}.")
    asked = parse(request, {}, len(classifier.labels))
    request.state.facts.update(sha256=sha256, model=classifier.info.name)
    scores = await recognizer.recall(classifier, sha256, trace)
    if not scores:  # a client asks before it sends an image
        unknown = NotFound("No answer is cached for this image; send it to /predict.")
        return problems.response(request, unknown, counted=False)
    return answer.recognition(request, classifier, sha256, scores, asked)


async def _lines(results: AsyncGenerator[BatchItem, None], model: ModelInfo) -> AsyncIterator[bytes]:
    async with aclosing(results):
        with suppress(ClientDisconnected):
            async for item in results:
                yield _ITEM.dump_json(replace(item, model=model), exclude_none=True) + b"\n"


async def _results(request: Request, asked: Body) -> AsyncGenerator[BatchItem, None]:
    """The result or the problem of each image, as it is done. Raises `ClientDisconnected`."""
    async with aclosing(many.each(request, asked.items, partial(_result, request, asked))) as results:
        async for item, outcome in results:
            yield _refused(request, item, outcome) if isinstance(outcome, Refusal) else outcome


async def _result(request: Request, asked: Body, item: Item, trace: Trace) -> BatchItem:
    recognizer: Recognizer = request.app.state.recognizer
    classifier, parameters = asked.classifier, asked.parameters
    image = await image_of(item, classifier.card.limits.max_bytes)
    scores = await recognizer.recognize(classifier, image, trace, lane="batch")
    found = classifier.answer(scores, parameters.top_k, parameters.min_confidence, parameters.lang)
    info = ImageInfo(image.sha256, scores.format, scores.width, scores.height)
    return BatchItem(item.index, item.filename, **found, image=info, cached=trace.cache == "hit")


def _refused(request: Request, item: Item, refusal: Refusal) -> BatchItem:
    request.state.facts["refused"] += 1
    child(request.app.state.metrics.refusals, refusal.code).inc()
    return BatchItem(item.index, item.filename, problem=problems.problem(refusal, request.state.trace.request_id))
