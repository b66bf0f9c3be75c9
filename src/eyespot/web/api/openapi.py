"""What `/openapi.json` says beyond the types: bodies, parameters, errors, and replies that were really given."""

import json
from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from eyespot import errors
from eyespot.choices import titles
from eyespot.errors import Refusal
from eyespot.types import TYPE_URI, Batch, Label, ModelCard, Problem, Readiness, Recognition
from eyespot.web.api.examples import RECOGNITION, SMALL_PNG
from eyespot.web.api.parameters import SCHEMA
from eyespot.web.api.predict import NDJSON
from eyespot.web.gate.problems import MEDIA_TYPE

_IMAGE = {"type": "string", "format": "binary", "description": f"The encoded image: {titles()}."}
_BASE64 = {"type": "string", "description": "base64 (RFC 4648, either alphabet, padded or not) or a data: URI."}
_UNTYPED = ("title", "description", "default")
# JSON has null for a parameter that is not given.
_IN_JSON = {
    name: {
        "anyOf": [{key: value for key, value in schema.items() if key not in _UNTYPED}, {"type": "null"}],
        **{key: schema[key] for key in _UNTYPED if key in schema},
    }
    for name, schema in SCHEMA.items()
}


def _object(required: str, kind: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": [required], "properties": {required: kind, **parameters}}


def _parameters(note: str = "") -> list[dict[str, Any]]:
    """The query's, which FastAPI does not see because `api.body` reads them."""
    return [
        {
            "name": name,
            "in": "query",
            "description": schema["description"] + note,
            "schema": {key: value for key, value in schema.items() if key not in ("title", "description")},
        }
        for name, schema in SCHEMA.items()
    ]


def _request(description: str, form: dict[str, Any], json_: dict[str, Any], **others: Any) -> dict[str, Any]:
    content = {"multipart/form-data": {"schema": form}, "application/json": json_, **others}
    return {
        "parameters": _parameters(" A value in the body wins over this one."),
        "requestBody": {"required": True, "description": description, "content": content},
    }


def _problem(kind: type[Refusal], detail: str = "") -> dict[str, Any]:
    return {
        "type": TYPE_URI + kind.code,
        "title": kind.title,
        "status": kind.status,
        "detail": detail or kind().detail,
        "code": kind.code,
        "request_id": RECOGNITION["request_id"],
    }


def _responses(*kinds: type[Refusal], ok: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses: `ok` as the content of 200, and one example for each problem code."""
    found: dict[int | str, dict[str, Any]] = {200: {"content": ok}} if ok else {}
    everything: tuple[type[Refusal], ...] = (*kinds, errors.Internal)
    for kind in everything:
        schema: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
        response = found.setdefault(kind.status, {"description": "", "content": {MEDIA_TYPE: schema}})
        response["description"] = "; ".join(filter(None, [response["description"], f"`{kind.code}`"]))
        example = {"summary": kind().detail, "value": _problem(kind)}
        response["content"][MEDIA_TYPE]["examples"][kind.code] = example
        if kind.status in (429, 503):
            schema = {"type": "integer", "minimum": 1}
            response["headers"] = {"Retry-After": {"description": "Seconds, at least 1.", "schema": schema}}
    return found


_KEYS = (errors.Unauthorized, errors.RateLimited)
_ADMIN = (*_KEYS, errors.Forbidden)
_OF_A_BODY = (
    *(errors.NoImage, errors.BadJson, errors.BadForm, errors.UploadStalled, errors.BodyTooLarge),
    *(errors.UnsupportedBody, errors.InvalidParameter, errors.Overloaded, errors.Draining),
)
_OF_AN_IMAGE = (
    *(errors.SeveralImages, errors.BadBase64, errors.ImageTooLarge, errors.UnsupportedFormat, errors.BrokenImage),
    *(errors.TooManyPixels, errors.TooSmall, errors.TooManyScans, errors.TooMuchMemory),
    *(errors.AuditUnavailable, errors.StorageFull, errors.DeadlineExceeded),
)

PREDICT: dict[str, Any] = {
    "response_model": Recognition,
    "summary": "What is in an image",
    "tags": ["recognition"],
    "responses": _responses(*_KEYS, *_OF_A_BODY, *_OF_AN_IMAGE, ok={"application/json": {"example": RECOGNITION}}),
    "openapi_extra": _request(
        "One image: a file part called `file` or `image`, base64 in JSON, or the image itself.",
        _object("file", _IMAGE, SCHEMA),
        {"schema": _object("image", _BASE64, _IN_JSON), "example": {"image": SMALL_PNG, "top_k": 3}},
        **{kind: {"schema": _IMAGE} for kind in ("image/*", "application/octet-stream")},
    ),
}

_ITEMS: list[dict[str, Any]] = [
    {"index": 0, "filename": "cat.jpg", **{name: RECOGNITION[name] for name in ("predictions", "image", "cached")}},
    {"index": 1, "filename": "notes.txt", "problem": _problem(errors.UnsupportedFormat)},
]
_TEXTS = {"type": "array", "items": _BASE64}
BATCH: dict[str, Any] = {
    "response_model": Batch,
    "response_model_exclude_none": True,
    "summary": "What is in many images",
    "tags": ["recognition"],
    "responses": _responses(
        *(*_KEYS, *_OF_A_BODY, errors.TooManyImages),
        ok={
            "application/json": {
                "example": {
                    "results": _ITEMS,
                    "model": RECOGNITION["model"],
                    "request_id": RECOGNITION["request_id"],
                }
            },
            NDJSON: {
                "schema": {"$ref": "#/components/schemas/BatchItem"},
                "example": "".join(f"{json.dumps(item)}\n" for item in _ITEMS),
            },
        },
    ),
    "openapi_extra": _request(
        "A file part for each image, whatever its name, or a list of base64 strings in JSON.",
        _object("file", {"type": "array", "items": _IMAGE}, SCHEMA),
        {
            "schema": {"anyOf": [_object("images", _TEXTS, _IN_JSON), _TEXTS]},
            "example": {"images": [SMALL_PNG, "bm8gaW1hZ2U="], "top_k": 1},
        },
    ),
}

_PATH_SHA256 = {
    "name": "sha256",
    "in": "path",
    "required": True,
    "description": "Of the encoded bytes.",
    "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
}
RESULT: dict[str, Any] = {
    "response_model": Recognition,
    "summary": "What is in an image that was sent before",
    "tags": ["recognition"],
    "responses": _responses(
        *(*_KEYS, errors.NotFound, errors.InvalidParameter, errors.AuditUnavailable),
        ok={"application/json": {"example": {**RECOGNITION, "cached": True}}},
    ),
    "openapi_extra": {"parameters": [_PATH_SHA256, *_parameters()]},
}

LABELS: dict[str, Any] = {
    "response_model": list[Label],
    "summary": "The classes",
    "tags": ["recognition"],
    "responses": _responses(*_KEYS, errors.InvalidParameter),
}
MODEL: dict[str, Any] = {
    "response_model": ModelCard,
    "summary": "The model",
    "tags": ["recognition"],
    "responses": _responses(*_KEYS),
}
LIVEZ: dict[str, Any] = {"summary": "Alive?", "tags": ["operation"]}
READYZ: dict[str, Any] = {
    "response_model": Readiness,
    "response_model_exclude_none": True,
    "summary": "Ready for traffic?",
    "tags": ["operation"],
    "responses": _responses(errors.Overloaded, errors.Draining, errors.AuditUnavailable),
    "openapi_extra": {
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
}
METRICS: dict[str, Any] = {
    "summary": "Metrics for Prometheus",
    "tags": ["operation"],
    "responses": {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
}
AUDIT: dict[str, Any] = {
    "summary": "What was asked and answered",
    "tags": ["administration"],
    "responses": _responses(*_ADMIN, errors.NotFound, errors.InvalidParameter, errors.AuditUnavailable),
}
_OF_UPLOADS = (*_ADMIN, errors.NotFound, errors.InvalidParameter, errors.StorageUnavailable, errors.StorageFull)
UPLOAD: dict[str, Any] = {
    "summary": "An image that was kept",
    "tags": ["administration"],
    "responses": _responses(*_OF_UPLOADS, ok={"image/*": {"schema": {"type": "string", "format": "binary"}}}),
}
FORGET: dict[str, Any] = {
    "status_code": 204,
    "summary": "Delete an image",
    "tags": ["administration"],
    "responses": _responses(*_OF_UPLOADS, errors.CacheUnavailable),
}


def add_problems_and_keys(app: FastAPI) -> None:
    """Add the schema of a problem and the ways to send an API key to the app's document."""
    generate = app.openapi
    problem = TypeAdapter(Problem).json_schema(mode="serialization", ref_template="#/components/schemas/{model}")

    def openapi() -> dict[str, Any]:
        document = generate()
        document["components"]["schemas"].update({**problem.get("$defs", {}), "Problem": problem})
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["security"] = [{}, {"bearer": []}, {"header": []}]  # {}: a server without keys
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it
