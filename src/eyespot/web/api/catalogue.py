"""`/model` and `/labels`: which model answers, and the classes it knows."""

from typing import Annotated, Literal

from fastapi import Query, Request, Response
from pydantic import TypeAdapter

from eyespot.types import Label, ModelCard

_LABELS = TypeAdapter(tuple[Label, ...])
_MODEL = TypeAdapter(ModelCard)


async def labels(
    request: Request,
    lang: Annotated[  # noqa: ARG001
        Literal["en", "zh"], Query(description="Language; `zh` answers with the English names so far.")
    ] = "en",
) -> Response:
    """All classes of the model, in the order of class_id."""
    classes = request.app.state.recognizer.classifier.labels
    return Response(_LABELS.dump_json(classes), media_type="application/json")


async def model(request: Request) -> Response:
    """The model's name, digest, engine and accuracy, and the limits of a request."""
    card = request.app.state.recognizer.classifier.card
    return Response(_MODEL.dump_json(card), media_type="application/json")
