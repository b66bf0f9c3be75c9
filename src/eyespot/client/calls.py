"""The calls that both clients share, as coroutines over the steps of `Connection`."""

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, TypedDict, TypeVar, Unpack

import httpx

from eyespot.client.answers import outcomes, parse, read
from eyespot.client.connection import Connection, H
from eyespot.errors import EyespotError, ImageTooLarge, NotFound, Refusal
from eyespot.images import ImageSource, fit, is_image, to_bytes
from eyespot.types import Batch, Explanation, LabelEntry, Lang, ModelCard, Problem, Readiness, Recognition

Outcome: TypeAlias = Recognition | EyespotError | OSError
T = TypeVar("T")

_USUAL_MAX_BYTES = 5 * 1024 * 1024


class Options(TypedDict, total=False):
    """The options of `predict`."""

    top_k: int
    min_confidence: float
    lang: Lang
    shrink: bool


class Calls(Connection[H]):
    """The base of both clients."""

    _max_bytes = _USUAL_MAX_BYTES

    async def _predict(
        self,
        image: ImageSource,
        *,
        top_k: int | None = None,
        min_confidence: float = 0,
        lang: Lang = "en",
        shrink: bool = True,
    ) -> Recognition:
        """Recognise one image. Raises `OSError` if its file cannot be read.

        By default the answer has three classes, or all if the model has fewer.

        An image of more bytes than the server accepts is scaled down and sent as PNG, unless `shrink` is False; the
        `image` of the answer is then the smaller one.
        """
        given: dict[str, Any] = {} if top_k is None else {"top_k": top_k}
        recognise = partial(self._recognise, **given, min_confidence=min_confidence, lang=lang)
        return await self._send_fitted(image, shrink, recognise)

    async def _explain(
        self, image: ImageSource, class_id: int | None = None, *, lang: Lang = "en", shrink: bool = True
    ) -> Explanation:
        """Show where the model sees a class in one image, by default the likeliest; otherwise as `predict`."""
        params = {"lang": lang} if class_id is None else {"lang": lang, "class_id": class_id}
        return await self._send_fitted(image, shrink, partial(self._post, Explanation, "explain", params=params))

    async def _predict_batch(self, images: Iterable[ImageSource], **options: Unpack[Options]) -> list[Outcome]:
        """Recognise several images in one request; `options` are those of `predict`.

        An error of one image takes that image's place in the list; an error of the whole batch is raised:
        `TooManyImages` and `BodyTooLarge` above the server's limits, or what `predict_many` raises.
        """
        check_several(images, "predict_batch")
        if unknown := options.keys() - Options.__annotations__.keys():
            raise TypeError(f"predict_batch has no option {', '.join(sorted(unknown))}")
        shrink = options.get("shrink", True)
        found: list[Any] = [await self._outcome(self._load(image, shrink)) for image in images]
        sent = {index: data for index, data in enumerate(found) if isinstance(data, bytes)}
        if sent:
            params = {name: value for name, value in options.items() if name != "shrink"}
            files = [("file", (str(index), data)) for index, data in sent.items()]
            batch = parse(Batch, await self._retry("POST", "predict/batch", params=params, files=files))
            for (index, data), outcome in zip(sent.items(), outcomes(batch), strict=True):
                again = shrink and isinstance(outcome, ImageTooLarge)  # the server's limit is below the default
                found[index] = await self._outcome(self._predict(data, **options)) if again else outcome
        return found

    async def _send_fitted(self, image: ImageSource, shrink: bool, send: Callable[[bytes], Awaitable[T]]) -> T:
        """Send an image, scaled down if it has too many bytes."""
        data = await self._load(image, shrink)
        try:
            return await send(data)
        except ImageTooLarge:
            smaller = await self._fit(data) if shrink else data
            if smaller is data:
                raise
        return await send(smaller)

    async def _load(self, image: ImageSource, shrink: bool) -> bytes:
        data = await self._work(partial(to_bytes, image))
        return await self._fit(data) if shrink and len(data) > self._max_bytes else data

    async def _fit(self, data: bytes) -> bytes:
        """The image within the server's limit. Raises `ImageTooLarge` if it cannot be made smaller."""
        limit = self._max_bytes = (await self._model()).limits.max_bytes
        smaller = await self._work(partial(fit, data, limit))
        if len(smaller) > limit:
            raise ImageTooLarge(
                f"The image has {len(data):,} bytes; the limit is {limit:,}.", limit=limit, value=len(data)
            )
        return smaller

    async def _recognise(self, data: bytes, **params: Any) -> Recognition:
        until = self._now() + self._retry_seconds
        if self._ask_first is not None and len(data) > self._ask_first:
            sha256 = await self._work(lambda: hashlib.sha256(data).hexdigest())
            with suppress(NotFound):
                return parse(Recognition, await self._retry("GET", f"results/{sha256}", until, params=params))
        return await self._post(Recognition, "predict", data, until, params=params)

    async def _post(self, kind: type[T], path: str, data: bytes, until: float | None = None, **options: Any) -> T:
        headers = {"Content-Type": "application/octet-stream", "Accept": "application/json"}
        return parse(kind, await self._retry("POST", path, until, content=data, headers=headers, **options))

    async def _outcome(self, call: Awaitable[T]) -> T | EyespotError | OSError:
        """What a call for one image returns, or the error that concerns this image alone; other errors are raised."""
        try:
            return await call
        except (Refusal, OSError) as error:
            if isinstance(error, Refusal) and not error.per_image:
                raise
            return error

    async def _labels(self, *, q: str = "", lang: Lang = "en") -> list[LabelEntry]:
        """The classes of the server's model, ordered by class_id.

        `q` is the start of a word in an English name or synonym, or a part of a Chinese name.
        """
        return parse(list[LabelEntry], await self._retry("GET", "labels", params={"q": q, "lang": lang}))

    async def _model(self) -> ModelCard:
        """The server's model: name, digest, accuracy and limits."""
        return parse(ModelCard, await self._retry("GET", "model"))

    async def _health(self) -> Readiness:
        """Whether the server is ready, and every check; never retried."""
        answer = await self._request("GET", "readyz", params={"verbose": ""})
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return Readiness(False, read(Problem, answer).checks)
        return parse(Readiness, answer)


def check_several(images: object, call: str) -> None:
    """Raises `TypeError` if it is one image: its characters, bytes or rows would be taken for images."""
    if is_image(images):
        raise TypeError(f"{call} takes several images; use predict for one, or pass [image]")
