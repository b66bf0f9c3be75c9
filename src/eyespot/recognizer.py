"""The use case, whole: what happens to one image between the reading of the request and the answer."""

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Literal

from eyespot import __version__
from eyespot.errors import GoldenImageFailed, Refusal
from eyespot.memory.cache import Cache
from eyespot.pool import Call, WorkerPool
from eyespot.telemetry import Metrics, child
from eyespot.types import Check
from eyespot.vision.classifier import Classifier, Seen
from eyespot.vision.engines import TEMPERATURE


@dataclass(frozen=True, slots=True)
class Image:
    """One encoded image, named by its sha256 (64 hexadecimal digits)."""

    data: bytes
    sha256: str


@dataclass(slots=True)
class Journey:
    """What becomes of one request: when it came, the seconds that each step took, where the answer came from."""

    started: float = field(default_factory=time.monotonic)
    steps: dict[str, float] = field(default_factory=dict)
    cache: Literal["hit", "miss", "joined"] | None = None  # None until an image is asked about


class Recognizer:
    """The single model, the pool that it is used through, and what is remembered of its answers."""

    def __init__(self, classifier: Classifier, pool: WorkerPool, metrics: Metrics, cache: Cache | None = None) -> None:
        self.classifier = classifier
        self.pool = pool
        self.metrics = metrics
        self.cache = cache
        self._in_flight: dict[str, Call[Seen]] = {}
        self._key_prefix = f"eyespot:{_fingerprint(classifier)}:"
        metrics.model_info.labels(**asdict(classifier.info)).set(1)

    async def recognize(
        self, image: Image, journey: Journey, leaving: Callable[[], Awaitable[object]] | None = None
    ) -> Seen:
        """What is in one image; `journey` is filled on the way.

        `leaving()` ends when whoever asked has left.

        Raises:
            Refusal: the image cannot be recognised, or there is no room or no time for it.
            CallerLeft: `leaving()` ended first.
        """
        try:
            seen = await self._look_up(image, journey) or await self._see(image, journey, leaving)
        except Refusal as refusal:
            if refusal.status in (415, 422):
                self.metrics.image_errors.labels(refusal.code).inc()
            child(self.metrics.cache, journey.cache).inc()
            raise
        child(self.metrics.cache, journey.cache).inc()
        return seen

    async def _look_up(self, image: Image, journey: Journey) -> Seen | None:
        if not self.cache:
            return None
        started = time.monotonic()
        packed = await self.cache.get(self._key_prefix + image.sha256)
        journey.steps["look_up"] = time.monotonic() - started
        if packed is None:
            return None
        try:
            seen = Seen.unpack(packed, len(self.classifier.labels))
        except ValueError:  # somebody else's, in a Redis that is shared with more than this program
            self.metrics.cache_errors.inc()
            return None
        journey.cache = "hit"
        return seen

    async def _see(self, image: Image, journey: Journey, leaving: Callable[[], Awaitable[object]] | None) -> Seen:
        asked = time.monotonic()
        call = self._in_flight.get(image.sha256)
        if call and call.join():
            journey.cache = "joined"
        else:
            journey.cache = "miss"
            call = self._start(image)
        try:
            return await call.result(leaving)
        finally:
            begun = call.started or time.monotonic()
            journey.steps["wait"] = max(0, begun - asked)
            journey.steps["see"] = time.monotonic() - max(begun, asked)

    def _start(self, image: Image) -> Call[Seen]:
        call = self.pool.start(self.classifier.see, image.data)
        if self.cache:
            self._in_flight[image.sha256] = call
            call.future.add_done_callback(partial(self._landed, self.cache, image.sha256, call))
        return call

    def _landed(self, cache: Cache, sha256: str, call: Call[Seen], future: asyncio.Future[Seen]) -> None:
        """Remember what was seen, even when nobody waits for it any more."""
        if self._in_flight.get(sha256) is call:
            del self._in_flight[sha256]
        if not future.cancelled() and not future.exception():
            cache.put(self._key_prefix + sha256, future.result().pack())

    async def warm_up(self) -> None:
        """Send the golden image through the pool, once for each worker, so that the first caller finds all of it warm.

        Raises:
            GoldenImageFailed: the network does not recognise it.
        """
        together = threading.Barrier(self.pool.workers)  # or one quick thread would do the work of all

        def check() -> None:
            together.wait()
            self.classifier.check_golden_image()

        try:
            await asyncio.gather(*(self.pool.run(check) for _ in range(self.pool.workers)))
        except Refusal as refusal:
            raise GoldenImageFailed(f"the golden image was refused: {refusal}") from refusal
        finally:
            together.abort()

    def checks(self) -> list[Check]:
        """What readiness depends on, and the cache. It reads numbers only, so that busy workers do not matter."""
        card, pool = self.classifier.card, self.pool
        remembers, remembered = self.cache.state() if self.cache else (True, "off")
        stand_in = ", a stand-in: the weights of the network that belongs here are missing" if card.stand_in else ""
        return [
            Check("model", True, f"{card.name}, {card.engine} {card.precision}{stand_in}"),
            Check("golden image", True, "recognised at start"),
            Check("draining", not pool.draining, "stopping" if pool.draining else "no"),
            Check("pool", not pool.is_stuck(), f"{pool.waiting} waiting, {pool.places} places, {pool.workers} workers"),
            Check("cache", remembers, remembered),
        ]


def _fingerprint(classifier: Classifier) -> str:
    """16 hexadecimal digits of all that an answer depends on besides the image."""
    info = classifier.info
    parts = [info.digest, asdict(classifier.recipe), info.engine, info.precision, TEMPERATURE, __version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
