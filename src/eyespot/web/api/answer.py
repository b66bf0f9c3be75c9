"""Scores as the reply of `/predict` and `/results`."""

from fastapi import Request, Response
from pydantic import TypeAdapter

from eyespot.telemetry import Trace
from eyespot.types import ImageInfo, Recognition
from eyespot.vision.classifier import Classifier
from eyespot.vision.scores import Scores
from eyespot.web.api import language
from eyespot.web.api.parameters import Parameters

_RECOGNITION = TypeAdapter(Recognition)


def recognition(
    request: Request, classifier: Classifier, sha256: str, scores: Scores, parameters: Parameters
) -> Response:
    """What the scores of this model say, as JSON."""
    trace: Trace = request.scope["state"]["trace"]
    reply = Recognition(
        **classifier.answer(scores, parameters.top_k, parameters.min_confidence, parameters.lang),
        image=ImageInfo(sha256, scores.format, scores.width, scores.height),
        model=classifier.info,
        cached=trace.cache == "hit",
        request_id=trace.request_id,
    )
    document = _RECOGNITION.dump_json(reply)
    trace.lap("respond")
    return Response(document, media_type="application/json", headers=language.headers(parameters.lang))
