"""What `/openapi.json` says beyond the types: bodies, parameters, errors, and examples."""

import base64
import json
from pathlib import Path
from typing import Any

from eyespot import errors
from eyespot.choices import FORMATS, titles
from eyespot.errors import Refusal
from eyespot.types import Batch, Explanation, LabelEntry, Readiness, Recognition
from eyespot.values import SHA256, Schema
from eyespot.web.api.parameters import EXPLAIN_SCHEMA, SCHEMA
from eyespot.web.api.predict import NDJSON
from eyespot.web.gate import problems

EXAMPLES = {path.stem: path.read_bytes() for path in Path(__file__).parent.glob("example*")}
# The reply of EfficientNet-Lite0 to the packaged sample image, and that image in 32 x 21 pixels for "Try it out".
_RECOGNITION = json.loads(EXAMPLES["example"])
SMALL_PNG = base64.b64encode(EXAMPLES["example-image"]).decode()

BINARY = {"type": "string", "format": "binary"}
_IMAGE = {**BINARY, "description": f"The encoded image: {titles()}."}
_BASE64 = {"type": "string", "description": "base64 (RFC 4648, either alphabet, padded or not) or a data: URI."}
_SHA256 = {"type": "string", "pattern": SHA256}
_IMAGE_TYPES = [*(choice.media_type for choice in FORMATS.values()), "application/octet-stream"]
_IMAGES = {"type": "array", "minItems": 1}


def _object(required: str, kind: Schema, optional: Schema | None = None) -> Schema:
    return {"type": "object", "required": [required], "properties": {required: kind, **(optional or {})}}


def _parameters(parameters: Schema = SCHEMA, note: str = "") -> list[Schema]:
    """The query's, which FastAPI does not see because `api.body` reads them."""
    return [
        {"name": name, "in": "query", "description": schema["description"] + note, "schema": schema}
        for name, schema in parameters.items()
    ]


def _in_json(parameters: Schema = SCHEMA) -> Schema:
    return {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in parameters.items()}


def _request(description: str, form: Schema, json_: Schema, parameters: Schema = SCHEMA, **others: Any) -> Schema:
    content = {"multipart/form-data": {"schema": form}, "application/json": json_, **others}
    return {
        "parameters": _parameters(parameters, " A value in the body wins over this one."),
        "requestBody": {"required": True, "description": description, "content": content},
    }


def _one_image(parameters: Schema = SCHEMA) -> Schema:
    return _request(
        "One image: a file part called `file` or `image`, base64 in JSON, or the image itself.",
        _object("file", _IMAGE),
        {"schema": _object("image", _BASE64, _in_json(parameters)), "example": {"image": SMALL_PNG}},
        parameters,
        **{kind: {"schema": _IMAGE} for kind in _IMAGE_TYPES},
    )


def _problem(kind: type[Refusal]) -> dict[str, Any]:
    return json.loads(problems.document(kind(), _RECOGNITION["request_id"]))  # type: ignore[no-any-return]


def options(
    operation_id: str, tag: str, summary: str, *kinds: type[Refusal], ok: dict[str, Any] | None = None, **others: Any
) -> dict[str, Any]:
    """The options of a route: `ok` is the content of its 200, and each problem code has an example.

    Generators of clients name functions by the `operation_id`.
    """
    responses: dict[int, dict[str, Any]] = {200: {"content": ok}} if ok else {}
    kinds += (errors.Internal,)
    for kind in kinds:
        content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
        response = responses.setdefault(kind.status, {"content": {problems.MEDIA_TYPE: content}})
        examples = response["content"][problems.MEDIA_TYPE]["examples"]
        examples[kind.code] = {"summary": kind().detail, "value": _problem(kind)}
        response["description"] = "; ".join(f"`{code}`" for code in examples)
        if kind.status in (429, 503):
            schema = {"type": "integer", "minimum": 1}
            response["headers"] = {"Retry-After": {"description": "Seconds, at least 1.", "schema": schema}}
    return {"operation_id": operation_id, "tags": [tag], "summary": summary, "responses": responses, **others}


KEYS = (errors.Unauthorized, errors.RateLimited)
_OF_A_BODY = (
    *(errors.NoImage, errors.BadJson, errors.BadForm, errors.UploadStalled, errors.BodyTooLarge),
    *(errors.UnsupportedBody, errors.InvalidParameter, errors.Overloaded, errors.Draining),
)
OF_A_SINGLE_IMAGE = (
    *(*KEYS, *_OF_A_BODY),
    *(errors.SeveralImages, errors.BadBase64, errors.ImageTooLarge, errors.UnsupportedFormat, errors.BrokenImage),
    *(errors.TooManyPixels, errors.TooSmall, errors.TooManyScans, errors.TooMuchMemory),
    *(errors.AuditUnavailable, errors.StorageFull, errors.DeadlineExceeded),
)
_OF_A_RECORD = (*KEYS, errors.NotFound, errors.InvalidParameter)
_OF_AN_UPLOAD = (*_OF_A_RECORD, errors.Forbidden, errors.StorageUnavailable, errors.StorageFull)

