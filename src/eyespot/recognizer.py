"""The pipeline of one image.

1. admit     web.gate: request id, client, key, rate, size of the body
2. read      web.api.body: images and parameters out of the body
3. cache     here: the answer, when the model has seen these bytes before
4. queue     pool: a worker, a twin to join, or a refusal
5. decode    vision.preprocess, in a worker thread
6. infer     vision.engines, in the same thread
7. audit     here: the upload kept, the row written
8. respond   web.api: the top-k as JSON
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial

from eyespot import __version__
from eyespot.errors import Internal, Refusal
from eyespot.job import ClientDisconnected, Disconnected
from eyespot.memory.audit import AuditLog
from eyespot.memory.cache import Cache
from eyespot.memory.deletions import Deletions
from eyespot.memory.uploads import Uploads
from eyespot.pool import Lane, WorkerPool
from eyespot.telemetry import Metrics, Trace, child
from eyespot.types import AuditRow
from eyespot.vision.classifier import Classifier, Scores
from eyespot.vision.engines import TEMPERATURE


@dataclass(frozen=True, slots=True)
class Image:
    """One encoded image and its sha256 (64 hexadecimal digits)."""

    data: bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered; None is off."""

    cache: Cache | None = None
    audit: AuditLog | None = None
    uploads: Uploads | None = None


