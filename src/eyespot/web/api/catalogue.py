"""`/model` and `/labels`: which model answers, and the classes it knows."""

from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import TypeAdapter

from eyespot.types import LabelEntry, Lang, ModelCard
from eyespot.vision.labels import Labels
from eyespot.web.api import language

_ENTRIES = TypeAdapter(list[LabelEntry])


async def labels(
    request: Request,
    q: Annotated[
        str, Query(description="Only classes with a name that begins with this, or has a word that does.")
    ] = "",
    lang: Annotated[
        Lang | None, Query(description="Language of the labels; by default the one that Accept-Language prefers.")
    ] = None,
) -> Response:
    """A dictionary of the model's classes: names in both languages, synonyms, meaning, and groups.

    They are in the order of class_id.
    """
    known: Labels = request.app.state.recognizer.classifier.labels
    chosen = lang or language.preferred(request.scope)
    document = _ENTRIES.dump_json(known.find(q, chosen))
    return Response(document, media_type="application/json", headers=language.headers(chosen))


async def model(request: Request) -> ModelCard:
    """The model's name, digest, engine and accuracy, and the limits of a request."""
    return request.app.state.recognizer.classifier.card  # type: ignore[no-any-return]
