"""A calibration fitted on labelled images."""

from pathlib import Path

import numpy as np
import pytest

from eyespot.errors import TooFewImages
from eyespot.vision import fitting
from eyespot.vision.engines import softmax
from eyespot.vision.fitting import Candidates, Samples
from tests import makers
from tests.serving import FakeEngine, fake_classifier

LABELS = fake_classifier(FakeEngine()).labels


def samples(temperature: float, spread: float, count: int = 4000) -> Samples:
    """Random logits whose softmax at that temperature is the truth."""
    random = np.random.default_rng(0)
    logits = random.normal(0, spread, (count, 10)).astype(np.float32)
    truth = [random.choice(10, p=(p := softmax(row, temperature).astype(float)) / p.sum()) for row in logits]
    return Samples(LABELS, logits, np.array(truth))


@pytest.mark.parametrize("temperature", [0.5, 1, 2.5])
def test_the_temperature_is_the_one_with_which_confidences_are_true(temperature: float) -> None:
    assert fitting.fit(samples(temperature, 4 * temperature)).temperature == pytest.approx(temperature, rel=0.05)


def test_the_threshold_is_the_lowest_with_which_enough_is_right() -> None:
    found = samples(1, 2)
    fitted = fitting.fit(found)
    candidates = found.candidates(fitted.temperature)
    share = {min_says: candidates.right_of(candidates.said(min_says)).mean() for min_says in (fitted.min_says, 0.5)}
    assert share[0.5] < fitting.TARGET <= share[fitted.min_says] < 0.97
    lower = candidates.right_of(candidates.said(fitted.min_says - 0.01))
    assert lower.sum() < fitting.TARGET * (len(lower) + 1)
    assert fitted.images == 4000


def test_a_few_images_count_one_error_more() -> None:
    """18 of 18 right are less than 95 % of 19."""
    logits = np.zeros((18, 10), np.float32)
    logits[:, 3] = 20
    few = Samples(LABELS, logits, np.full(18, 3))
    assert fitting.fit(few).min_says == 1
    more = Samples(LABELS, np.tile(logits, (2, 1)), np.full(36, 3))
    assert fitting.fit(more).min_says == 0.5


def test_a_class_is_said_before_its_groups_and_they_before_nothing() -> None:
    confidences = np.array([[0.9, 0.95, 0, 0], [0.4, 0.5, 0.8, 0], [0.3, 0.4, 0.5, 0.9], [0.2, 0.3, 0.3, 0]])
    right = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]], bool)
    found = Candidates(confidences, right, np.zeros(len(right), bool))
    assert found.said(0.8).tolist() == [0, 2, 3, -1]
    assert found.right_of(found.said(0.8)).tolist() == [True, False, True]


def test_a_group_is_right_if_the_true_class_is_in_it() -> None:
    logits = np.zeros((2, 10), np.float32)
    logits[:, 0] = 9
    found = Samples(LABELS, logits, np.array([1, 7])).candidates(1)
    assert found.right[:, :2].tolist() == [[False, True], [False, False]]


def test_no_image_is_measured_with_what_was_fitted_on_it() -> None:
    whole = samples(1, 3, 301)
    (first, on_first), (second, on_second) = fitting.crossed(whole)
    assert (len(on_first.truth), len(on_second.truth)) == (151, 150)
    assert (first.images, second.images) == (150, 151)
    assert first == fitting.fit(on_second) != second == fitting.fit(on_first)


def test_images_are_read_once_and_broken_ones_are_told(tmp_path: Path) -> None:
    classifier = fake_classifier(FakeEngine())
    for number in range(fitting.MIN_IMAGES):
        class_id = number % 10
        grey = makers.flat((64, 40 + number), color=(13 + 25 * class_id,) * 3)
        for folder in (f"n{class_id:08}", f"class {class_id}"):  # each twice
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{number}.png").write_bytes(makers.encode(grey, "PNG"))
    (tmp_path / "class 3" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    found, skipped = fitting.read(classifier, tmp_path)
    assert len(found.truth) == fitting.MIN_IMAGES
    assert (found.logits.argmax(1) == found.truth).all()
    assert [path.name for path in skipped] == ["broken.jpg"]
    for folder in ("n00000000", "class 0"):
        (tmp_path / folder / "0.png").unlink()
    with pytest.raises(TooFewImages, match="99 different readable labelled images; at least 100"):
        fitting.read(classifier, tmp_path)
