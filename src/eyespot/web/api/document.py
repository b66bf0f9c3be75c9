"""`/openapi.json` as a whole: what is the same for every route, and the bounds of the model that serves."""

import json
from functools import cache
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import TypeAdapter

from eyespot.recognizer import Recognizer
from eyespot.types import Problem
from eyespot.values import Schema
from eyespot.web.api.inference_types import InferenceRequest
from eyespot.web.api.parameters import EXPLAIN_SCHEMA, SCHEMA, maxima

_CLASSES = 1000  # of ImageNet; the app's own model is not known before it is loaded


def _schemas(kind: type, mode: Literal["serialization", "validation"]) -> Schema:
    """The schema of a type that FastAPI does not see, and of its parts, by name."""
    schema = TypeAdapter(kind).json_schema(mode=mode, ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), kind.__name__: schema}


def complete(app: FastAPI, needs_key: bool) -> None:
    """Add to the app's document the schemas that FastAPI does not see, the ways to send a key, and the model's bounds.

    With `needs_key`, recognitions need an API key; administration always does.
    """
    generate = app.openapi
    schemas = _schemas(Problem, "serialization") | _schemas(InferenceRequest, "validation")
    keys: list[dict[str, list[str]]] = [{"bearer": []}, {"header": []}]
    security: dict[str, list[dict[str, list[str]]]] = {"administration": keys, "operation": []}
    security["recognition"] = security["inference"] = keys if needs_key else []

    @cache  # every invalid query of a route that FastAPI checks reads it
    def completed(classes: int) -> dict[str, Any]:
        most = {(SCHEMA | EXPLAIN_SCHEMA)[name]["title"]: value for name, value in maxima(classes).items()}

        def bounded(part: Schema) -> Schema:
            title = str(part.get("title"))  # a property may itself be called "title"
            return {**part, "maximum": most[title]} if title in most else part

        document: dict[str, Any] = json.loads(json.dumps(generate()), object_hook=bounded)
        document["components"]["schemas"].update(schemas)
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "description": "An API key; either way is enough."},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
        }
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["security"] = security[operation["tags"][0]]
        return document

    def openapi() -> dict[str, Any]:
        recognizer: Recognizer | None = getattr(app.state, "recognizer", None)
        return completed(len(recognizer.model.classifier.labels) if recognizer else _CLASSES)

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it
