"""The use case, whole: what happens to one image between the reading of the request and the answer."""

import asyncio
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from eyespot import __version__
from eyespot.errors import AuditUnavailable, Draining, GoldenImageFailed, Internal, Overloaded, Refusal
from eyespot.memory.audit import AuditLog
from eyespot.memory.cache import Cache
from eyespot.memory.deletions import Deletions
from eyespot.memory.uploads import Uploads
from eyespot.pool import ClientDisconnected, Job, WorkerPool
from eyespot.telemetry import Metrics, child
from eyespot.types import AuditRow, Check
from eyespot.vision.classifier import Classifier, Scores
from eyespot.vision.engines import TEMPERATURE

_AT_ONCE: AbstractAsyncContextManager[None] = nullcontext()


@dataclass(frozen=True, slots=True)
class Image:
    """One encoded image, named by its sha256 (64 hexadecimal digits)."""

    data: bytes
    sha256: str


@dataclass(slots=True)
class Trace:
    """What becomes of one request: who sent it and when, the seconds of each step, where the answer came from.

    Each image of a batch has one of its own, `started` with the batch.
    """

    request_id: str
    address: str | None = None
    key: str | None = None  # the name of the API key
    started: float = field(default_factory=time.monotonic)
    steps: dict[str, float] = field(default_factory=dict)
    cache: Literal["hit", "miss", "joined"] | None = None  # None until an image is asked about


@dataclass(frozen=True, slots=True)
class Memory:
    """What remembers; what is off is None."""

    cache: Cache | None = None
    audit: AuditLog | None = None
    uploads: Uploads | None = None


