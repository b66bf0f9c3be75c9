"""`/results/{sha256}`: the cached answer for an image, without sending it again."""

import re

from fastapi import Request, Response

from eyespot.errors import InvalidParameter, NotFound
from eyespot.recognizer import Recognizer
from eyespot.telemetry import Trace
from eyespot.web.api import answer, parameters

_SHA256 = re.compile("[0-9a-f]{64}")


async def result(request: Request) -> Response:
    """The cached answer for an image, by the sha256 of its encoded bytes; 404 when there is none.

    Unless EYESPOT_CACHE_SCOPE is `key`, it tells every caller whether anyone has sent that image.
    """
    recognizer: Recognizer = request.app.state.recognizer
    trace: Trace = request.state.trace
    trace.lap("admit")
    sha256 = request.path_params["sha256"]
    if not _SHA256.fullmatch(sha256):
        raise InvalidParameter("sha256: must be 64 hexadecimal digits in lower case.")
    asked = parameters.parse(request.query_params, {}, recognizer.classifier.card.limits.max_top_k)
    request.state.facts.update(sha256=sha256, model=recognizer.classifier.info.name)
    scores = await recognizer.recall(sha256, trace)
    if not scores:
        raise NotFound("No answer is cached for this image; send it to /predict.")
    return answer.recognition(recognizer.classifier, sha256, scores, asked, trace)
