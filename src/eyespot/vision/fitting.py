"""Fits a calibration on labelled images."""

import numpy as np

from eyespot.types import Calibration
from eyespot.vision.samples import Samples

TARGET = 0.95  # share of answers that should be right
MIN_IMAGES = 100
_TEMPERATURES = np.geomspace(0.25, 4, 161)
_THRESHOLDS = np.arange(0.5, 0.995, 0.01).round(2).tolist()


def fit(samples: Samples) -> Calibration:
    """The temperature with the smallest loss (Guo et al., ICML 2017), and the lowest threshold that meets `TARGET`.

    Few images flatter the threshold that is fitted on them, so one more error is counted than was made. If no threshold
    is enough, it is 1.
    """
    temperature = round(float(min(_TEMPERATURES, key=samples.loss)), 3)
    found = samples.candidates(temperature)

    def met(min_says: float) -> bool:
        right = found.right_of(found.said(min_says))
        return bool(right.sum() >= TARGET * (len(right) + 1))

    return Calibration(temperature, next(filter(met, _THRESHOLDS), 1), len(samples.truth))


def crossed(samples: Samples) -> list[tuple[Calibration, Samples]]:
    """Each half of the images, with the calibration fitted on the other: none is measured on what it was fitted on."""
    halves = samples.half(0), samples.half(1)
    return [(fit(halves[1]), halves[0]), (fit(halves[0]), halves[1])]
