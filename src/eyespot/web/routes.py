"""The routes: what each URL answers."""

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import TypeAdapter

from eyespot import errors
from eyespot.errors import NotFound
from eyespot.pool import ClientDisconnected
from eyespot.recognizer import Recognizer, Trace
from eyespot.types import ImageInfo, Label, ModelCard, Readiness, Recognition
from eyespot.vision.classifier import Scores
from eyespot.web import STATIC, images, openapi, problems
from eyespot.web.bodies import Parameters, read_parameters
from eyespot.web.middleware import CLIENT_LEFT

router = APIRouter()
_RECOGNITION = TypeAdapter(Recognition)
_LABELS = TypeAdapter(tuple[Label, ...])
_MODEL = TypeAdapter(ModelCard)
_READINESS = TypeAdapter(Readiness)

_NO_STORE = {"Cache-Control": "no-store"}
# Everything a page of ours needs comes from here; Swagger UI sets styles and draws icons from data: URIs.
_PAGE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def _json(body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, headers=headers, media_type="application/json")


@router.post(
    "/predict",
    response_model=Recognition,
    summary="What is in an image",
    tags=["recognition"],
    responses={
        200: {"content": {"application/json": {"example": openapi.RECOGNITION}}},
        **problems.documented(
            errors.Unauthorized,
            errors.RateLimited,
            errors.NoImage,
            errors.SeveralImages,
            errors.BadJson,
            errors.BadBase64,
            errors.BadForm,
            errors.UploadStalled,
            errors.ImageTooLarge,
            errors.BodyTooLarge,
            errors.UnsupportedBody,
            errors.UnsupportedFormat,
            errors.BrokenImage,
            errors.TooManyPixels,
            errors.TooSmall,
            errors.TooManyScans,
            errors.TooMuchMemory,
            errors.InvalidParameter,
            errors.Overloaded,
            errors.Draining,
            errors.AuditUnavailable,
            errors.StorageFull,
            errors.DeadlineExceeded,
        ),
    },
    openapi_extra=openapi.predict_request(),
)
async def predict(request: Request) -> Response:
    """Recognise one image: a form with one file, base64 in JSON, or the image itself as the body."""
    recognizer: Recognizer = request.app.state.recognizer
    limits = recognizer.classifier.card.limits
    state = request.scope["state"]
    trace: Trace = state["trace"]
    begun = time.monotonic()
    trace.steps["admit"] = begun - trace.started
    image, parameters = await images.read(request, limits.max_bytes, limits.max_top_k)
    trace.steps["read"] = time.monotonic() - begun
    state["facts"].update(sha256=image.sha256, model=recognizer.classifier.info.name)
    try:
        seen = await recognizer.recognize(
            image, trace, request.receive
        )  # after the body comes the client's disconnected
    except ClientDisconnected:
        return Response(status_code=CLIENT_LEFT)
    return _answer(recognizer, image.sha256, seen, parameters, trace)


def _answer(recognizer: Recognizer, sha256: str, seen: Scores, parameters: Parameters, trace: Trace) -> Response:
    begun = time.monotonic()
    recognition = Recognition(
        predictions=recognizer.classifier.top(seen, parameters.top_k, parameters.min_confidence),
        image=ImageInfo(sha256, seen.format, seen.width, seen.height),
        model=recognizer.classifier.info,
        cached=trace.cache == "hit",
        request_id=trace.request_id,
    )
    body = _RECOGNITION.dump_json(recognition)
    trace.steps["respond"] = time.monotonic() - begun
    return _json(body)


# `curl -T` sends a PUT. The same operation, so it is told of once.
router.add_api_route("/predict", predict, methods=["PUT"], include_in_schema=False)