PREDICT = options(
    "predict",
    "recognition",
    "Recognise an image",
    *OF_A_SINGLE_IMAGE,
    ok={"application/json": {"example": _RECOGNITION}},
    response_model=Recognition,
    openapi_extra=_one_image(),
)

_EXPLANATION = {
    "prediction": _RECOGNITION["predictions"][0],
    **json.loads(EXAMPLES["example-map"]),
    **{name: _RECOGNITION[name] for name in ("image", "model", "request_id")},
}
EXPLAIN = options(
    "explain",
    "recognition",
    "Show where the model sees a class",
    *OF_A_SINGLE_IMAGE,
    errors.NotFound,
    ok={"application/json": {"example": _EXPLANATION}, "image/png": {"schema": BINARY}},
    response_model=Explanation,
    openapi_extra=_one_image(EXPLAIN_SCHEMA),
)

_ITEMS: list[dict[str, Any]] = [
    {"index": 0, "filename": "cat.jpg", **{k: v for k, v in _RECOGNITION.items() if k not in ("model", "request_id")}},
    {"index": 1, "filename": "notes.txt", "problem": _problem(errors.UnsupportedFormat)},
]
_BATCH = {"results": _ITEMS, "model": _RECOGNITION["model"], "request_id": _RECOGNITION["request_id"]}
_LINES = "".join(f"{json.dumps(item)}\n" for item in _ITEMS)
BATCH = options(
    "predictBatch",
    "recognition",
    "Recognise many images",
    *(*KEYS, *_OF_A_BODY, errors.TooManyImages),
    ok={
        "application/json": {"example": _BATCH},
        NDJSON: {"schema": {"$ref": "#/components/schemas/BatchItem"}, "example": _LINES},
    },
    response_model=Batch,
    response_model_exclude_none=True,
    openapi_extra=_request(
        "A file part for each image, whatever its name, or base64 strings in JSON: `images`, or a list alone.",
        _object("file", {**_IMAGES, "items": _IMAGE}),
        {
            # Not also a list alone, which is read too: from a choice of two, generators make clients that fail.
            "schema": _object("images", {**_IMAGES, "items": _BASE64}, _in_json()),
            "example": {"images": [SMALL_PNG, "bm8gaW1hZ2U="]},
        },
    ),
)

_DIGEST = "SHA-256 of the encoded image."
_PATH = {"name": "sha256", "in": "path", "required": True, "description": _DIGEST, "schema": _SHA256}
RESULT = options(
    "getResult",
    "recognition",
    "The cached answer for an image",
    *(*_OF_A_RECORD, errors.AuditUnavailable),
    ok={"application/json": {"example": {**_RECOGNITION, "cached": True}}},
    response_model=Recognition,
    openapi_extra={"parameters": [_PATH, *_parameters()]},
)

LABELS = options(
    "listLabels",
    "recognition",
    "The classes of the model",
    *(*KEYS, errors.InvalidParameter),
    ok={"application/json": {"example": json.loads(EXAMPLES["example-labels"])}},
    response_model=list[LabelEntry],
)
_CARD = {"application/json": {"example": json.loads(EXAMPLES["example-model"])}}
MODEL = options("getModel", "recognition", "The model", *KEYS, ok=_CARD)
LIVEZ: dict[str, Any] = {
    "operation_id": "getLiveness",
    "tags": ["operation"],
    "summary": "Alive?",
    "responses": {200: {"content": {"application/json": {"schema": _object("alive", {"type": "boolean"})}}}},
}
UNREADY = (errors.Overloaded, errors.Draining, errors.AuditUnavailable)
_VERBOSE = {"name": "verbose", "in": "query", "description": "Name the checks; needs no value."}
READYZ = options(
    "getReadiness",
    "operation",
    "Ready for traffic?",
    *UNREADY,
    response_model=Readiness,
    response_model_exclude_none=True,
    openapi_extra={"parameters": [{**_VERBOSE, "allowEmptyValue": True, "schema": {"type": "string"}}]},
)
METRICS: dict[str, Any] = {
    "operation_id": "getMetrics",
    "tags": ["operation"],
    "summary": "Metrics for Prometheus",
    "responses": {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
}
AUDIT = options(
    "listAuditRows", "administration", "Rows of the audit log", *_OF_A_RECORD, errors.Forbidden, errors.AuditUnavailable
)
UPLOAD = options(
    "getUpload", "administration", "An image that was kept", *_OF_AN_UPLOAD, ok={"image/*": {"schema": _IMAGE}}
)
FORGET = options(
    "deleteUpload", "administration", "Delete an image", *_OF_AN_UPLOAD, errors.CacheUnavailable, status_code=204
)
_MODEL_NAME = {
    "type": "string",
    "minLength": 1,
    "maxLength": 200,
    "description": "Entry of the manifest, or `auto`.",
}
SWITCH = options(
    "switchModel",
    "administration",
    "Switch the model",
    *(*KEYS, errors.Forbidden, errors.BadJson, errors.InvalidParameter, errors.ModelUnavailable),
    ok=_CARD,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _object("name", _MODEL_NAME),
                    "example": {"name": _RECOGNITION["model"]["name"]},
                }
            },
        }
    },
)
