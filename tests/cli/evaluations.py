"""Labelled images drawn by code, and what a fake engine makes of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ImageDraw

from eyespot.vision import evaluation, samples
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import Features, Logits, Pixels
from eyespot.vision.evaluation import Evaluation
from eyespot.vision.labels import ClassRow, Labels
from eyespot.vision.samples import Reading, Samples
from tests import makers
from tests.serving import FakeEngine, fake_classifier


class Shifted(FakeEngine):
    """Takes images of these classes for the next class."""

    def __init__(self, precision: str = "f32", wrong: Sequence[int] = ()) -> None:
        super().__init__()
        self.precision, self.wrong = precision, wrong

    def infer(
        self, pixels: Pixels, *, features: bool = False, exclusive: bool = False
    ) -> tuple[Logits, Features | None]:
        logits, maps = super().infer(pixels, features=features, exclusive=exclusive)
        for row in logits:
            if row.argmax() in self.wrong:
                row[:] = np.roll(row, 1)
        return logits, maps


def ten(**names: str) -> Labels:
    """Ten classes: `c3="tabby"` names the fourth, and the class called `other` is none of the others."""
    rows = (names.get(f"c{number}", f"class {number}") for number in range(10))
    return Labels(tuple(ClassRow(number, "", name, other=name == "other") for number, name in enumerate(rows)))


def draw(path: Path, class_id: int, number: int = 0) -> None:
    """A disc on a ground, both of about the brightness that the fake engine takes for the class."""
    image = makers.flat((64, 48), color=(12 + 25 * class_id,) * 3)
    left = 10 + number % 30
    ImageDraw.Draw(image).ellipse(
        (left, 10, left + 12, 22), (12 + 25 * class_id, 16 + 25 * class_id, 9 + 25 * class_id)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(makers.encode(image, "PNG"))


def drawn(folder: Path, labels: Labels, each: int = 2) -> Path:
    """A folder for each class, with that many images."""
    for number, name in enumerate(labels.names["en"]):
        for image in range(each):
            draw(folder / name / f"{image}.png", number, image)
    return folder


def evaluated(folder: Path, classifier: Classifier) -> Evaluation:
    return evaluation.evaluate(classifier, samples.read(classifier, folder))


def made_up(pairs: Sequence[tuple[int, int]], labels: Labels) -> Evaluation:
    """An evaluation of images that are not there: for each its true class, and the class that is found."""
    logits = np.zeros((len(pairs), len(labels)), np.float32)
    for row, (_, found) in enumerate(pairs):
        logits[row, found] = 3 + row % 5
    truth = np.array([true for true, _ in pairs])
    paths = [Path(f"/gone/{number}.png") for number in range(len(pairs))]
    reading = Reading(Samples(labels, logits, truth), paths, [], [], 0, 100, 5)
    return evaluation.evaluate(fake_classifier(FakeEngine(), labels=labels), reading)
