"""A calibration fitted on labelled images."""

import numpy as np
import pytest

from eyespot.vision import fitting
from eyespot.vision.engines import softmax
from eyespot.vision.samples import Samples
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


def test_no_image_is_measured_with_what_was_fitted_on_it() -> None:
    whole = samples(1, 3, 301)
    (first, on_first), (second, on_second) = fitting.crossed(whole)
    assert (len(on_first.truth), len(on_second.truth)) == (151, 150)
    assert (first.images, second.images) == (150, 151)
    assert first == fitting.fit(on_second) != second == fitting.fit(on_first)
