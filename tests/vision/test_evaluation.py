"""How often a calibrated model is right, and how sure that is."""

from typing import Any

import numpy as np
import pytest

from eyespot.types import Calibration
from eyespot.vision import evaluation
from eyespot.vision.samples import Candidates


def hits(right: int, of: int) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    return np.arange(of) < right


def test_an_interval_is_wilsons() -> None:
    """By his formula, as statsmodels' `proportion_confint(…, method="wilson")` has it."""
    assert evaluation.share(hits(190, 200)) == pytest.approx((0.95, 0.9104, 0.9726), abs=1e-4)
    assert evaluation.share(hits(0, 10)) == pytest.approx((0, 0, 0.2775), abs=1e-4)
    assert evaluation.share(hits(10, 10)) == pytest.approx((1, 0.7225, 1), abs=1e-4)
    assert evaluation.share(hits(0, 0)) == (0, 0, 1)


def test_confidences_that_are_true_shares_have_no_calibration_error() -> None:
    right = np.tile(hits(8, 10), 100)
    exact = evaluation.calibration_error(np.full(1000, 0.8), right)
    assert exact.value == pytest.approx(0)
    too_sure = evaluation.calibration_error(np.full(1000, 0.99), right)
    assert too_sure.value == pytest.approx(0.19)
    assert 0.16 < too_sure.low < 0.19 < too_sure.high < 0.22


def test_errors_in_different_bins_do_not_cancel() -> None:
    confidences = np.repeat([0.3, 0.9], 100)
    assert evaluation.calibration_error(confidences, np.tile(hits(6, 10), 20)).value == pytest.approx(0.3)


def test_a_report_adds_up_its_parts() -> None:
    confidences = np.array([[0.9, 0.95, 0, 0], [0.4, 0.8, 0.9, 0], [0.3, 0.4, 0.5, 0.6]])
    right = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], bool)
    strict, lax = Calibration(1, 0.85), Calibration(1, 0.5)
    other, nothing, top5 = (np.array(one, bool) for one in ([0, 0, 0], [0, 1, 0], [1, 1, 0]))
    candidates = Candidates(confidences, right, other, nothing, top5)
    found = evaluation.report([(candidates, strict), (candidates, lax)])
    assert found.top1.value == pytest.approx(1 / 3)
    assert found.top5.value == pytest.approx(2 / 3)
    assert found.class_said.value == pytest.approx(2 / 6)  # the first image, twice
    assert found.group_said.value == pytest.approx(3 / 6)
    assert found.said.value == pytest.approx(5 / 6)
    assert found.said_right.value == pytest.approx(3 / 5)
    assert found.refused.value == 0  # the second image, which shows none of the classes and is answered twice
    assert found.wrongly_refused.value == pytest.approx(1 / 4)


def pairs(both: int, first: int, second: int, neither: int) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """Who is right about how many images."""
    rows = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    return np.array([row[0] for row in rows], bool), np.array([row[1] for row in rows], bool)


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        (0, 0, 1),
        (1, 0, 1),
        (0, 6, 2 / 64),
        (3, 1, 0.625),
        (2, 10, 158 / 4096),
        (86, 150, 3.716e-5),
        (15000, 15000, 1),
    ],
)
def test_mcnemars_test_is_exact(first: int, second: int, p: float) -> None:
    """As `scipy.stats.binomtest(first, first + second).pvalue` has it."""
    found = evaluation.mcnemar(*pairs(7, first, second, 5))
    assert (found.gained, found.lost) == (second, first)
    assert found.p == pytest.approx(p, rel=1e-3)


def test_images_are_binned_by_confidence() -> None:
    confidences = np.array([0.07, 0.99, 0.95, 1])
    low, high = evaluation.bins(confidences, np.array([False, True, False, True]))
    assert (low.images, low.confidence, low.right.value) == (1, 0.07, 0)
    assert (high.images, high.confidence, high.right.value) == (3, pytest.approx(0.98), pytest.approx(2 / 3))


def test_an_error_lies_in_its_interval() -> None:
    """The percentiles of a bootstrap lie above it."""
    random = np.random.default_rng(1)
    confidences = random.uniform(0.3, 1, 200)
    found = evaluation.calibration_error(confidences, random.uniform(size=200) < confidences)
    assert found.low < found.value < found.high
