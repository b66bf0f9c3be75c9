"""How sure an answer must be: the temperature and the thresholds, from the manifest or fitted on labelled images."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from eyespot.types import Calibration
from eyespot.vision.engines import Logits, softmax
from eyespot.vision.groups import Groups
from eyespot.vision.labels import Labels, upwards
from eyespot.vision.weights import Entry

TARGET = 0.95  # of what is said, the share that should be right
_TEMPERATURES = np.geomspace(0.25, 4, 161)
_THRESHOLDS = np.arange(0.5, 1, 0.01).round(2)
_DEPTH = 4  # the class, and at most three groups

_CALIBRATIONS = TypeAdapter(dict[str, Calibration])


def of(entry: Entry, precision: str, data_dir: Path) -> Calibration:
    """The calibration of a model: the one fitted here, or the manifest's for this precision, or for float32."""
    given = entry.calibration
    fitted = _read(_file(data_dir)).get(_key(entry.sha256, precision))
    return fitted or given.get(precision) or given.get("f32") or Calibration()


def keep(calibration: Calibration, digest: str, precision: str, data_dir: Path) -> Path:
    """Write a calibration where `of` finds it, and return the file. Raises `OSError`."""
    file = _file(data_dir)
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.{os.getpid()}")
    new.write_bytes(_CALIBRATIONS.dump_json({**_read(file), _key(digest, precision): calibration}, indent=1))
    return new.replace(file)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What could be said of each image: its likeliest class, then its likeliest groups, most specific first.

    `confidences` are float64 and `right` bool, both of shape (images, 4); where there are fewer groups, they are 0 and
    False.
    """

    confidences: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]

    def said(self, min_class: float, min_group: float) -> npt.NDArray[np.intp]:
        """Which candidate is said of each image, as `groups.says` decides; -1 if none is."""
        enough = self.confidences >= [min_class, *[min_group] * (_DEPTH - 1)]
        return np.where(enough.any(1), enough.argmax(1), -1)

    def right_of(self, said: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        """Whether what is said is right; for the images of which something is said."""
        spoken = np.flatnonzero(said >= 0)
        return self.right[spoken, said[spoken]]


def candidates(logits: Logits, truth: npt.NDArray[np.intp], temperature: float, labels: Labels) -> Candidates:
    """The candidates for images with these logits, float32 (images, classes), and true classes, (images,)."""
    groups = Groups(labels)
    confidences, right = np.zeros((len(truth), _DEPTH)), np.zeros((len(truth), _DEPTH), bool)
    every = np.arange(len(labels), dtype=np.int32)
    for row, (logit, true) in enumerate(zip(logits, truth, strict=True)):
        scores = softmax(logit, temperature)
        confidences[row, 0], right[row, 0] = scores.max(), scores.argmax() == true
        true_groups = set(upwards(labels.classes[true].group))
        for column, group in enumerate(groups.likeliest(every, scores)[-_DEPTH + 1 :], 1):
            confidences[row, column], right[row, column] = group.confidence, group.id in true_groups
    return Candidates(confidences, right)


def fit(logits: Logits, truth: npt.NDArray[np.intp], labels: Labels) -> Calibration:
    """The temperature with the least negative log-likelihood (Guo et al., ICML 2017), and then the thresholds.

    Of those with which at least `TARGET` of what is said is right, they are the ones with which something is said of
    most images, and then a class of most. Without any, they are the ones with which most of what is said is right.
    """
    rows = np.arange(len(truth))

    def loss(temperature: float) -> float:
        scaled = logits.astype(np.float64) / temperature
        peak = scaled.max(1)
        return float((np.log(np.exp(scaled - peak[:, None]).sum(1)) + peak - scaled[rows, truth]).mean())

    temperature = round(float(min(_TEMPERATURES, key=loss)), 3)
    found = candidates(logits, truth, temperature, labels)

    def merit(thresholds: tuple[float, float]) -> tuple[float, ...]:
        said = found.said(*thresholds)
        right = found.right_of(said)
        share = right.mean() if len(right) else 0
        return min(share, TARGET), len(right), int((said == 0).sum()), share

    pairs = ((float(a), float(b)) for a in _THRESHOLDS for b in _THRESHOLDS)
    min_class, min_group = max(pairs, key=merit)
    return Calibration(temperature, min_class, min_group, len(truth))


def _file(data_dir: Path) -> Path:
    return data_dir / "calibration.json"


def _key(digest: str, precision: str) -> str:
    return f"{digest} {precision}"


def _read(file: Path) -> dict[str, Calibration]:
    try:
        return _CALIBRATIONS.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return {}
