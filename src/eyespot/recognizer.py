"""The pipeline of one image.

1. admit     web.gate: request id, client, size of the body (413), key (401), rate (429)
2. read      web.api.body: images and parameters out of the body (400, 415)
3. cache     here: the answer, when these bytes were recognised before
4. queue     pool: a worker, a job to join, or a refusal (503, 504)
5. decode    vision.preprocess, in a worker thread (415, 422)
6. infer     vision.engines, in the same thread; its answer goes into the cache
7. audit     here: the upload is stored, the audit row written (503 if that is required and fails)
8. respond   web.api: the top-k as JSON
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeAlias

from eyespot.errors import BrokenImage, Internal, Refusal, UnsupportedFormat
from eyespot.job import ClientDisconnected, Disconnected
from eyespot.memory.audit import AuditLog
from eyespot.memory.cache import Cache
from eyespot.memory.deletions import Deletions
from eyespot.memory.uploads import Uploads
from eyespot.model import ServedModel
from eyespot.pool import Lane, WorkerPool
from eyespot.telemetry import Metrics, Trace, child
from eyespot.types import AuditRow
from eyespot.vision.classifier import Classifier
from eyespot.vision.scores import Scores

Compute: TypeAlias = Callable[..., Scores]
"""What a worker calls with the encoded bytes and the dictionary of `steps`: `Classifier.scores` or `explain`."""


@dataclass(frozen=True, slots=True)
class Image:
    """One encoded image and its sha256 (64 hexadecimal digits); a tensor is the model's input, from `to_ppm`."""

    data: bytes
    sha256: str
    is_tensor: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """The stores; None is switched off."""

    cache: Cache | None = None
    audit: AuditLog | None = None
    uploads: Uploads | None = None


