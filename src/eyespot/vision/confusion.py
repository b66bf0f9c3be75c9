"""Which classes a model recognises, and which it confuses."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from eyespot.vision.samples import Samples


class Confusion(NamedTuple):
    """How many images of one class were taken for another; both are class_ids."""

    true: int
    found: int
    images: int


class ClassFigures(NamedTuple):
    """Of one class: its images, those of them that were recognised, and all images that were taken for it."""

    class_id: int
    images: int
    right: int
    found: int


def confusions(samples: Samples) -> list[Confusion]:
    """Which classes are taken for which, most often first."""
    wrong = samples.found != samples.truth
    pairs = Counter(zip(samples.truth[wrong].tolist(), samples.found[wrong].tolist(), strict=True))
    return [Confusion(*pair, images) for pair, images in pairs.most_common()]


def classes(samples: Samples) -> list[ClassFigures]:
    """The classes that have images or were found, the least accurate first, and of these the one with most images."""
    count = len(samples.labels)
    right = samples.truth[samples.found == samples.truth]
    columns = [np.bincount(ids, minlength=count).tolist() for ids in (samples.truth, right, samples.found)]
    rows = [ClassFigures(*row) for row in zip(range(count), *columns, strict=True)]
    return sorted(
        (row for row in rows if row.images or row.found),
        key=lambda row: (row.right / row.images if row.images else 2, -row.images),
    )
