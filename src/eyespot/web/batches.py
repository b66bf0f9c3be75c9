"""Many images in one request: each with its own answer or problem, in order or as they are done."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter
from starlette.datastructures import UploadFile

from eyespot import errors
from eyespot.errors import Internal, NoImage, Refusal, TooManyImages, UnsupportedBody
from eyespot.pool import ClientDisconnected
from eyespot.recognizer import Recognizer, Trace
from eyespot.telemetry import event
from eyespot.types import Batch, BatchItem, ImageInfo
from eyespot.web import images, openapi, problems
from eyespot.web.bodies import (
    BATCH_PATH,
    NOT_A_FILE,
    Parameters,
    from_base64,
    given_in,
    in_thread_if_large,
    is_unfilled,
    media_type,
    parse_json,
    read_form,
    read_parameters,
    read_raw,
    too_many_images,
)
from eyespot.web.gate import header
from eyespot.web.middleware import CLIENT_LEFT

router = APIRouter()
LINES = "application/x-ndjson"
_BATCH = TypeAdapter(Batch)
_ITEM = TypeAdapter(BatchItem)
_MOST_BESIDE = 100  # values in JSON beside the images


@dataclass(frozen=True, slots=True)
class _Sent:
    """One image as it was sent: encoded, in base64 if it is a text, or something that is no image at all."""

    index: int
    data: object
    filename: str | None = None

    async def decode(self) -> bytes:
        if isinstance(self.data, str):
            return await in_thread_if_large(len(self.data), from_base64, self.data)
        if isinstance(self.data, bytes):
            return self.data
        raise NoImage("An image in the list must be a base64 string.")


@router.post(
    BATCH_PATH,
    response_model=Batch,
    response_model_exclude_none=True,
    summary="What is in many images",
    tags=["recognition"],
    responses={
        200: {"content": openapi.batch_replies()},
        **problems.documented(
            errors.Unauthorized,
            errors.RateLimited,
            errors.NoImage,
            errors.BadJson,
            errors.BadForm,
            errors.UploadStalled,
            errors.BodyTooLarge,
            errors.TooManyImages,
            errors.UnsupportedBody,
            errors.InvalidParameter,
            errors.Overloaded,
            errors.Draining,
        ),
    },
    openapi_extra=openapi.batch_request(),
)
async def predict_batch(request: Request) -> Response:
    """Recognise many images: a form with a file for each, or JSON with a list of base64.

    One that cannot be recognised has a problem in its place and does not spoil the others. With
    `Accept: application/x-ndjson` each is a line, sent as soon as it is done; `index` says which it is. Each image
    counts as a request for the rate limit.
    """
    recognizer: Recognizer = request.app.state.recognizer
    trace: Trace = request.state.trace
    begun = time.monotonic()
    trace.steps["admit"] = begun - trace.started
    sent, given = await _read(request, request.app.state.batch_max)
    parameters = read_parameters({**request.query_params, **given}, recognizer.classifier.card.limits.max_top_k)
    if request.state.charge_rate_limit:
        await request.state.charge_rate_limit(len(sent))
    trace.steps["read"] = time.monotonic() - begun
    request.state.facts.update(images=len(sent), model=recognizer.classifier.info.name)
    items = _recognized(request, sent, parameters)
    if LINES in (header(request.scope, b"accept") or ""):
        return StreamingResponse(_lines(items), media_type=LINES, headers={"Vary": "Accept"})
    try:
        results = sorted([item async for item in items], key=lambda item: item.index)
    except ClientDisconnected:
        return Response(status_code=CLIENT_LEFT)
    batch = Batch(results, recognizer.classifier.info, trace.request_id)
    body = _BATCH.dump_json(batch, exclude_none=True)
    return Response(body, media_type="application/json", headers={"Vary": "Accept"})


async def _lines(items: AsyncGenerator[BatchItem, None]) -> AsyncIterator[bytes]:
    async with aclosing(items):
        with suppress(ClientDisconnected):
            async for item in items:
                yield _ITEM.dump_json(item, exclude_none=True) + b"\n"


async def _read(request: Request, most: int) -> tuple[deque[_Sent], Mapping[str, Any]]:
    """The images of a batch, at most that many, and the parameters that came beside them.

    Raises:
        NoImage, BadJson, BadForm: the body is not what its type says, or holds none.
        TooManyImages: it holds more.
        UnsupportedBody: it has a type that is not read here.
    """
    kind = media_type(header(request.scope, b"content-type") or "")
    if kind == "multipart/form-data":
        sent, given = await _from_form(request, most)
    elif kind == "application/json":
        raw = await read_raw(request)
        sent, given = await in_thread_if_large(len(raw), _from_json, raw, most)
    else:
        raise UnsupportedBody("A batch is multipart/form-data with a file for each image, or application/json.")
    if not sent:
        raise NoImage("The batch holds no image.")
    if len(sent) > most:
        raise too_many_images(len(sent), most)
    return sent, given


async def _from_form(request: Request, most: int) -> tuple[deque[_Sent], Mapping[str, Any]]:
    form = await read_form(request, most)
    try:
        sent: deque[_Sent] = deque()
        for _, part in form.multi_items():
            if isinstance(part, UploadFile) and not is_unfilled(part):
                sent.append(_Sent(len(sent), part.file.read(), part.filename))
                await part.close()  # or its bytes would be held twice
        if not sent and any(isinstance(form.get(name), str) for name in images.FILE_FIELDS):
            raise NoImage(NOT_A_FILE)
        return sent, given_in(form)
    finally:
        await form.close()


def _from_json(raw: bytes, most: int) -> tuple[deque[_Sent], Mapping[str, Any]]:
    if not raw:
        raise NoImage('Send a list of base64 strings, or an object whose "images" is one.')
    # Neither is in base64. Parsed, millions of values of two bytes would take 30 times the memory of the body.
    values = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    if values > 4 * most + _MOST_BESIDE:
        raise TooManyImages(f"The JSON holds more than {most:,} images.", limit=most)
    fields = parse_json(raw)
    if isinstance(fields, list):
        fields = {"images": fields}
    if not isinstance(fields, dict) or not isinstance(fields.get("images"), list):
        raise NoImage('The JSON must be a list of base64 strings, or an object whose "images" is one.')
    sent = deque(_Sent(index, text) for index, text in enumerate(fields["images"]))
    return sent, given_in(fields)


async def _recognized(request: Request, sent: deque[_Sent], parameters: Parameters) -> AsyncGenerator[BatchItem, None]:
    """Each image as it is done; the bytes of an image are let go of with it.

    Raises:
        ClientDisconnected: nobody waits for the rest, which is not begun.
    """
    # More than have their turn in the pool: the others are decoded from base64, looked up and recorded meanwhile.
    at_once = 2 * request.app.state.recognizer.pool.workers
    disconnected: asyncio.Future[Any] = asyncio.ensure_future(
        request.receive()
    )  # after the body comes the client's disconnected
    running: set[asyncio.Future[Any]] = set()
    refused = 0
    try:
        while sent or running:
            while sent and len(running) < at_once:
                running.add(asyncio.create_task(_recognize(request, sent.popleft(), parameters)))
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


async def _recognize(request: Request, sent: _Sent, parameters: Parameters) -> BatchItem:
    """One item, whatever happens to it."""
    recognizer: Recognizer = request.app.state.recognizer
    of_batch: Trace = request.state.trace
    trace = Trace(of_batch.request_id, of_batch.address, of_batch.key, of_batch.started)
    try:
        image = await images.named(await sent.decode(), recognizer.classifier.card.limits.max_bytes)
        seen = await recognizer.recognize(image, trace, in_batch=True)
        predictions = recognizer.classifier.top(seen, parameters.top_k, parameters.min_confidence)
        found = ImageInfo(image.sha256, seen.format, seen.width, seen.height)
        return BatchItem(sent.index, sent.filename, predictions, found, trace.cache == "hit")
    except Exception as error:
        if not isinstance(error, Refusal):
            event("request_failed", logging.ERROR, exc_info=error, request_id=trace.request_id, index=sent.index)
        return _refused(recognizer, sent, trace.request_id, error if isinstance(error, Refusal) else Internal())
    finally:
        recognizer.metrics.observe_steps(trace.steps)


# Apart from where it is caught: a name for it there closes a cycle through its traceback, and the image stays.
def _refused(recognizer: Recognizer, sent: _Sent, request_id: str, refusal: Refusal) -> BatchItem:
    recognizer.metrics.refused.labels(refusal.code).inc()
    return BatchItem(sent.index, sent.filename, problem=problems.problem(refusal, request_id))
