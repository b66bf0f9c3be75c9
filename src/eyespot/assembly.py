"""Builds a recognizer from the settings, and takes it apart."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

from eyespot import pool
from eyespot.errors import DataDirUnwritable
from eyespot.memory.cache import open_cache
from eyespot.pool import WorkerPool
from eyespot.recognizer import Recognizer
from eyespot.settings import Settings
from eyespot.telemetry import Metrics, event
from eyespot.vision.classifier import Classifier


@asynccontextmanager
async def open_recognizer(settings: Settings) -> AsyncIterator[Recognizer]:
    """A recognizer that has recognised the golden image through its real pool.

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
    classifier = await asyncio.to_thread(
        Classifier.open,
        settings.manifest,
        settings.model,
        engine=settings.engine,
        precision=settings.precision,
        labels_dir=settings.labels_dir,
        data_dir=settings.data_dir,
        streams=planned.streams,
        threads=planned.threads,
        lone_threads=planned.lone_threads,
        max_bytes=settings.max_bytes,
        max_pixels=settings.max_pixels,
        formats=settings.formats,
    )
    metrics = Metrics()
    workers = WorkerPool(planned.workers, settings.queue, settings.deadline_seconds, metrics)
    cache = open_cache(settings.cache_url, metrics)
    try:
        recognizer = Recognizer(classifier, workers, metrics, cache)
        await recognizer.warm_up()
        event("model_ready", **asdict(classifier.info))
        yield recognizer
    finally:
        await asyncio.to_thread(workers.close)
        if cache:
            await cache.close()


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
