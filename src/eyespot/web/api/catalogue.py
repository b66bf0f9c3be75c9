"""`/model` and `/labels`: which model answers, and the classes it knows."""

from typing import Annotated, Literal

from fastapi import Query, Request

from eyespot.types import Label, ModelCard


async def labels(
    request: Request,
    lang: Annotated[  # noqa: ARG001
        Literal["en", "zh"], Query(description="Language; `zh` answers with the English names so far.")
    ] = "en",
) -> tuple[Label, ...]:
    """All classes of the model, in the order of class_id."""
    return request.app.state.recognizer.classifier.labels  # type: ignore[no-any-return]


async def model(request: Request) -> ModelCard:
    """The model's name, digest, engine and accuracy, and the limits of a request."""
    return request.app.state.recognizer.classifier.card  # type: ignore[no-any-return]
