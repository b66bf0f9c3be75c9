"""Builds a recognizer from the settings, and takes it apart."""

import asyncio
import threading
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from functools import partial

from eyespot import cpus
from eyespot.errors import GoldenImageFailed, InvalidSetting, Refusal
from eyespot.memory.audit import AuditLog
from eyespot.memory.audit_address import anonymizer
from eyespot.memory.cache import open_cache
from eyespot.memory.upload_folder import UploadFolder
from eyespot.memory.uploads import Uploads
from eyespot.model import ServedModel
from eyespot.pool import WorkerPool
from eyespot.recognizer import Memory, Recognizer
from eyespot.settings import Settings
from eyespot.telemetry import Metrics, event
from eyespot.vision import export
from eyespot.vision.classifier import Classifier


@asynccontextmanager
async def open_recognizer(settings: Settings, separate_keys: Collection[str] = ()) -> AsyncIterator[Recognizer]:
    """A recognizer whose workers have recognised the golden image; see `Recognizer` for `separate_keys`.

    Raises:
        StartError: it cannot be built; what was opened is closed again.
    """
    export.check_writable(settings.data_dir)
    plan = cpus.plan(settings.workers, settings.threads)
    event("workers_planned", **asdict(plan), cpus=cpus.available_cpus(), queue=settings.queue)
    # SQLAlchemy takes 0.2 s to import, during which OpenVINO compiles the model on another core.
    loading, importing = partial(open_classifier, settings, plan), partial(_import_audit, settings)
    classifier, _ = await asyncio.gather(asyncio.to_thread(loading), asyncio.to_thread(importing))
    metrics = Metrics()
    async with open_memory(settings, metrics) as memory:
        pool = WorkerPool(plan.workers, settings.queue, settings.deadline_seconds, metrics)
        try:
            await warm_up(classifier, pool)
            compared = classifier.comparison.model_dump(exclude_none=True) if classifier.comparison else {}
            event("model_ready", **asdict(classifier.info), **compared)
            model = ServedModel(classifier, settings.model, partial(_open_warm, settings, plan), metrics)
            del classifier  # or this frame would keep it in memory after a switch
            yield Recognizer(model, pool, metrics, memory, separate_keys)
        finally:
            await asyncio.to_thread(pool.close)


def open_classifier(settings: Settings, plan: cpus.Plan) -> Classifier:
    """The model that the settings name. Raises StartError."""
    return Classifier.open(
        settings.manifest,
        settings.model,
        engine=settings.engine,
        precision=settings.precision,
        labels_dir=settings.labels_dir,
        data_dir=settings.data_dir,
        streams=plan.streams,
        threads=plan.threads,
        latency_threads=plan.latency_threads,
        min_says=settings.min_says,
        max_bytes=settings.max_bytes,
        max_pixels=settings.max_pixels,
        formats=settings.formats,
    )


def _open_warm(settings: Settings, plan: cpus.Plan, model: str) -> Classifier:
    """Another model, for the same settings. Not through the workers, which are busy: they would have to wait."""
    classifier = open_classifier(settings.model_copy(update={"model": model}), plan)
    classifier.check_golden_image()
    return classifier


async def warm_up(classifier: Classifier, pool: WorkerPool) -> None:
    """Run the golden image through every worker.

    Raises:
        GoldenImageFailed: the model does not recognise it.
    """
    barrier = threading.Barrier(pool.workers)  # otherwise one quick thread would do the work of all

    def check() -> None:
        barrier.wait()
        classifier.check_golden_image()

    async def run() -> None:
        job, _ = await pool.submit(check)
        await job.result()

    try:
        await asyncio.gather(*(run() for _ in range(pool.workers)))
    except Refusal as refusal:
        raise GoldenImageFailed(f"the golden image was refused: {refusal}") from refusal
    finally:
        barrier.abort()


@asynccontextmanager
async def open_memory(settings: Settings, metrics: Metrics) -> AsyncIterator[Memory]:
    """The cache, the audit log and the uploads that the settings ask for.

    Raises:
        StartError: one cannot be opened; the others are closed again.
    """
    async with AsyncExitStack() as stack:
        cache = open_cache(settings.cache_url, metrics)
        if cache:
            stack.push_async_callback(cache.close)
        audit = await asyncio.to_thread(_open_audit, settings, metrics)
        if audit:
            stack.push_async_callback(audit.close)
        uploads = await asyncio.to_thread(_open_uploads, settings, metrics)
        if uploads:
            stack.callback(uploads.close)
            stack.callback(asyncio.create_task(uploads.keep_sweeping()).cancel)
        yield Memory(cache, audit, uploads)


def _open_audit(settings: Settings, metrics: Metrics) -> AuditLog | None:
    if settings.audit_url == "off":
        if settings.audit_required:
            raise InvalidSetting("EYESPOT_AUDIT_REQUIRED=true needs an audit log, but EYESPOT_AUDIT_URL is off")
        return None
    from eyespot.memory.audit_table import AuditTable

    return AuditLog(
        AuditTable(settings.audit_url, settings.data_dir),
        metrics,
        days=settings.audit_days,
        required=settings.audit_required,
        address=anonymizer(settings.audit_address, settings.data_dir),
    )


def _import_audit(settings: Settings) -> None:
    if settings.audit_url != "off":
        import eyespot.memory.audit_table  # noqa: F401


def _open_uploads(settings: Settings, metrics: Metrics) -> Uploads | None:
    if settings.uploads == "off":
        return None
    folder = UploadFolder(settings.data_dir / "uploads", settings.uploads_days, settings.uploads_max_bytes)
    return Uploads(folder, metrics)
