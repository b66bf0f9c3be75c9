"""Fits a calibration on labelled images."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eyespot.errors import Refusal, TooFewImages
from eyespot.types import Calibration
from eyespot.vision import labelled, preprocess
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import Logits, softmax
from eyespot.vision.groups import Groups
from eyespot.vision.labels import Labels, upwards
from eyespot.vision.quantize import Progress

TARGET = 0.95  # share of answers that should be right
MIN_IMAGES = 100
_TEMPERATURES = np.geomspace(0.25, 4, 161)
_THRESHOLDS = np.arange(0.5, 0.995, 0.01).round(2).tolist()
_DEPTH = 4  # the class, and at most three groups


@dataclass(frozen=True, slots=True)
class Candidates:
    """What could be said of each image: its likeliest class, then its likeliest groups, most specific first.

    `confidences` are float64 and `right` bool, both of shape (images, 4); where there are fewer groups, they are 0 and
    False. `other` is bool, (images,): whether the likeliest class is none of the others, and so cannot be said.
    """

    confidences: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]
    other: npt.NDArray[np.bool_]

    def said(self, min_says: float) -> npt.NDArray[np.intp]:
        """Which candidate is each image's answer, as `groups.says` decides; -1 if none is."""
        enough = self.confidences >= min_says
        enough[:, 0] &= ~self.other
        return np.where(enough.any(1), enough.argmax(1), -1)

    def right_of(self, said: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        """Whether each answer is right, for the images that have one."""
        spoken = np.flatnonzero(said >= 0)
        return self.right[spoken, said[spoken]]


@dataclass(frozen=True, slots=True)
class Samples:
    """What a model finds in labelled images: logits, float32 (images, classes), and the true classes, (images,)."""

    labels: Labels
    logits: Logits
    truth: npt.NDArray[np.intp]

    def half(self, number: int) -> "Samples":
        """Every second image, from that number on."""
        return Samples(self.labels, self.logits[number::2], self.truth[number::2])

    def loss(self, temperature: float) -> float:
        """The mean negative log-likelihood of the true classes."""
        scaled = self.logits.astype(np.float64) / temperature
        peak = scaled.max(1)
        true = scaled[np.arange(len(self.truth)), self.truth]
        return float((np.log(np.exp(scaled - peak[:, None]).sum(1)) + peak - true).mean())

    def candidates(self, temperature: float) -> Candidates:
        """The candidates at this temperature."""
        groups = Groups(self.labels)
        shape = len(self.truth), _DEPTH
        confidences, right = np.zeros(shape), np.zeros(shape, bool)
        every = np.arange(len(self.labels), dtype=np.int32)
        for row, (logits, true) in enumerate(zip(self.logits, self.truth, strict=True)):
            scores = softmax(logits, temperature)
            confidences[row, 0], right[row, 0] = scores.max(), scores.argmax() == true
            known = set(upwards(self.labels.classes[true].group))
            for column, group in enumerate(groups.named(groups.likeliest(every, scores)), 1):
                confidences[row, column], right[row, column] = group.confidence, group.id in known
        return Candidates(confidences, right, self.logits.argmax(1) == self.labels.other)


def read(classifier: Classifier, folder: Path, progress: Progress = lambda *_: None) -> tuple[Samples, list[Path]]:
    """The samples from the labelled images in a folder, and the files that cannot be read.

    Copies of an image count once, and the order does not depend on names. Raises `UnlabelledImages`, or
    `TooFewImages` below 100.
    """
    images = labelled.find(folder, classifier.labels)
    found: dict[str, tuple[Logits, int]] = {}
    skipped = []
    limits = classifier.card.limits
    for done, (path, class_id) in enumerate(images):
        progress("recognising", done, len(images))
        try:
            data = path.read_bytes()
            image = preprocess.preprocess(data, classifier.recipe, max_pixels=limits.max_pixels, formats=limits.formats)
        except (Refusal, OSError):
            skipped.append(path)
            continue
        logits = classifier.engine.infer(image.pixels[None], exclusive=True)[0][0]
        found[hashlib.sha256(data).hexdigest()] = logits, class_id
    if len(found) < MIN_IMAGES:
        detail = f"at least {MIN_IMAGES} are needed, a few hundred are better"
        raise TooFewImages(f"{folder} has {len(found)} different readable labelled images; {detail}")
    pairs = [found[sha256] for sha256 in sorted(found)]
    return Samples(classifier.labels, np.stack([one for one, _ in pairs]), np.array([one for _, one in pairs])), skipped


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
