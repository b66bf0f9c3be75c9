"""The use case, whole: what happens to one image between the reading of the request and the answer."""

import asyncio
import threading
import time
from dataclasses import asdict, dataclass

from eyespot.errors import GoldenImageFailed, Refusal
from eyespot.pool import WorkerPool
from eyespot.telemetry import Metrics
from eyespot.types import Check, ImageInfo
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import Confidences


@dataclass(frozen=True, slots=True)
class Image:
    """One encoded image, named by its sha256 (64 hexadecimal digits)."""

    data: bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class Recognized:
    """What is in one image: confidences of all classes, and the seconds that each step took."""

    image: ImageInfo
    confidences: Confidences
    cached: bool
    steps: dict[str, float]


class Recognizer:
    """The single model, and the pool that it is used through."""

    def __init__(self, classifier: Classifier, pool: WorkerPool, metrics: Metrics) -> None:
        self.classifier = classifier
        self.pool = pool
        self.metrics = metrics
        metrics.model_info.labels(**asdict(classifier.info)).set(1)

    async def recognize(self, image: Image) -> Recognized:
        """What is in one image.

        Raises:
            Refusal: the image cannot be recognised, or there is no room or no time for it.
        """
        started = time.monotonic()
        try:
            seen, waited = await self.pool.run(self.classifier.see, image.data)
        except Refusal as refusal:
            if refusal.status in (415, 422):
                self.metrics.image_errors.labels(refusal.code).inc()
            raise
        steps = {"wait": waited, "see": time.monotonic() - started - waited}
        for step, seconds in steps.items():
            self.metrics.step_seconds.labels(step).observe(seconds)
        info = ImageInfo(image.sha256, seen.format, seen.width, seen.height)
        return Recognized(info, seen.confidences, cached=False, steps=steps)

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
        """What readiness depends on. Only reads numbers, so that it answers when every worker is busy."""
        card, pool = self.classifier.card, self.pool
        stand_in = ", a stand-in: the weights of the network that belongs here are missing" if card.stand_in else ""
        return [
            Check("model", True, f"{card.name}, {card.engine} {card.precision}{stand_in}"),
            Check("golden image", True, "recognised at start"),
            Check("draining", not pool.draining, "stopping" if pool.draining else "no"),
            Check("pool", not pool.is_stuck(), f"{pool.waiting} waiting, {pool.places} places, {pool.workers} workers"),
        ]