class Recognizer:
    """The one model, the pool in front of it, and the memory behind it."""

    def __init__(
        self,
        classifier: Classifier,
        pool: WorkerPool,
        metrics: Metrics,
        memory: Memory,
        separate_keys: Collection[str] = (),
    ) -> None:
        """`separate_keys` names the API keys that share no cached answers with each other."""
        self.classifier = classifier
        self.pool = pool
        self.metrics = metrics
        self.cache, self.audit, self.uploads = memory.cache, memory.audit, memory.uploads
        self._separate_keys = separate_keys
        self._in_progress: Counter[str] = Counter()  # requests by the sha256 of their image
        self._deletions = Deletions()
        self._fingerprint = _fingerprint(classifier)
        metrics.model_info.labels(**asdict(classifier.info)).set(1)

    async def recognize(
        self, image: Image, trace: Trace, disconnected: Disconnected | None = None, lane: Lane = "interactive"
    ) -> Scores:
        """Steps 3 to 7 for one image, timed in `trace`.

        Raises:
            Refusal: the image cannot be recognised, or not now.
            ClientDisconnected: `disconnected()` returned first.
        """
        trace.cache = "miss"
        try:
            self._in_progress[image.sha256] += 1
            scores = await self._cached(image.sha256, trace)
            if scores is None:
                scores = await self._computed(image, trace, disconnected, lane)
            await self._keep(image, trace)
        except ClientDisconnected:
            raise
        except Exception as error:
            await self._write_refusal(image, trace, error if isinstance(error, Refusal) else Internal())
            raise
        finally:
            self._in_progress[image.sha256] -= 1
            if not self._in_progress[image.sha256]:
                del self._in_progress[image.sha256]
        await self._write(image.sha256, len(image.data), trace, scores)
        return scores

    async def recall(self, sha256: str, trace: Trace) -> Scores | None:
        """The cached answer for an image, or None, in which case nothing is counted or audited."""
        scores = await self._cached(sha256, trace)
        if scores:
            await self._write(sha256, scores.bytes, trace, scores)
        return scores

    async def forget(self, sha256: str) -> bool:
        """Delete an image and every answer for it; its audit rows stay. Requests that began earlier keep nothing.

        Returns whether there was an upload, an answer, or a request in progress.

        Raises:
            CacheUnavailable, StorageUnavailable, StorageFull: the upload is not deleted; answers may be.
        """
        with self._deletions.running(sha256):
            found = sha256 in self._in_progress
            for key in (*self._separate_keys, None):
                self.pool.forget((sha256, self._variant(key)))
            if self.cache:
                found |= await self.cache.drop(sha256)
            if self.uploads:
                found |= await self.uploads.remove(sha256)
            return found

    def refuse_early(self) -> None:
        """Raise `Overloaded` when an image could only be refused, so that its body need not be read."""
        if not self.cache:
            self.pool.refuse_if_full()

    async def _cached(self, sha256: str, trace: Trace) -> Scores | None:
        if not self.cache:
            return None
        packed = await self.cache.get(sha256, self._variant(trace.key))
        trace.lap("cache")
        if packed is None:
            return None
        try:
            scores = Scores.unpack(packed, len(self.classifier.labels))
        except ValueError:  # written by another program that shares this Redis
            self.metrics.cache_errors.inc()
            return None
        trace.cache = "hit"
        return scores

    async def _computed(self, image: Image, trace: Trace, disconnected: Disconnected | None, lane: Lane) -> Scores:
        # A request from before a deletion has no twins: its result is not cached, and a younger one's is.
        joinable = self.cache and not self._deletions.since(image.sha256, trace.started)
        key = (image.sha256, self._variant(trace.key)) if joinable else None
        scores: Scores
        scores, steps = await self.pool.run(
            self._decode_and_infer,
            image.data,
            trace=trace,
            key=key,
            lane=lane,
            disconnected=disconnected,
            on_result=partial(self._remember, key, trace.started) if key else None,
        )
        if trace.cache != "joined":
            for step, seconds in steps.items():
                trace.lap(step, seconds=seconds)
        return scores

    def _decode_and_infer(self, data: bytes) -> tuple[Scores, dict[str, float]]:
        steps: dict[str, float] = {}
        return self.classifier.scores(data, steps), steps

    def _remember(self, key: tuple[str, str], started: float, result: tuple[Scores, dict[str, float]]) -> None:
        """Cache an answer, unless its image was deleted after `started`."""
        sha256, variant = key
        if self.cache and not self._deletions.since(sha256, started):
            self.cache.put(sha256, variant, result[0].pack())

    async def _keep(self, image: Image, trace: Trace) -> None:
        if self.uploads:
            deleted = partial(self._deletions.since, image.sha256, trace.started)
            await self.uploads.keep(image.sha256, image.data, unless=deleted)

    # Not inside the `except` above: a local name for the error would close a cycle through its traceback, which keeps
    # the image in memory.
    async def _write_refusal(self, image: Image, trace: Trace, refusal: Refusal) -> None:
        if refusal.status in (415, 422):
            self.metrics.image_errors.labels(refusal.code).inc()
            trace.lap("decode")
        await self._write(image.sha256, len(image.data), trace, refusal)

    async def _write(self, sha256: str, size: int, trace: Trace, outcome: Scores | Refusal) -> None:
        child(self.metrics.cache, trace.cache).inc()
        if self.audit:
            await self.audit.write(self._row(self.audit, sha256, size, trace, outcome))
            trace.lap("audit")

    def _row(self, audit: AuditLog, sha256: str, size: int, trace: Trace, outcome: Scores | Refusal) -> AuditRow:
        scores, refusal = (None, outcome) if isinstance(outcome, Refusal) else (outcome, None)
        info = self.classifier.info
        return AuditRow(
            time=datetime.now(UTC),
            request_id=trace.request_id,
            address=audit.address(trace.address),
            key=trace.key,
            sha256=sha256,
            bytes=size,
            format=scores.format if scores else None,
            width=scores.width if scores else None,
            height=scores.height if scores else None,
            model_digest=info.digest,
            engine=info.engine,
            precision=info.precision,
            top5=self.classifier.top(scores, 5) if scores else [],
            status=refusal.status if refusal else 200,
            code=refusal.code if refusal else None,
            cache=trace.cache or "miss",
            steps=trace.milliseconds(),
        )

    def _variant(self, key: str | None) -> str:
        """Everything besides the image that an answer depends on, and the API key when keys are separate."""
        return f"{self._fingerprint}:{key}" if key in self._separate_keys else self._fingerprint


def _fingerprint(classifier: Classifier) -> str:
    """16 hexadecimal digits of everything besides the image that an answer depends on."""
    info = classifier.info
    parts = [info.digest, asdict(classifier.recipe), info.engine, info.precision, TEMPERATURE, __version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
