"""How often a calibrated model is right, with 95 % intervals, and whether another is right more often."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eyespot.types import Calibration, ModelCard
from eyespot.vision.classifier import Classifier
from eyespot.vision.samples import Candidates, Reading

_Z = 1.959964  # of the normal distribution: 95 % lie within
_BINS = 15
_RESAMPLES = 1000

Hits = npt.NDArray[np.bool_]


class Measure(NamedTuple):
    """A share from 0 to 1, and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


class Report(NamedTuple):
    """Shares of the images: whose true class is the likeliest, or among five; answered with a class, a group, at all.

    `said_right` is the share of answers that are right, `calibration_error` the expected one of the likeliest class.
    `refused` is the share, of the images that show none of the classes, to which the answer is unsure, and
    `wrongly_refused` that of the other images.
    """

    top1: Measure
    top5: Measure
    class_said: Measure
    group_said: Measure
    said: Measure
    said_right: Measure
    refused: Measure
    wrongly_refused: Measure
    calibration_error: Measure


class Difference(NamedTuple):
    """Images that only one of two models recognises, and the probability of so uneven a split by chance."""

    gained: int  # only the second
    lost: int  # only the first
    p: float


class Bin(NamedTuple):
    """Images of similar confidence: how many, their mean confidence, and the share that is right."""

    images: int
    confidence: float
    right: Measure


class Evaluation(NamedTuple):
    """What was measured of a model."""

    card: ModelCard
    reading: Reading
    candidates: Candidates
    report: Report

    def difference(self, second: "Evaluation") -> Difference:
        """How another model compares with this one on the same images."""
        return mcnemar(self.candidates.right[:, 0], second.candidates.right[:, 0])


def evaluate(classifier: Classifier, reading: Reading) -> Evaluation:
    """The evaluation of what this model has read."""
    candidates = reading.samples.candidates(classifier.calibration.temperature)
    measured = report([(candidates, classifier.calibration)])
    return Evaluation(classifier.card, reading, candidates, measured)


def report(parts: Iterable[tuple[Candidates, Calibration]]) -> Report:
    """The report on all images of several parts, each with its own calibration."""
    found = [(one, one.said(calibration.min_says)) for one, calibration in parts]
    said = np.concatenate([chosen for _, chosen in found])
    right = np.concatenate([one.right_of(chosen) for one, chosen in found])
    confidences = np.concatenate([one.confidences[:, 0] for one, _ in found])
    top1 = np.concatenate([one.right[:, 0] for one, _ in found])
    nothing = np.concatenate([one.nothing for one, _ in found])
    return Report(
        top1=share(top1),
        top5=share(np.concatenate([one.top5 for one, _ in found])),
        class_said=share(said == 0),
        group_said=share(said > 0),
        said=share(said >= 0),
        said_right=share(right),
        refused=share(said[nothing] < 0),
        wrongly_refused=share(said[~nothing] < 0),
        calibration_error=calibration_error(confidences, top1),
    )


def mcnemar(first: Hits, second: Hits) -> Difference:
    """Whether one of two models is right more often on the same images (McNemar, Psychometrika 1947; exact, two-sided).

    Of the images that only one of them recognises, each gets half if they are equally good.
    """
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    images, ways, tail = gained + lost, 1, 0
    for right in range(min(gained, lost) + 1):
        tail += ways
        ways = ways * (images - right) // (right + 1)  # binomial coefficients, whole numbers of any size
    return Difference(gained, lost, min(2 * tail / 2**images, 1))


def bins(confidences: npt.NDArray[np.float64], right: Hits) -> list[Bin]:
    """The images in 15 equal bins of confidence, without empty ones."""
    places = _places(confidences)
    return [
        Bin(int(here.sum()), float(confidences[here].mean()), share(right[here]))
        for number in range(_BINS)
        if (here := places == number).any()
    ]


def share(hits: Hits) -> Measure:
    """The share of hits, with the interval of Wilson (1927); of nothing it is from 0 to 1."""
    count = len(hits)
    if not count:
        return Measure(0, 0, 1)
    value = float(hits.mean())
    middle = (value + _Z**2 / 2 / count) / (1 + _Z**2 / count)
    width = _Z / (1 + _Z**2 / count) * (value * (1 - value) / count + _Z**2 / 4 / count**2) ** 0.5
    return Measure(value, max(middle - width, 0), min(middle + width, 1))


def calibration_error(confidences: npt.NDArray[np.float64], right: Hits) -> Measure:
    """The expected calibration error in 15 equal bins (Guo et al., ICML 2017).

    Few images make it larger than it is, and so would the percentiles of a bootstrap; the interval is from its standard
    deviation.
    """
    random = np.random.default_rng(0)
    places = _places(confidences)
    differences = right - confidences

    def error(chosen: npt.NDArray[np.intp]) -> float:
        return float(np.abs(np.bincount(places[chosen], differences[chosen], _BINS)).sum() / len(chosen))

    every = np.arange(len(right))
    resampled = [error(random.choice(every, len(every))) for _ in range(_RESAMPLES)]
    value = error(every)
    width = _Z * float(np.std(resampled))
    return Measure(value, max(value - width, 0), min(value + width, 1))


def _places(confidences: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    return np.asarray(np.minimum((confidences * _BINS).astype(int), _BINS - 1))
