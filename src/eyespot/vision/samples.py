"""What a model makes of labelled images."""

import hashlib
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eyespot.errors import Refusal, TooFewImages
from eyespot.ordered import Progress, in_order
from eyespot.vision import labelled
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import Logits, softmax
from eyespot.vision.groups import Groups
from eyespot.vision.labels import Labels, upwards

_DEPTH = 4  # the class, and at most three groups


@dataclass(frozen=True, slots=True)
class Candidates:
    """What could be said of each image: its likeliest class, then its likeliest groups, most specific first.

    `confidences` are float64 and `right` bool, both of shape (images, 4); where there are fewer groups, they are 0 and
    False. The others are bool, (images,): `other`, whether the likeliest class is none of the others, and so cannot be
    said; `nothing`, whether that is the true class; `top5`, whether the true class is among the five likeliest.
    """

    confidences: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]
    other: npt.NDArray[np.bool_]
    nothing: npt.NDArray[np.bool_]
    top5: npt.NDArray[np.bool_]

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

    @property
    def found(self) -> npt.NDArray[np.intp]:
        """The likeliest class of each image."""
        return np.asarray(self.logits.argmax(1))

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
        likelier = self.logits > self.logits[np.arange(len(self.truth)), self.truth, None]
        other = self.labels.other
        return Candidates(confidences, right, self.found == other, self.truth == other, likelier.sum(1) < 5)


class Reading(NamedTuple):
    """What a run over labelled images found; `paths` are those of the samples, in their order.

    `contradictory` are copies of one image in different classes, which count in none; `trained_on` is how many of the
    samples the model was trained on. `infer_ms` is the median, with all threads at work.
    """

    samples: Samples
    paths: list[Path]
    unreadable: list[Path]
    contradictory: list[list[Path]]
    trained_on: int
    images_per_second: float
    infer_ms: float


class _Result(NamedTuple):
    path: Path
    class_id: int
    sha256: str
    logits: Logits
    seconds: float  # of inference


def read(
    classifier: Classifier, source: Path, threads: int = 1, progress: Progress = lambda *_: None, minimum: int = 1
) -> Reading:
    """Recognise the labelled images in a folder or a CSV file, several at once.

    Copies of an image count once, and the order does not depend on names. Raises `UnlabelledImages`, or `TooFewImages`
    if there are fewer than `minimum` that count.
    """

    def recognise(image: tuple[Path, int]) -> _Result:
        data, steps = image[0].read_bytes(), dict[str, float]()
        logits, *_ = classifier.infer(data, steps)
        return _Result(*image, hashlib.sha256(data).hexdigest(), logits, steps["infer"])

    images = labelled.find(source, classifier.labels)
    results, unreadable, started = list[_Result](), list[Path](), time.monotonic()
    with closing(in_order(recognise, images, threads)) as futures:
        for done, ((path, _), future) in enumerate(futures, 1):
            try:
                results.append(future.result())
            except (Refusal, OSError, ValueError):  # ValueError: a path with a NUL
                unreadable.append(path)
            progress("recognising", done, len(images))
    rate = len(results) / max(time.monotonic() - started, 1e-9)
    clear, contradictory = _without_copies(results)
    if len(clear) < minimum:
        count = f"{source} has {len(clear)} different readable labelled images and needs at least {minimum}"
        first = f" ({unreadable[0]} is not readable)" if unreadable else ""
        raise TooFewImages(f"{count}{first}; a few hundred are better")
    logits, truth = np.stack([one.logits for one in clear]), np.array([one.class_id for one in clear])
    samples, paths = Samples(classifier.labels, logits, truth), [one.path for one in clear]
    known = classifier.trained_on()
    seen = sum(one.sha256 in known for one in clear)
    return Reading(samples, paths, unreadable, contradictory, seen, rate, 1000 * median(one.seconds for one in results))


def _without_copies(results: list[_Result]) -> tuple[list[_Result], list[list[Path]]]:
    """One result of each image, in the order of their hashes, and the copies of images in different classes."""
    copies = defaultdict[str, list[_Result]](list)
    for one in results:
        copies[one.sha256].append(one)
    clear, contradictory = list[_Result](), list[list[Path]]()
    for _, same in sorted(copies.items()):
        if len({one.class_id for one in same}) == 1:
            clear.append(same[0])
        else:
            contradictory.append([one.path for one in same])
    return clear, contradictory
