"""What `/openapi.json` says of `/v2`, the Open Inference Protocol, beyond the types."""

import json
from typing import Any

from eyespot import errors
from eyespot.web.api.inference_types import InferenceResponse
from eyespot.web.api.messages import JSON_LENGTH_HEADER
from eyespot.web.api.openapi import BINARY, EXAMPLES, KEYS, OF_A_SINGLE_IMAGE, SMALL_PNG, UNREADY, options
from eyespot.web.gate import problems

_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_OF_A_FORM = (errors.BadForm, errors.SeveralImages, errors.InvalidParameter)
_OF_IMAGES = [kind for kind in OF_A_SINGLE_IMAGE if kind not in _OF_A_FORM]
_NO_MODEL = (*KEYS, errors.NotFound)
_NAME = {"name": "name", "in": "path", "required": True, "description": "NAME of `/model`, or NAME-tensor."}
_OF_A_MODEL: dict[str, Any] = {"parameters": [{**_NAME, "schema": {"type": "string"}}]}


def _options(operation_id: str, summary: str, *kinds: type[errors.Refusal], **others: Any) -> dict[str, Any]:
    """As `options`, but with the errors of the protocol."""
    tag = others.pop("tag", "inference")
    made = options(operation_id, tag, summary, *kinds, **others)
    for response in made["responses"].values():
        if problem := response["content"].pop(problems.MEDIA_TYPE, None):
            examples = {
                code: {"summary": example["summary"], "value": {"error": example["summary"]}}
                for code, example in problem["examples"].items()
            }
            response["content"] = {"application/json": {"schema": _ERROR, "examples": examples}}
    return made


LIVE = _options("getServerLive", "Alive?", tag="operation")
READY = _options("getServerReady", "Ready for traffic?", *UNREADY, tag="operation")
SERVER = _options("getServer", "The server and its extensions", *KEYS)
METADATA = _options("getModelMetadata", "A model's inputs and outputs", *_NO_MODEL, openapi_extra=_OF_A_MODEL)
MODEL_READY = _options(
    "getModelReady", "Does the model answer?", errors.NotFound, *UNREADY, tag="operation", openapi_extra=_OF_A_MODEL
)

_IMAGE = {
    "name": "image",
    "shape": [1],
    "datatype": "BYTES",
    "parameters": {"content_type": "base64"},
    "data": [SMALL_PNG],
}
_REQUEST = {"inputs": [_IMAGE], "outputs": [{"name": "probabilities", "parameters": {"classification": 3}}]}
_REQUEST_SCHEMA = {"$ref": "#/components/schemas/InferenceRequest"}
_LENGTH = {
    "name": JSON_LENGTH_HEADER,
    "in": "header",
    "description": "Bytes of the JSON before binary data; 0 for an image alone.",
}
INFER = _options(
    "infer",
    "Recognise images",
    *(*_OF_IMAGES, errors.BadTensor, errors.NotFound, errors.TooManyImages),
    ok={
        "application/json": {"example": json.loads(EXAMPLES["example-inference"])},
        "application/octet-stream": {"schema": BINARY},
    },
    response_model=InferenceResponse,
    response_model_exclude_none=True,
    openapi_extra={
        "parameters": [
            *_OF_A_MODEL["parameters"],
            {**_LENGTH, "schema": {"type": "integer", "minimum": 0}},
        ],
        "requestBody": {
            "required": True,
            "description": "JSON, perhaps with binary data after it, or an image alone.",
            "content": {
                "application/json": {"schema": _REQUEST_SCHEMA, "example": _REQUEST},
                "application/octet-stream": {"schema": BINARY},
            },
        },
    },
)
