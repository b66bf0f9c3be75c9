"""How often a calibrated model is right, with 95 % intervals."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eyespot.types import Calibration
from eyespot.vision.fitting import Candidates

_Z = 1.959964  # of the normal distribution: 95 % lie within
_BINS = 15
_RESAMPLES = 1000


class Measure(NamedTuple):
    """A share from 0 to 1, and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


class Report(NamedTuple):
    """Shares of the images: whose likeliest class is right, and that are answered with a class, with a group, at all.

    `said_right` is the share of answers that are right, `calibration_error` the expected one of the likeliest class.
    """

    top1: Measure
    class_said: Measure
    group_said: Measure
    said: Measure
    said_right: Measure
    calibration_error: Measure


def report(parts: Iterable[tuple[Candidates, Calibration]]) -> Report:
    """The report on all images of several parts, each with its own calibration."""
    found = [(one, one.said(calibration.min_says)) for one, calibration in parts]
    said = np.concatenate([chosen for _, chosen in found])
    right = np.concatenate([one.right_of(chosen) for one, chosen in found])
    confidences = np.concatenate([one.confidences[:, 0] for one, _ in found])
    top1 = np.concatenate([one.right[:, 0] for one, _ in found])
    return Report(
        share(top1),
        share(said == 0),
        share(said > 0),
        share(said >= 0),
        share(right),
        calibration_error(confidences, top1),
    )


def share(hits: npt.NDArray[np.bool_]) -> Measure:
    """The share of hits, with the interval of Wilson (1927); of nothing it is from 0 to 1."""
    count = len(hits)
    if not count:
        return Measure(0, 0, 1)
    value = float(hits.mean())
    middle = (value + _Z**2 / 2 / count) / (1 + _Z**2 / count)
    width = _Z / (1 + _Z**2 / count) * (value * (1 - value) / count + _Z**2 / 4 / count**2) ** 0.5
    return Measure(value, max(middle - width, 0), min(middle + width, 1))


def calibration_error(confidences: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> Measure:
    """The expected calibration error in 15 equal bins (Guo et al., ICML 2017).

    Few images make it larger than it is, and so would the percentiles of a bootstrap; the interval is from its standard
    deviation.
    """
    random = np.random.default_rng(0)
    bins = np.minimum((confidences * _BINS).astype(int), _BINS - 1)
    differences = right - confidences

    def error(chosen: npt.NDArray[np.intp]) -> float:
        return float(np.abs(np.bincount(bins[chosen], differences[chosen], _BINS)).sum() / len(chosen))

    every = np.arange(len(right))
    resampled = [error(random.choice(every, len(every))) for _ in range(_RESAMPLES)]
    value = error(every)
    width = _Z * float(np.std(resampled))
    return Measure(value, max(value - width, 0), min(value + width, 1))
