"""Scores as the reply of `/predict` and `/results`."""

from fastapi import Response
from pydantic import TypeAdapter

from eyespot.telemetry import Trace
from eyespot.types import ImageInfo, Recognition
from eyespot.vision.classifier import Classifier, Scores
from eyespot.web.api.parameters import Parameters

_RECOGNITION = TypeAdapter(Recognition)


def recognition(classifier: Classifier, sha256: str, scores: Scores, parameters: Parameters, trace: Trace) -> Response:
    """The top-k as JSON."""
    reply = Recognition(
        predictions=classifier.top(scores, parameters.top_k, parameters.min_confidence),
        image=ImageInfo(sha256, scores.format, scores.width, scores.height),
        model=classifier.info,
        cached=trace.cache == "hit",
        request_id=trace.request_id,
    )
    document = _RECOGNITION.dump_json(reply)
    trace.lap("respond")
    return Response(document, media_type="application/json")
