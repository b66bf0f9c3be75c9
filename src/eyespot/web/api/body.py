"""One reader for every body: images and parameters out of a form, JSON or the raw bytes of one image."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from eyespot.errors import (
    BadJson,
    BodyTooLarge,
    BrokenImage,
    ImageTooLarge,
    NoImage,
    Refusal,
    TooManyImages,
    UnsupportedBody,
)
from eyespot.recognizer import Image
from eyespot.vision.classifier import Classifier
from eyespot.vision.preprocess import announced_format, other_format
from eyespot.web.api import json_body
from eyespot.web.api.form import read_form
from eyespot.web.api.image import Item, image_of, in_thread_if_large
from eyespot.web.api.parameters import SCHEMA, Parameters, parse
from eyespot.web.gate import header
from eyespot.web.gate.body_limit import Limit, LimitOf

_BATCH_PATH = "/predict/batch"
_INFERENCE_PATH = "/v2/models/"
_FORM_URLENCODED = "application/x-www-form-urlencoded"  # what curl -d and --data-binary send, whatever the bytes are
_JSON_ROOM = 4 * 1024  # bytes beside the image
_FORM_ROOM = 64 * 1024
_OTHER_VALUES = 100  # JSON values beside the images


@dataclass(frozen=True, slots=True)
class Body:
    """What one request asks, and of which model."""

    items: deque[Item]
    parameters: Parameters
    classifier: Classifier


async def read_one(request: Request, schema: Mapping[str, Any] = SCHEMA) -> tuple[Image, Parameters, Classifier]:
    """The one image, the parameters in `schema`, and the model; ends the steps `admit` and `read`.

    Raises like `read`.
    """
    state = request.scope["state"]
    state["trace"].lap("admit")
    asked = await read(request, schema=schema)
    image = await image_of(asked.items.pop(), asked.classifier.card.limits.max_bytes)
    state["trace"].lap("read")
    state["facts"].update(sha256=image.sha256, model=asked.classifier.info.name)
    return image, asked.parameters, asked.classifier


async def read(request: Request, max_images: int | None = None, schema: Mapping[str, Any] = SCHEMA) -> Body:
    """The images of a batch of at most `max_images`, or else the one image, and the parameters in `schema`.

    Parameters in the body win over those in the query. Raises `Refusal` if the body is broken or has no image or too
    many, its type is not supported, or a parameter is out of range.
    """
    content_type = header(request.scope, b"content-type") or ""
    kind = _media_type(content_type)
    given: Mapping[str, Any] = {}
    if kind == "multipart/form-data":
        items, given = await read_form(content_type, request.stream(), max_images)
    else:
        # Not `request.body()`, which would keep the bytes as long as the request.
        raw = b"".join([chunk async for chunk in request.stream() if chunk])
        if kind == "application/json" or (kind == _FORM_URLENCODED and raw.startswith((b"{", b"["))):
            items, given = await in_thread_if_large(len(raw), _from_json, raw, max_images)
        else:
            items = _from_raw(raw, kind, max_images)
    # Not before the body has arrived: a slow upload would keep a model that was switched away from in memory.
    classifier: Classifier = request.app.state.recognizer.model.classifier
    return Body(items, parse(request, given, len(classifier.labels), schema), classifier)


def _from_json(raw: bytes, max_images: int | None) -> tuple[deque[Item], Mapping[str, Any]]:
    if not raw:
        raise NoImage
    most = 4 * (max_images or 1) + _OTHER_VALUES
    too_many: Refusal = BadJson("The JSON has too many values: send one image and its parameters.", limit=most)
    if max_images is not None:
        too_many = TooManyImages(f"The JSON has more than {max_images:,} images.", limit=max_images)
    fields = json_body.parse(raw, most, too_many)
    if isinstance(fields, list):
        fields = {"images": fields}
    fields = fields if isinstance(fields, dict) else {}
    images = [fields.get("image")] if max_images is None else fields.get("images")
    if not images or not isinstance(images, list):
        raise NoImage("The JSON must be a list of base64 strings, or an object whose field `images` is one.")
    if max_images is not None and len(images) > max_images:
        detail = f"The batch has {len(images):,} images; the limit is {max_images:,}."
        raise TooManyImages(detail, limit=max_images, value=len(images))
    return deque(Item(index, image) for index, image in enumerate(images)), fields


def _from_raw(raw: bytes, kind: str, max_images: int | None) -> deque[Item]:
    if max_images is not None:
        raise UnsupportedBody("Send a batch as multipart/form-data with one file per image, or as application/json.")
    if not raw:
        raise NoImage
    if kind == _FORM_URLENCODED:
        if _without_line_ends(raw):
            raise BrokenImage(
                "curl -d strips line breaks and damages images; use -T FILE, -F file=@FILE or --data-binary @FILE."
            )
        if not announced_format(raw) and not other_format(raw):
            raise UnsupportedBody(
                "A form needs the image as a file in multipart/form-data; with curl: -F file=@cat.jpg"
            )
    elif not (kind.startswith("image/") or kind in ("application/octet-stream", "")):
        raise UnsupportedBody(f"{kind[:100]} is not supported: send multipart/form-data, application/json or an image.")
    return deque([Item(0, raw)])


def _without_line_ends(raw: bytes) -> bool:
    """Whether `curl -d` sent this image: it strips CR and LF, which 4 KiB of varied bytes have all but certainly."""
    if b"\n" in raw or b"\r" in raw:
        return False
    return raw.startswith(b"\x89PNG") or (announced_format(raw) is not None and len({*raw[-4096:]}) > 200)


def _media_type(content_type: str) -> str:
    return content_type.split(";", 1)[0].strip().lower()


def limit_of(max_bytes: int, batch_max_bytes: int) -> LimitOf:
    """How large a body may be, by its path, content type and announced size.

    Single images share the memory of as many as the pool admits; batches have two of the largest to themselves.
    """

    def single(limit: int, refusal: type[Refusal] = BodyTooLarge) -> Limit:
        return Limit(limit, refusal, "interactive", lambda pool: pool.capacity * max_bytes)

    batch = Limit(batch_max_bytes, BodyTooLarge, "batch", lambda _: 2 * batch_max_bytes)
    raw = single(max_bytes, ImageTooLarge)
    by_type = {
        "multipart/form-data": single(max_bytes + _FORM_ROOM),
        "application/json": single(max_bytes * 4 // 3 + _JSON_ROOM),
    }

    def limit(path: str, content_type: str, size: int) -> Limit:
        if path.startswith(_INFERENCE_PATH):
            base64 = by_type["application/json"]
            return base64 if 0 < size <= base64.bytes else batch
        if path == _BATCH_PATH:
            return batch
        return by_type.get(_media_type(content_type), raw)

    return limit
