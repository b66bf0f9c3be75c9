"""`/model` and `/labels`: which model answers, and the classes it knows."""

from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import BeforeValidator, TypeAdapter

from eyespot.types import LabelEntry, Lang, ModelCard
from eyespot.vision.labels import Labels
from eyespot.web.api import language

_ENTRIES = TypeAdapter(list[LabelEntry])


def labels(
    request: Request,
    q: Annotated[
        str,
        Query(description="The start of a word in an English name or synonym, or a part of a Chinese name."),
    ] = "",
    lang: Annotated[
        Lang | None,
        BeforeValidator(lambda value: value or None),
        Query(description="Language of the labels; by default from Accept-Language, else English."),
    ] = None,
) -> Response:
    """A dictionary of the model's classes: names in both languages, synonyms, definition and groups.

    They are in the order of class_id; with `q`, those whose names match come before those whose synonyms do.
    """
    known: Labels = request.app.state.recognizer.model.classifier.labels
    chosen = lang or language.preferred(request.scope)
    document = _ENTRIES.dump_json(known.find(q, chosen))
    return Response(document, media_type="application/json", headers=language.headers(chosen))


async def model(request: Request) -> ModelCard:
    """The model's name, digest, engine, accuracy and calibration, and the limits of a request."""
    return request.app.state.recognizer.model.classifier.card  # type: ignore[no-any-return]
