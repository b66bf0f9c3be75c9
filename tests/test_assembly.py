"""What is opened at start, warmed up, and closed again."""

import asyncio
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from eyespot import assembly
from eyespot.errors import GoldenImageFailed
from eyespot.pool import WorkerPool
from eyespot.settings import Settings
from eyespot.telemetry import Metrics
from eyespot.vision.classifier import Classifier
from tests.serving import ROOT, FakeEngine, fake_classifier


def test_warm_up_reaches_every_worker() -> None:
    names: set[str] = set()

    class Named(FakeEngine):
        def infer(self, *args: Any, **options: Any) -> Any:
            names.add(threading.current_thread().name)
            return super().infer(*args, **options)

    pool = WorkerPool(4, 0, 30, Metrics())
    asyncio.run(assembly.warm_up(fake_classifier(Named()), pool))
    pool.close()
    assert len(names) == 4


def test_a_failed_start_closes_what_was_opened(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden image is not recognised: the pool is closed again, and its threads are gone."""

    def fail(_: Classifier) -> None:
        raise GoldenImageFailed

    monkeypatch.setattr(Classifier, "check_golden_image", fail)
    manifest = ROOT / "weights" / "manifest.toml"
    settings = Settings(data_dir=data_dir, manifest=manifest, model="efficientnet-lite0")

    async def start() -> None:
        async with assembly.open_recognizer(settings):
            pytest.fail("it started")

    before = threading.active_count()
    with pytest.raises(GoldenImageFailed):
        asyncio.run(start())
    assert threading.active_count() <= before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("eyespot-worker")]


@pytest.mark.needs("make test-all")
def test_a_model_that_was_switched_away_from_is_gone(data_dir: Path) -> None:
    settings = Settings(data_dir=data_dir, manifest=ROOT / "weights" / "manifest.toml", model="efficientnet-lite0")

    async def test() -> None:
        async with assembly.open_recognizer(settings) as recognizer:
            before = weakref.ref(recognizer.model.classifier)
            await recognizer.model.switch()
            assert recognizer.model.classifier.info.name == "efficientnet-lite0"
            assert before() is None

    asyncio.run(test())
