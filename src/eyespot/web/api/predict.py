"""`/predict`, `/predict/batch` and `/results/{sha256}`: what is in one image, in many, and in one sent before."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter

from eyespot.errors import Internal, InvalidParameter, NotFound, Refusal
from eyespot.job import ClientDisconnected
from eyespot.recognizer import Recognizer
from eyespot.telemetry import Trace, child, event
from eyespot.types import Batch, BatchItem, ImageInfo, ModelInfo
from eyespot.values import SHA256, complaint, shown
from eyespot.web.api import answer, body, language
from eyespot.web.api.body import Body
from eyespot.web.api.image import Item, image_of
from eyespot.web.api.parameters import parse
from eyespot.web.gate import header, problems

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
    # `receive` returns when the client disconnects.
    scores = await recognizer.recognize(classifier, image, trace, request.receive)
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
    request.state.facts.update(images=len(asked.items), model=asked.classifier.info.name)
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
    """Each result as it is done; an image's bytes are released with it. Raises `ClientDisconnected`."""
    # More than the batch lane admits: meanwhile the others are decoded from base64, looked up and audited.
    at_once = 2 * request.app.state.pool.workers
    disconnected: asyncio.Future[Any] = asyncio.ensure_future(request.receive())
    running: set[asyncio.Future[Any]] = set()
    refused = 0
    try:
        while asked.items or running:
            while asked.items and len(running) < at_once:
                running.add(asyncio.create_task(_result(request, asked.items.popleft(), asked)))
            done, _ = await asyncio.wait({disconnected, *running}, return_when=asyncio.FIRST_COMPLETED)
            if disconnected in done:
                raise ClientDisconnected
            running -= done
            for task in done:
                refused += task.result().problem is not None
                yield task.result()
    finally:
        request.state.facts["refused"] = refused
        for task in (disconnected, *running):
            task.cancel()


async def _result(request: Request, item: Item, asked: Body) -> BatchItem:
    """The result of one image, whatever happens to it."""
    recognizer: Recognizer = request.app.state.recognizer
    batch: Trace = request.state.trace
    trace = Trace(batch.request_id, batch.address, batch.key, batch.started)
    classifier, parameters = asked.classifier, asked.parameters
    try:
        image = await image_of(item, classifier.card.limits.max_bytes)
        scores = await recognizer.recognize(classifier, image, trace, lane="batch")
        found = classifier.answer(scores, parameters.top_k, parameters.min_confidence, parameters.lang)
        info = ImageInfo(image.sha256, scores.format, scores.width, scores.height)
        return BatchItem(item.index, item.filename, **found, image=info, cached=trace.cache == "hit")
    except Exception as error:
        if not isinstance(error, Refusal):
            event("request_failed", logging.ERROR, exc_info=error, request_id=trace.request_id, index=item.index)
        return _refused(recognizer, item, trace, error if isinstance(error, Refusal) else Internal())
    finally:
        recognizer.metrics.observe_steps(trace.steps)


# Not inside the `except`: a local name for the error would close a cycle through its traceback, which keeps the image.
def _refused(recognizer: Recognizer, item: Item, trace: Trace, refusal: Refusal) -> BatchItem:
    child(recognizer.metrics.refusals, refusal.code).inc()
    return BatchItem(item.index, item.filename, problem=problems.problem(refusal, trace.request_id))
