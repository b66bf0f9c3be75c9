"""`/explain`: where the model sees a class in one image."""

from functools import partial

from fastapi import Request, Response
from pydantic import TypeAdapter

from eyespot.recognizer import Recognizer
from eyespot.telemetry import Trace
from eyespot.types import Crop, Explanation, ImageInfo
from eyespot.vision.crop import crop_box
from eyespot.web.api import body, language
from eyespot.web.api.parameters import EXPLAIN_SCHEMA
from eyespot.web.gate import disconnected, header

_EXPLANATION = TypeAdapter(Explanation)


async def explain(request: Request) -> Response:
    """Show where the model sees a class: its class-activation map (Zhou et al., CVPR 2016).

    The reply is a PNG: what the model saw in grey, under a heat map of the evidence for the class. With
    `Accept: application/json` it is the map as numbers. The body is that of `/predict`, and `PUT` does the same.
    """
    recognizer: Recognizer = request.app.state.recognizer
    recognizer.model.classifier.class_weights()  # before the body is read
    recognizer.pool.refuse_if_full()  # likewise, since explanations are never cached
    image, parameters, classifier = await body.read_one(request, EXPLAIN_SCHEMA)
    trace: Trace = request.scope["state"]["trace"]
    draw = "application/json" not in (header(request.scope, b"accept") or "").lower()
    work = partial(classifier.explain, class_id=parameters.class_id, draw=draw)
    scores = await recognizer.recognize(classifier, image, trace, disconnected(request), compute=work, reuse=False)
    activation = scores.activation
    assert activation
    if activation.png:
        trace.lap("respond")
        return Response(activation.png, media_type="image/png", headers={"Vary": "Accept"})  # it has no words
    left, top, right, bottom = crop_box((scores.width, scores.height), classifier.recipe)
    reply = Explanation(
        prediction=classifier.prediction(scores, activation.class_id, parameters.lang),
        map=activation.map.astype(float).round(3).tolist(),
        crop=Crop(*(round(edge, 2) for edge in (left, top, right - left, bottom - top))),
        image=ImageInfo(image.sha256, scores.format, scores.width, scores.height),
        model=classifier.info,
        request_id=trace.request_id,
    )
    document = _EXPLANATION.dump_json(reply)
    trace.lap("respond")
    headers = language.headers(parameters.lang, "Accept")
    return Response(document, media_type="application/json", headers=headers)
