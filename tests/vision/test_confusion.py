"""Which classes are recognised, and which are confused."""

import numpy as np

from eyespot.vision.confusion import ClassFigures, Confusion, classes, confusions
from eyespot.vision.samples import Samples
from tests.serving import FakeEngine, fake_classifier


def samples(*pairs: tuple[int, int]) -> Samples:
    """An image for each pair of a true class and the class that is found."""
    logits = np.zeros((len(pairs), 10), np.float32)
    for row, (_, found) in enumerate(pairs):
        logits[row, found] = 5
    return Samples(fake_classifier(FakeEngine()).labels, logits, np.array([true for true, _ in pairs]))


def test_classes_that_are_confused_most_often_come_first() -> None:
    found = confusions(samples((1, 2), (3, 4), (1, 1), (3, 4), (2, 1)))
    assert found == [Confusion(3, 4, 2), Confusion(1, 2, 1), Confusion(2, 1, 1)]


def test_the_least_accurate_class_with_the_most_images_comes_first() -> None:
    found = classes(samples((1, 2), (3, 4), (3, 4), (5, 5), (5, 5), (6, 5), (6, 6)))
    rows = [(3, 2, 0, 0), (1, 1, 0, 0), (6, 2, 1, 1), (5, 2, 2, 3), (2, 0, 0, 1), (4, 0, 0, 2)]
    assert found == [ClassFigures(*row) for row in rows]