class Recognizer:
    """The single model, the pool that it is used through, and what is remembered."""

    def __init__(
        self,
        classifier: Classifier,
        pool: WorkerPool,
        metrics: Metrics,
        memory: Memory,
        apart: Collection[str] = (),
    ) -> None:
        """`apart` are the names of the API keys, if each has answers of its own; else all share them."""
        self.classifier = classifier
        self.pool = pool
        self.metrics = metrics
        self.cache, self.audit, self.uploads = memory.cache, memory.audit, memory.uploads
        self._apart = apart
        self._present: Counter[str] = Counter()  # requests that are being answered, by the sha256 of their image
        self._in_flight: dict[tuple[str, str], Job[Scores]] = {}  # by sha256 and variant
        self._deletions = Deletions()
        self._fingerprint = _fingerprint(classifier)
        metrics.model_info.labels(**asdict(classifier.info)).set(1)

    async def recognize(
        self,
        image: Image,
        trace: Trace,
        disconnected: Callable[[], Awaitable[object]] | None = None,
        *,
        in_batch: bool = False,
    ) -> Scores:
        """What is in one image; `trace` is filled on the way.

        `disconnected()` ends when whoever asked has left. An image that is `in_batch` waits for its turn among those of
        batches, and is not refused for want of a place.

        Raises:
            Refusal: the image cannot be recognised, or there is no room or no time for it.
            ClientDisconnected: `disconnected()` ended first.
        """
        trace.cache = "miss"  # unless it turns out otherwise
        self._present[image.sha256] += 1
        try:
            seen = await self._look_up(image.sha256, trace) or await self._see(image, trace, disconnected, in_batch)
            if self.uploads:
                deleted = partial(self._deletions.since, image.sha256, trace.started)
                await self.uploads.keep(image.sha256, image.data, unless=deleted)
        except ClientDisconnected:
            raise
        except Exception as error:
            await self._remember_refusal(image, trace, error if isinstance(error, Refusal) else Internal())
            raise
        finally:
            self._present[image.sha256] -= 1
            if not self._present[image.sha256]:
                del self._present[image.sha256]
        await self._remember(image.sha256, len(image.data), trace, seen)
        return seen

    # Apart from where it is caught: a name for it there closes a cycle through its traceback, and the image stays.
    async def _remember_refusal(self, image: Image, trace: Trace, refusal: Refusal) -> None:
        if refusal.status in (415, 422):
            self.metrics.image_errors.labels(refusal.code).inc()
        await self._remember(image.sha256, len(image.data), trace, refusal)

    async def recall(self, sha256: str, trace: Trace) -> Scores | None:
        """What is remembered of an image; None, and nothing is counted or recorded, when nothing is."""
        seen = await self._look_up(sha256, trace)
        if seen:
            await self._remember(sha256, seen.bytes, trace, seen)
        return seen

    async def _remember(self, sha256: str, size: int, trace: Trace, outcome: Scores | Refusal) -> None:
        child(self.metrics.cache, trace.cache).inc()
        if self.audit:
            begun = time.monotonic()
            await self.audit.write(self._row(self.audit, sha256, size, trace, outcome))
            trace.steps["audit"] = time.monotonic() - begun

    def _row(self, audit: AuditLog, sha256: str, size: int, trace: Trace, outcome: Scores | Refusal) -> AuditRow:
        seen, refusal = (None, outcome) if isinstance(outcome, Refusal) else (outcome, None)
        info = self.classifier.info
        return AuditRow(
            time=datetime.now(UTC),
            request_id=trace.request_id,
            address=audit.address(trace.address),
            key=trace.key,
            sha256=sha256,
            bytes=size,
            format=seen.format if seen else None,
            width=seen.width if seen else None,
            height=seen.height if seen else None,
            model_digest=info.digest,
            engine=info.engine,
            precision=info.precision,
            top5=self.classifier.top(seen, 5) if seen else [],
            status=refusal.status if refusal else 200,
            code=refusal.code if refusal else None,
            cache=trace.cache or "miss",
            steps={step: round(seconds * 1000, 1) for step, seconds in trace.steps.items()},
        )

    async def forget(self, sha256: str) -> bool:
        """Delete an image and the answers that are remembered for it, but not its rows in the audit log.

        Requests that began before this returns leave nothing of it behind. Returns whether there was anything: the
        image, an answer, or a request that is being answered.

        Raises:
            CacheUnavailable, StorageUnavailable, StorageFull: not now; answers may be gone, and the image is not.
        """
        with self._deletions.running(sha256):
            found = sha256 in self._present
            for key in (*self._apart, None):  # so that nobody joins it, and what is being computed is not remembered
                self._in_flight.pop((sha256, self._variant(key)), None)
            if self.cache:
                found |= await self.cache.drop(sha256)
            if self.uploads:
                found |= await self.uploads.remove(sha256)
            return found

    def _variant(self, key: str | None) -> str:
        """All that an answer depends on besides the image, and with it who may have it."""
        return f"{self._fingerprint}:{key}" if key in self._apart else self._fingerprint

    async def _look_up(self, sha256: str, trace: Trace) -> Scores | None:
        if not self.cache:
            return None
        started = time.monotonic()
        packed = await self.cache.get(sha256, self._variant(trace.key))
        trace.steps["cache"] = time.monotonic() - started
        if packed is None:
            return None
        try:
            seen = Scores.unpack(packed, len(self.classifier.labels))
        except ValueError:  # somebody else's, in a Redis that is shared with more than this program
            self.metrics.cache_errors.inc()
            return None
        trace.cache = "hit"
        return seen

    async def _see(
        self, image: Image, trace: Trace, disconnected: Callable[[], Awaitable[object]] | None, in_batch: bool
    ) -> Scores:
        asked = time.monotonic()
        call = self._join(image, trace)
        if call:  # which takes nobody's turn
            return await self._result(call, trace, disconnected, asked)
        async with self.pool.batch_turns if in_batch else _AT_ONCE:
            call = self._join(image, trace) or self._start(image, trace, in_batch)  # a twin may have come meanwhile
            return await self._result(call, trace, disconnected, asked)

    def _join(self, image: Image, trace: Trace) -> Job[Scores] | None:
        call = self._in_flight.get((image.sha256, self._variant(trace.key)))
        if not call or not call.join():
            return None
        trace.cache = "joined"
        return call

    async def _result(
        self, call: Job[Scores], trace: Trace, disconnected: Callable[[], Awaitable[object]] | None, asked: float
    ) -> Scores:
        try:
            return await call.result(disconnected)
        finally:
            begun = call.started or time.monotonic()
            trace.steps["queue"] = max(0, begun - asked)
            trace.steps["infer"] = time.monotonic() - max(begun, asked)

    def _start(self, image: Image, trace: Trace, in_batch: bool) -> Job[Scores]:
        call = self.pool.start(self.classifier.scores, image.data, in_batch=in_batch)
        if self.cache and not self._deletions.since(image.sha256, trace.started):
            name = image.sha256, self._variant(trace.key)
            self._in_flight[name] = call
            call.future.add_done_callback(partial(self._landed, self.cache, name, call))
        return call

    def _landed(self, cache: Cache, name: tuple[str, str], call: Job[Scores], future: asyncio.Future[Scores]) -> None:
        """Remember what was seen, even when nobody waits for it any more; unless it is to be forgotten."""
        if self._in_flight.get(name) is not call:
            return
        del self._in_flight[name]
        if not future.cancelled() and not future.exception():
            cache.put(*name, future.result().pack())

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

    def unready(self) -> Refusal | None:
        """What whoever asks for a recognition now would hear, whatever the image; None when it would be seen."""
        if self.pool.draining:
            return Draining(retry_after=self.pool.retry_after())
        if self.pool.is_stuck():
            return Overloaded("Every place is taken, and nothing finishes.", retry_after=self.pool.retry_after())
        if self.audit and self.audit.required and not self.audit.state()[0]:
            return AuditUnavailable(retry_after=1)
        return None

    def checks(self) -> list[Check]:
        """What readiness depends on, and the cache. It reads numbers only, so that busy workers do not matter."""
        card, pool = self.classifier.card, self.pool
        stand_in = ", a stand-in: the weights of the network that belongs here are missing" if card.stand_in else ""
        return [
            Check("model", True, f"{card.name}, {card.engine} {card.precision}{stand_in}"),
            Check("golden image", True, "recognised at start"),
            Check("draining", not pool.draining, "stopping" if pool.draining else "no"),
            Check("pool", not pool.is_stuck(), f"{pool.waiting} waiting, {pool.places} places, {pool.workers} workers"),
            Check("cache", *(self.cache.state() if self.cache else (True, "off"))),
            Check("audit", *(self.audit.state() if self.audit else (True, "off"))),
            Check("uploads", *(self.uploads.state() if self.uploads else (True, "off"))),
        ]


def _fingerprint(classifier: Classifier) -> str:
    """16 hexadecimal digits of all that an answer depends on besides the image."""
    info = classifier.info
    parts = [info.digest, asdict(classifier.recipe), info.engine, info.precision, TEMPERATURE, __version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