@router.get(
    "/results/{sha256}",
    response_model=Recognition,
    summary="What is in an image that was sent before",
    tags=["recognition"],
    responses={
        200: {"content": {"application/json": {"example": {**openapi.RECOGNITION, "cached": True}}}},
        **problems.documented(
            errors.Unauthorized,
            errors.RateLimited,
            errors.NotFound,
            errors.InvalidParameter,
            errors.AuditUnavailable,
        ),
    },
    openapi_extra={"parameters": openapi.parameters(beside_a_body=False)},
)
async def result(
    request: Request,
    sha256: Annotated[str, InPath(pattern="^[0-9a-f]{64}$", description="Of the encoded bytes.")],
) -> Response:
    """The answer that is remembered for an image, which so need not be sent again; 404 when there is none.

    Unless EYESPOT_CACHE_SCOPE is `key`, it tells every caller whether anyone has sent that image.
    """
    recognizer: Recognizer = request.app.state.recognizer
    trace: Trace = request.state.trace
    trace.steps["admit"] = time.monotonic() - trace.started
    parameters = read_parameters(request.query_params, recognizer.classifier.card.limits.max_top_k)
    request.state.facts.update(sha256=sha256, model=recognizer.classifier.info.name)
    seen = await recognizer.recall(sha256, trace)
    if not seen:
        raise NotFound("No answer is remembered for this image; send it to /predict.")
    return _answer(recognizer, sha256, seen, parameters, trace)


@router.get(
    "/labels",
    response_model=list[Label],
    summary="The classes",
    tags=["recognition"],
    responses=problems.documented(errors.Unauthorized, errors.RateLimited, errors.InvalidParameter),
)
async def labels(
    request: Request,
    lang: Annotated[  # noqa: ARG001
        Literal["en", "zh"], Query(description="Language; `zh` answers with the English names so far.")
    ] = "en",
) -> Response:
    """Every class that the network knows, in the order of class_id."""
    return _json(_LABELS.dump_json(request.app.state.recognizer.classifier.labels))


@router.get(
    "/model",
    response_model=ModelCard,
    summary="The network",
    tags=["recognition"],
    responses=problems.documented(errors.Unauthorized, errors.RateLimited),
)
async def model(request: Request) -> Response:
    """Which network answers, how good it is, and what it accepts."""
    return _json(_MODEL.dump_json(request.app.state.recognizer.classifier.card))


@router.get("/livez", summary="Alive?", tags=["operation"])
@router.head("/livez", include_in_schema=False)
async def livez() -> Response:
    """200 while the process answers at all; touches nothing."""
    return _json(b'{"alive":true}', _NO_STORE)


@router.get(
    "/readyz",
    response_model=Readiness,
    response_model_exclude_none=True,
    summary="Ready for traffic?",
    tags=["operation"],
    responses=problems.documented(errors.Overloaded, errors.Draining, errors.AuditUnavailable),
    openapi_extra={
        "parameters": [
            {
                "name": "verbose",
                "in": "query",
                "description": "Name the checks; needs no value.",
                "allowEmptyValue": True,
                "schema": {"type": "string"},
            }
        ]
    },
)
@router.head("/readyz", include_in_schema=False)
async def readyz(request: Request) -> Response:
    """200 when this server should be sent requests; 503 while it stops, is stuck, or lacks an audit log it needs."""
    recognizer: Recognizer = request.app.state.recognizer
    checks = recognizer.checks()
    shown = checks if "verbose" in request.query_params else None
    unready = recognizer.unready()
    if not unready:
        return _json(_READINESS.dump_json(Readiness(True, shown), exclude_none=True), _NO_STORE)
    answer = problems.response(request, unready, shown)
    answer.headers.update(_NO_STORE)
    return answer


@router.get(
    "/metrics",
    summary="Numbers for Prometheus",
    tags=["operation"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms in the Prometheus text format."""
    registry = request.app.state.recognizer.metrics.registry
    return Response(generate_latest(registry), headers={**_NO_STORE, "Content-Type": CONTENT_TYPE_LATEST})


@router.get("/", include_in_schema=False)
@router.head("/", include_in_schema=False)
async def page() -> Response:
    return FileResponse(STATIC / "index.html", headers=_PAGE)


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    return FileResponse(STATIC / "docs.html", headers=_PAGE)
