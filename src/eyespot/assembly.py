"""Builds a recognizer from the settings, and takes it apart."""

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eyespot import pool
from eyespot.errors import DataDirUnwritable, GoldenImageFailed, Refusal
from eyespot.memory.audit import AuditLog
from eyespot.memory.audit_address import anonymizer
from eyespot.memory.cache import open_cache
from eyespot.memory.upload_folder import UploadFolder
from eyespot.memory.uploads import Uploads
from eyespot.pool import WorkerPool
from eyespot.recognizer import Memory, Recognizer
from eyespot.settings import Settings
from eyespot.telemetry import Metrics, event
from eyespot.vision.classifier import Classifier

if TYPE_CHECKING:
    from eyespot.memory.audit_table import AuditTable


@asynccontextmanager
async def open_recognizer(settings: Settings, apart: Collection[str] = ()) -> AsyncIterator[Recognizer]:
    """A recognizer that has recognised the golden image through its real pool.

    `apart` are the names of the API keys, if each has answers of its own.

    Raises:
        StartError: it cannot be had; whatever was opened by then is closed.
    """
    check_writable(settings.data_dir)
    planned = pool.plan(settings.workers, settings.threads)
    event(
        "workers_planned",
        **asdict(planned),
        cpus=pool.available_cpus(),
        queue=settings.queue,
    )
    # Importing what the audit log needs takes 0.2 s, in which OpenVINO compiles the model on another core.
    opening, importing = partial(open_classifier, settings, planned), partial(import_audit_table, settings)
    classifier, _ = await asyncio.gather(asyncio.to_thread(opening), asyncio.to_thread(importing))
    metrics = Metrics()
    async with open_memory(settings, metrics) as memory:
        workers = WorkerPool(planned.workers, settings.queue, settings.deadline_seconds, metrics)
        try:
            recognizer = Recognizer(classifier, workers, metrics, memory, apart)
            await warm_up(classifier, workers)
            compared = classifier.comparison.model_dump() if classifier.comparison else {}
            event("model_ready", **asdict(classifier.info), **compared)
            yield recognizer
        finally:
            await asyncio.to_thread(workers.close)


async def warm_up(classifier: Classifier, workers: WorkerPool) -> None:
    """Run the golden image through every worker.

    Raises:
        GoldenImageFailed: the model does not recognise it.
    """
    barrier = threading.Barrier(workers.workers)  # otherwise one quick thread would do the work of all

    def check() -> None:
        barrier.wait()
        classifier.check_golden_image()

    async def run() -> None:
        job, _ = await workers.submit(check)
        await job.result()

    try:
        await asyncio.gather(*(run() for _ in range(workers.workers)))
    except Refusal as refusal:
        raise GoldenImageFailed(f"the golden image was refused: {refusal}") from refusal
    finally:
        barrier.abort()


def open_classifier(settings: Settings, planned: pool.Plan) -> Classifier:
    """The network that the settings name, with the threads that were planned.

    Raises:
        StartError: it cannot be had.
    """
    return Classifier.open(
        settings.manifest,
        settings.model,
        engine=settings.engine,
        precision=settings.precision,
        labels_dir=settings.labels_dir,
        data_dir=settings.data_dir,
        streams=planned.streams,
        threads=planned.threads,
        latency_threads=planned.latency_threads,
        max_bytes=settings.max_bytes,
        max_pixels=settings.max_pixels,
        formats=settings.formats,
    )


@asynccontextmanager
async def open_memory(settings: Settings, metrics: Metrics) -> AsyncIterator[Memory]:
    """The cache, the audit log and the kept images, as far as they are on.

    Raises:
        StartError: one cannot be had; whatever was opened by then is closed.
    """
    async with AsyncExitStack() as opened:
        cache = open_cache(settings.cache_url, metrics)
        if cache:
            opened.push_async_callback(cache.close)
        audit = await asyncio.to_thread(open_audit, settings, metrics)
        if audit:
            opened.push_async_callback(audit.close)
        uploads = await asyncio.to_thread(open_uploads, settings, metrics)
        if uploads:
            opened.callback(uploads.close)
            opened.callback(asyncio.create_task(uploads.keep_sweeping()).cancel)
        yield Memory(cache, audit, uploads)


def open_audit(settings: Settings, metrics: Metrics) -> AuditLog | None:
    """The audit log, ready to be written, or None when it is off.

    Raises:
        AuditUnusable: it cannot be had.
    """
    audit_table = import_audit_table(settings)
    if not audit_table:
        return None
    return AuditLog(
        audit_table(settings.audit_url, settings.data_dir),
        metrics,
        days=settings.audit_days,
        required=settings.audit_required,
        address=anonymizer(settings.audit_address, settings.data_dir),
    )


def import_audit_table(settings: Settings) -> "type[AuditTable] | None":
    """SQLAlchemy comes with it, which a server without an audit log does not pay for."""
    if settings.audit_url == "off":
        return None
    from eyespot.memory.audit_table import AuditTable

    return AuditTable


def open_uploads(settings: Settings, metrics: Metrics) -> Uploads | None:
    """The folder of images, swept, or None when they are not kept."""
    if settings.uploads == "off":
        return None
    folder = UploadFolder(settings.data_dir / "uploads", settings.uploads_days, settings.uploads_max_bytes)
    return Uploads(folder, metrics)


def check_writable(folder: Path) -> None:
    """Make the data folder, and write and remove a file in it.

    Raises:
        DataDirUnwritable: one of these cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise DataDirUnwritable(f"the data folder {folder.absolute()} cannot be written: {reason}") from error
