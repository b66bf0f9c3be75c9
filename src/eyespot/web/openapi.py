"""What `/openapi.json` says of the recognition routes beyond the types: bodies, parameters and true replies."""

import json
from typing import Any

from pydantic import TypeAdapter

from eyespot.web.bodies import Parameters

# The reply of EfficientNet-Lite0 to the sample image that comes with the package.
RECOGNITION: dict[str, Any] = {
    "predictions": [
        {"class_id": 967, "wnid": "n07920052", "label": "espresso", "confidence": 0.935503},
        {"class_id": 968, "wnid": "n07930864", "label": "cup", "confidence": 0.017183},
        {"class_id": 925, "wnid": "n07584110", "label": "consomme", "confidence": 0.015088},
    ],
    "image": {
        "sha256": "a4b7d92019beb26605cb6f1d3d31242d91c9150fcc3a07c50e39b50271bc7c6f",
        "format": "JPEG",
        "width": 480,
        "height": 320,
    },
    "model": {
        "name": "efficientnet-lite0",
        "digest": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "engine": "openvino",
        "precision": "f32",
    },
    "cached": False,
    "request_id": "6f1c0e9ad3b14a57",
}

# The sample image again, as a PNG of 32 x 21 pixels and 16 colours, so that "Try it out" works as it stands.
SMALL_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAVBAMAAADV4/HZAAAAMFBMVEW8pJ2ylIOxiGqjhHOke16idFOWd2GTb1aWa0ySZUGEZlGC"
    "X0iGWTh1VkBxSy5VMx2hsI8DAAABcElEQVR42gFlAZr+ATM1YmkURU+fYxHarr0DyQACzgb6EzIv4DD+ACQNABXv8AL/QMBBQNEg"
    "APzv0UECQu/uAgD+w/HfQA3Chv4esBDdzd4EALwNAL3wQPDP4AzwAUH/7wQAAEUP2r/8APrd7B/i//zAAgAhNUH6p3v5/bqe//1n"
    "BEACAzMrn+CvAJ0i8AAIAAADBACr3oJJV8/+9idCKv/kM93dAPp0IUnInO73FFJP+4EAE2sC7ggA39Ts4AUAA/8CoRDtlQQDEKTH"
    "LdCHmUHvWsg5UA/sAzPuIyQBF/kTNM5RkWErEukDY6dBetAJ9fU7sw8fvQnjWAQQ7bRPnsw0BAJAMM6qmjEAAgT+uzT/AEEMETMA"
    "7FEA4AACIzDcgVL+wP2gOR3tFRBSAALgQP7KBAIAwH4AX9DwVv4AAgAA8P6vIDAELfgxAz20zwAE/tD/AN0g3lUSxC7tbfYXEQId"
    "8BAA/gDfzOqs0MvwFKAAnTidxT2VWoQAAAAASUVORK5CYII="
)

_PARAMETERS = TypeAdapter(Parameters).json_schema()["properties"]
_TOLD = ("title", "description", "default")
# In JSON, null is a parameter that is not given.
_PARAMETERS_IN_JSON = {
    name: {
        "anyOf": [{key: value for key, value in schema.items() if key not in _TOLD}, {"type": "null"}],
        **{key: schema[key] for key in _TOLD if key in schema},
    }
    for name, schema in _PARAMETERS.items()
}
_IMAGE = {"type": "string", "format": "binary", "description": "The encoded image: JPEG, PNG or WebP."}


def _schema(name: str) -> dict[str, Any]:
    return {key: value for key, value in _PARAMETERS[name].items() if key not in ("title", "description")}


def parameters(beside_a_body: bool = True) -> list[dict[str, Any]]:
    """Those of the query, which are read by hand and so are unknown to FastAPI."""
    wins = " A value in the body wins over this one." if beside_a_body else ""
    return [
        {
            "name": name,
            "in": "query",
            "description": _PARAMETERS[name]["description"] + wins,
            "schema": _schema(name),
        }
        for name in _PARAMETERS
    ]


def predict_request() -> dict[str, Any]:
    """Parameters and bodies of `/predict`."""
    return {
        "parameters": parameters(),
        "requestBody": {
            "required": True,
            "description": "One image: a file part called `file` or `image`, base64 in JSON, or the image itself.",
            "content": {
                "multipart/form-data": {
                    "schema": {"type": "object", "required": ["file"], "properties": {"file": _IMAGE, **_PARAMETERS}}
                },
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["image"],
                        "properties": {
                            "image": {
                                "type": "string",
                                "description": "base64 (RFC 4648, either alphabet, padded or not) or a data: URI.",
                            },
                            **_PARAMETERS_IN_JSON,
                        },
                    },
                    "example": {"image": SMALL_PNG, "top_k": 3},
                },
                **{kind: {"schema": _IMAGE} for kind in ("image/*", "application/octet-stream")},
            },
        },
    }


_TEXT = "The bytes are no image of a supported format, which are JPEG, PNG, WebP."
_ITEMS: list[dict[str, Any]] = [
    {
        "index": 0,
        "filename": "cat.jpg",
        **{name: RECOGNITION[name] for name in ("predictions", "image", "cached")},
    },
    {
        "index": 1,
        "filename": "notes.txt",
        "problem": {
            "type": "urn:eyespot:problem:unsupported-format",
            "title": "Unsupported image format",
            "status": 415,
            "detail": _TEXT,
            "code": "unsupported-format",
            "request_id": RECOGNITION["request_id"],
        },
    },
]


def batch_replies() -> dict[str, Any]:
    """The two forms of the reply of `/predict/batch`."""
    whole = {"results": _ITEMS, "model": RECOGNITION["model"], "request_id": RECOGNITION["request_id"]}
    lines = "".join(f"{json.dumps(item)}\n" for item in _ITEMS)
    return {
        "application/json": {"example": whole},
        "application/x-ndjson": {"schema": {"$ref": "#/components/schemas/BatchItem"}, "example": lines},
    }


def batch_request() -> dict[str, Any]:
    """Parameters and bodies of `/predict/batch`."""
    texts = {
        "type": "array",
        "items": {"type": "string", "description": "base64 (RFC 4648, either alphabet, padded or not) or a data: URI."},
    }
    return {
        "parameters": parameters(),
        "requestBody": {
            "required": True,
            "description": "A file part for each image, whatever it is called; or a list of base64 in JSON.",
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file"],
                        "properties": {"file": {"type": "array", "items": _IMAGE}, **_PARAMETERS},
                    }
                },
                "application/json": {
                    "schema": {
                        "anyOf": [
                            {
                                "type": "object",
                                "required": ["images"],
                                "properties": {"images": texts, **_PARAMETERS_IN_JSON},
                            },
                            texts,
                        ]
                    },
                    "example": {"images": [SMALL_PNG, "bm8gaW1hZ2U="], "top_k": 1},
                },
            },
        },
    }
