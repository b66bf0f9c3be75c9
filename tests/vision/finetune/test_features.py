"""Features of training images, kept between runs."""

from pathlib import Path

import numpy as np
import pytest

from eyespot.errors import TooFewImages
from eyespot.vision.finetune import dataset
from eyespot.vision.finetune.features import FeatureFile, Features, check_counts, extract
from tests import makers
from tests.serving import FakeEngine, fake_classifier


def extracted(folder: Path, engine: FakeEngine, file: Path) -> Features:
    with FeatureFile(file, 4) as rows:
        return extract(dataset.read(folder), fake_classifier(engine), rows, threads=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return makers.textures(tmp_path / "images", 2, range(6))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "features"


def test_images_are_computed_once(folder: Path, file: Path) -> None:
    engine = FakeEngine()
    found = extracted(folder, engine, file)
    assert found.pooled.shape == (12, 4)
    assert found.pooled[0].tolist() == [cell.mean() for cell in np.arange(196).reshape(4, 49)]
    assert found.truth.tolist() == [0] * 6 + [1] * 6
    assert engine.calls == 12
    makers.textures(folder, 2, [6])
    again = extracted(folder, engine, file)
    assert engine.calls == 14
    assert (again.pooled == extracted(folder, FakeEngine(), file.with_name("other")).pooled).all()


def test_an_interrupted_run_goes_on(folder: Path, file: Path) -> None:
    def interrupt(_what: str, done: int, _total: int) -> None:
        if done == 7:
            assert file.stat().st_size == size  # what a kill would leave
            raise KeyboardInterrupt

    size = 7 * (64 + 4 * 4)

    with pytest.raises(KeyboardInterrupt), FeatureFile(file, 4) as rows:
        extract(dataset.read(folder), fake_classifier(FakeEngine()), rows, 1, interrupt)
    assert file.stat().st_size == size
    with file.open("ab") as cut_off:
        cut_off.write(b"half a row")
    engine = FakeEngine()
    assert len(extracted(folder, engine, file).paths) == 12
    assert engine.calls == 5
    assert file.stat().st_size == size // 7 * 12


def test_copies_count_once_and_in_two_classes_not_at_all(folder: Path, file: Path) -> None:
    first, second = folder / "stripes 0", folder / "stripes 1"
    (first / "copy.png").write_bytes((first / "0.png").read_bytes())
    (second / "other.png").write_bytes(makers.encode(makers.texture(0, 5), "PNG", compress_level=1))
    found = extracted(folder, FakeEngine(), file)
    assert found.doubles == [[first / "5.png", second / "other.png"]]
    assert len(found.paths) == 11
    assert first / "copy.png" not in found.paths


def test_what_cannot_be_read_is_left_out(folder: Path, file: Path) -> None:
    (folder / "stripes 0" / "broken.jpg").write_bytes(makers.jpeg()[:500])
    found = extracted(folder, FakeEngine(), file)
    assert found.skipped == [folder / "stripes 0" / "broken.jpg"]
    assert len(found.paths) == 12


def test_a_class_needs_five_images(folder: Path, file: Path) -> None:
    for name in ("stripes 0/0.png", "stripes 0/1.png", "stripes 1/0.png", "stripes 1/1.png"):
        (folder / name).unlink()
    message = r"^stripes 0 has 4 different readable images; .* at least 5, better 40 \(too few as well: stripes 1\)$"
    found = extracted(folder, FakeEngine(), file)
    with pytest.raises(TooFewImages, match=message):
        check_counts(dataset.read(folder).labels, found.truth)