class Recognizer:
    """The model, the pool in front of it, and the stores behind it."""

    def __init__(
        self,
        model: ServedModel,
        pool: WorkerPool,
        metrics: Metrics,
        memory: Memory,
        separate_keys: Collection[str] = (),
    ) -> None:
        """`separate_keys` are names of API keys that share no cached answers with each other."""
        self.model = model
        self.pool = pool
        self.metrics = metrics
        self.cache, self.audit, self.uploads = memory.cache, memory.audit, memory.uploads
        self._separate_keys = separate_keys
        self._in_progress: Counter[str] = Counter()  # requests by the sha256 of their image
        self._deletions = Deletions()

    def refuse_early(self) -> None:
        """Raise `Overloaded` before the body is read if the pool is full. With a cache it must be read for a hit."""
        if not self.cache:
            self.pool.refuse_if_full()

    async def recognize(
        self,
        classifier: Classifier,
        image: Image,
        trace: Trace,
        disconnected: Disconnected | None = None,
        lane: Lane = "interactive",
        compute: Compute | None = None,
        reuse: bool = True,
    ) -> Scores:
        """Steps 3 to 7 for one image, timed in `trace`; `compute` is `classifier.scores` by default.

        With `reuse` off it is always computed, by a job of its own: an activation or an embedding is never cached. The
        scores themselves are.

        Raises:
            Refusal: the image cannot be recognised, or not now. It is audited, as any other exception is.
            ClientDisconnected: `disconnected()` returned first. Nobody was answered, so nothing is audited.
        """
        trace.cache = "miss"
        self._in_progress[image.sha256] += 1
        try:
            variant = self._variant(classifier, trace.key, image.is_tensor)
            scores = await self._look_up(classifier, image.sha256, variant, trace) if reuse else None
            if scores is None:
                compute = compute or classifier.scores
                scores = await self._compute(image, variant, trace, disconnected, lane, compute, reuse)
            if self.uploads:
                deleted = partial(self._deletions.since, image.sha256, trace.started)
                await self.uploads.keep(image.sha256, image.data, unless=deleted)
        except ClientDisconnected:
            raise
        except Exception as error:
            await self._record_failure(classifier, image, trace, error if isinstance(error, Refusal) else Internal())
            raise
        finally:
            self._in_progress[image.sha256] -= 1
            if not self._in_progress[image.sha256]:
                del self._in_progress[image.sha256]
        await self._record(classifier, image.sha256, len(image.data), trace, scores)
        return scores

    async def recall(self, classifier: Classifier, sha256: str, trace: Trace) -> Scores | None:
        """The cached answer for an image. Without one it is None, and no row is written."""
        scores = await self._look_up(classifier, sha256, self._variant(classifier, trace.key), trace)
        if scores is not None:
            await self._record(classifier, sha256, scores.bytes, trace, scores)
        return scores

    async def forget(self, sha256: str) -> bool:
        """Delete an image and every answer for it; its audit rows stay. Requests in progress will store nothing.

        Returns whether there was an upload, an answer, or a request in progress.

        Raises:
            CacheUnavailable, StorageUnavailable, StorageFull: the upload was not deleted; answers may have been.
        """
        with self._deletions.running(sha256):
            found = sha256 in self._in_progress
            self.pool.forget(sha256)
            if self.cache:
                found |= await self.cache.drop(sha256)
            if self.uploads:
                found |= await self.uploads.remove(sha256)
            return found

    async def _look_up(self, classifier: Classifier, sha256: str, variant: str, trace: Trace) -> Scores | None:
        if not self.cache:
            return None
        packed = await self.cache.get(sha256, variant)
        trace.lap("cache")
        if packed is None:
            return None
        try:
            scores = Scores.unpack(packed, len(classifier.labels))
        except ValueError:  # written by another program that shares this Redis
            self.metrics.cache_errors.inc()
            return None
        trace.cache = "hit"
        return scores

    async def _compute(
        self,
        image: Image,
        variant: str,
        trace: Trace,
        disconnected: Disconnected | None,
        lane: Lane,
        compute: Compute,
        reuse: bool,
    ) -> Scores:
        # A request that began before its image was deleted runs alone: its answer must not be stored, and a later
        # request must not share its job.
        shared = self.cache is not None and not self._deletions.since(image.sha256, trace.started)
        key = (image.sha256, variant) if shared else None
        scores: Scores
        scores, steps = await self.pool.run(
            _decode_and_infer,
            compute,
            image.data,
            trace=trace,
            key=key if reuse else None,
            lane=lane,
            disconnected=disconnected,
            on_result=partial(self._store_answer, *key, trace.started) if key else None,
        )
        if trace.cache != "joined":
            for step, seconds in steps.items():
                trace.lap(step, seconds=seconds)
        return scores

    def _store_answer(self, sha256: str, variant: str, started: float, result: tuple[Scores, dict[str, float]]) -> None:
        """Put an answer into the cache, unless its image was deleted after `started`."""
        if self.cache and not self._deletions.since(sha256, started):
            self.cache.put(sha256, variant, result[0].pack())

    # A method of its own: a variable in `recognize` that holds the error would make a reference cycle (frame, error,
    # traceback, frame), which keeps the image in memory.
    async def _record_failure(self, classifier: Classifier, image: Image, trace: Trace, refusal: Refusal) -> None:
        if refusal.status in (UnsupportedFormat.status, BrokenImage.status):  # refused while it was decoded
            trace.lap("decode")
        await self._record(classifier, image.sha256, len(image.data), trace, refusal)

    async def _record(
        self, classifier: Classifier, sha256: str, size: int, trace: Trace, outcome: Scores | Refusal
    ) -> None:
        """Count the outcome, and write its audit row."""
        child(self.metrics.cache_requests, trace.cache).inc()
        if self.audit:
            await self.audit.write(self._row(self.audit, classifier, sha256, size, trace, outcome))
            trace.lap("audit")

    def _row(
        self, audit: AuditLog, classifier: Classifier, sha256: str, size: int, trace: Trace, outcome: Scores | Refusal
    ) -> AuditRow:
        scores, refusal = (None, outcome) if isinstance(outcome, Refusal) else (outcome, None)
        info = classifier.info
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
            top5=classifier.top(scores, 5) if scores else [],
            status=refusal.status if refusal else 200,
            code=refusal.code if refusal else None,
            cache=trace.cache or "miss",
            steps=trace.milliseconds(),
        )

    def _variant(self, classifier: Classifier, key_name: str | None, is_tensor: bool = False) -> str:
        """The part of a cache key that is not the image: the fingerprint, and the API key if answers are separate.

        A tensor has answers of its own, because its bytes sent as an image are refused.
        """
        variant = f"{classifier.fingerprint}:tensor" if is_tensor else classifier.fingerprint
        return f"{variant}:{key_name}" if key_name in self._separate_keys else variant


def _decode_and_infer(compute: Compute, data: bytes) -> tuple[Scores, dict[str, float]]:
    steps: dict[str, float] = {}
    return compute(data, steps=steps), steps
