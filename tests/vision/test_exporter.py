from pathlib import Path

import numpy as np
import pytest

from eyespot.errors import ExportRefused
from eyespot.vision import exporter, weights
from eyespot.vision.weights import Entry
from tests.disk import file_size_limit
from tests.serving import ROOT, FakeEngine


@pytest.fixture(scope="module")
def entry() -> Entry:
    return weights.read_manifest(ROOT / "weights" / "manifest.toml")["efficientnet-lite0"]


class Shifted(FakeEngine):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def infer(self, pixels, *, features=False, exclusive=False):  # type: ignore[no-untyped-def]
        logits, maps = super().infer(pixels)
        logits[:, 3] += self.by
        return logits, maps


@pytest.mark.parametrize(("by", "refused"), [(0, False), (9e-4, False), (2e-3, True), (9, True), (float("nan"), True)])
def test_an_export_that_disagrees_is_refused(entry: Entry, by: float, refused: bool) -> None:
    images = exporter.proof_images(entry.recipe)
    if refused:
        with pytest.raises(ExportRefused):
            exporter.prove(FakeEngine(), Shifted(by), images)
    else:
        assert exporter.prove(FakeEngine(), Shifted(by), images) == pytest.approx(by, abs=1e-6)


def test_a_top1_that_changes_within_the_tolerance_is_refused(entry: Entry) -> None:
    class Near(FakeEngine):
        def __init__(self, best: int) -> None:
            super().__init__()
            self.best = best

        def infer(self, pixels, *, features=False, exclusive=False):  # type: ignore[no-untyped-def]
            logits = np.zeros((len(pixels), 10), np.float32)
            logits[:, self.best] = 1e-5
            return logits, None

    with pytest.raises(ExportRefused, match="recognise a test image differently"):
        exporter.prove(Near(1), Near(2), exporter.proof_images(entry.recipe))


def test_the_proof_images_do_not_change(entry: Entry) -> None:
    first, second = exporter.proof_images(entry.recipe), exporter.proof_images(entry.recipe)
    assert (first == second).all()
    assert first.shape == (8, 224, 224, 3)
    assert len({image.tobytes() for image in first}) == 8


def test_an_export_that_cannot_be_made_leaves_nothing(entry: Entry, tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match=r"efficientnet-lite0 could not be exported: labels has 7 classes, but"):
        exporter.make(entry, 7, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs("make test-all")
def test_a_full_disk_is_told_with_the_setting(entry: Entry, tmp_path: Path) -> None:
    told = f"could not be exported: no space left in {tmp_path}; set EYESPOT_DATA_DIR"
    with file_size_limit(1_000_000), pytest.raises(ExportRefused, match=told):
        exporter.make(entry, 1000, tmp_path)
