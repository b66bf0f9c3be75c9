"""What a model makes of labelled images."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eyespot.errors import TooFewImages
from eyespot.vision import samples
from eyespot.vision.labels import ClassRow, Labels
from eyespot.vision.samples import Candidates, Samples
from tests import makers
from tests.serving import FakeEngine, fake_classifier

LABELS = fake_classifier(FakeEngine()).labels


def grey(class_id: int, number: int = 0) -> bytes:
    """An image that the fake engine takes for this class, another for every number."""
    return makers.encode(makers.flat((64, 40 + number), color=(13 + 25 * class_id,) * 3), "PNG")


def candidates(confidences: "np.ndarray[Any, Any]", right: "np.ndarray[Any, Any]") -> Candidates:
    none = np.zeros(len(right), bool)
    return Candidates(confidences, right, none, none, none)


def test_a_class_is_said_before_its_groups_and_they_before_nothing() -> None:
    confidences = np.array([[0.9, 0.95, 0, 0], [0.4, 0.5, 0.8, 0], [0.3, 0.4, 0.5, 0.9], [0.2, 0.3, 0.3, 0]])
    right = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]], bool)
    found = candidates(confidences, right)
    assert found.said(0.8).tolist() == [0, 2, 3, -1]
    assert found.right_of(found.said(0.8)).tolist() == [True, False, True]


def test_a_group_is_right_if_the_true_class_is_in_it() -> None:
    logits = np.zeros((2, 10), np.float32)
    logits[:, 0] = 9
    found = Samples(LABELS, logits, np.array([1, 7])).candidates(1)
    assert found.right[:, :2].tolist() == [[False, True], [False, False]]


def test_the_true_class_may_be_among_the_five_likeliest() -> None:
    logits = np.tile(np.arange(10, dtype=np.float32), (3, 1))
    assert Samples(LABELS, logits, np.array([9, 5, 4])).candidates(1).top5.tolist() == [True, True, False]


def test_the_class_that_is_none_of_the_others_is_no_answer() -> None:
    labels = Labels((ClassRow(0, "", "rose"), ClassRow(1, "", "nothing", other=True)))
    found = Samples(labels, np.array([[9, 0], [0, 9], [0, 9]], np.float32), np.array([1, 1, 0])).candidates(1)
    assert found.said(0.5).tolist() == [0, -1, -1]
    assert found.nothing.tolist() == [True, True, False]


def test_images_are_read_once_and_broken_ones_are_told(tmp_path: Path) -> None:
    classifier = fake_classifier(FakeEngine())
    for number in range(100):
        class_id = number % 10
        for folder in (f"n{class_id:08}", f"class {class_id}"):  # each twice
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{number}.png").write_bytes(grey(class_id, number))
    (tmp_path / "class 3" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    reading = samples.read(classifier, tmp_path, threads=3, minimum=100)
    assert len(reading.samples.truth) == len(reading.paths) == 100
    assert (reading.samples.found == reading.samples.truth).all()
    assert {path.parent.name[-1] for path in reading.paths[:20]} > {"1", "2"}  # not in the order of names
    assert [path.name for path in reading.unreadable] == ["broken.jpg"]
    assert (reading.contradictory, reading.images_per_second > 0, reading.infer_ms > 0) == ([], True, True)
    for folder in ("n00000000", "class 0"):
        (tmp_path / folder / "0.png").unlink()
    with pytest.raises(TooFewImages, match="99 different readable labelled images and needs at least 100"):
        samples.read(classifier, tmp_path, minimum=100)


def test_copies_in_different_classes_count_in_none(tmp_path: Path) -> None:
    for name in ("class 1/a.png", "class 2/b.png", "class 2/c.png", "class 3/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(grey(3 if "d" in name else 2))
    reading = samples.read(fake_classifier(FakeEngine()), tmp_path)
    assert [path.name for path in reading.paths] == ["d.png"]
    assert [[path.name for path in same] for same in reading.contradictory] == [["a.png", "b.png", "c.png"]]


def test_images_that_the_model_was_trained_on_are_counted(tmp_path: Path) -> None:
    (tmp_path / "class 3").mkdir()
    for number in range(3):
        (tmp_path / "class 3" / f"{number}.png").write_bytes(grey(3, number))
    classifier = fake_classifier(FakeEngine())
    assert samples.read(classifier, tmp_path).trained_on == 0
    known = tmp_path / "own-1.images"
    known.write_text(f"{hashlib.sha256(grey(3, 1)).hexdigest()}\n{'0' * 64}\n")
    own = fake_classifier(FakeEngine(), folder=tmp_path, file="own-1.safetensors")
    assert samples.read(own, tmp_path).trained_on == 1


def test_files_of_a_list_that_are_gone_are_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(grey(4))
    (tmp_path / "list.csv").write_text("gone.png,class 4\na.png,class 4\n")
    reading = samples.read(fake_classifier(FakeEngine()), tmp_path / "list.csv")
    assert reading.samples.truth.tolist() == [4]
    assert reading.unreadable == [tmp_path / "gone.png"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(
        TooFewImages,
        match=r"list\.csv has 0 different readable labelled images and needs at least 1 \(.*gone\.png is not",
    ):
        samples.read(fake_classifier(FakeEngine()), tmp_path / "list.csv")
