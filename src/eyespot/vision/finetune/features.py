"""The pooled features of training images, computed once and kept in a file."""

import hashlib
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import numpy as np
import numpy.typing as npt

from eyespot.errors import Refusal, TooFewImages
from eyespot.ordered import Progress, in_order
from eyespot.vision import preprocess
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import pool
from eyespot.vision.finetune.dataset import Dataset
from eyespot.vision.labels import Labels

MIN_PER_CLASS = 5

Truth = npt.NDArray[np.intp]
Pooled = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Features:
    """The distinct images: sha256, pooled features, float32 (images, channels), and classes, (images,).

    `doubles` are copies of one image in different classes, which are left out; so are `skipped`, which cannot be read.
    """

    paths: list[Path]
    sha256: list[str]
    pooled: Pooled
    truth: Truth
    skipped: list[Path]
    doubles: list[list[Path]]


class FeatureFile:
    """Features by the sha256 of the encoded image: read from a file when opened, appended to it when computed.

    An interrupted run resumes, and images seen before cost nothing.
    """

    def __init__(self, path: Path, channels: int) -> None:
        self._path = path
        self._row = np.dtype([("image", "V32"), ("pixels", "V32"), ("features", "<f4", (channels,))])
        self._rows: dict[bytes, np.void] = {}

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab", buffering=0)
        whole = self._file.tell() // self._row.itemsize
        self._file.truncate(whole * self._row.itemsize)  # the last row may be cut off
        for row in np.fromfile(self._path, self._row):
            self._rows[row["image"].tobytes()] = row
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def of(self, data: bytes, classifier: Classifier) -> np.void:
        """The row of an encoded image, from the file or computed. Raises `Refusal`. May be called from any thread."""
        digest = hashlib.sha256(data).digest()
        if (kept := self._rows.get(digest)) is not None:
            return kept
        limits = classifier.card.limits
        image = preprocess.preprocess(data, classifier.recipe, max_pixels=limits.max_pixels, formats=limits.formats)
        maps = classifier.engine.infer(image.pixels[None], features=True)[1]
        assert maps is not None
        row = np.zeros(1, self._row)
        row["image"], row["pixels"] = digest, hashlib.sha256(image.pixels.tobytes()).digest()
        row["features"] = pool(maps[0])
        return cast(np.void, row[0])

    def keep(self, row: np.void) -> None:
        """Append a row, unless the file has it."""
        digest = row["image"].tobytes()
        if digest not in self._rows:
            self._rows[digest] = row
            self._file.write(row.tobytes())


def extract(
    dataset: Dataset, classifier: Classifier, file: FeatureFile, threads: int, progress: Progress = lambda *_: None
) -> Features:
    """The features of a dataset's images, computed with `threads` threads. Raises `TooFewImages` if there are none."""
    images = dataset.images
    rows: dict[bytes, list[tuple[Path, int, np.void]]] = defaultdict(list)  # by pixels
    skipped = []
    with closing(in_order(lambda one: file.of(one[0].read_bytes(), classifier), images, threads)) as work:
        for done, ((path, class_id), future) in enumerate(work):
            progress("computing features", done, len(images))
            try:
                row = future.result()
            except (Refusal, OSError):
                skipped.append(path)
                continue
            file.keep(row)
            rows[row["pixels"].tobytes()].append((path, class_id, row))
    distinct, doubles = [], []
    for copies in rows.values():
        if len({class_id for _, class_id, _ in copies}) == 1:
            distinct.append(copies[0])
        else:
            doubles.append([path for path, _, _ in copies])
    if not distinct:
        raise TooFewImages("none of the images can be read")
    paths, truth, kept = zip(*distinct, strict=True)
    pooled, sha256 = np.stack([row["features"] for row in kept]), [row["image"].tobytes().hex() for row in kept]
    return Features(list(paths), sha256, pooled, np.array(truth), skipped, doubles)


def check_counts(labels: Labels, truth: Truth) -> None:
    """Raise `TooFewImages` if a class has fewer than five images."""
    counts = np.bincount(truth, minlength=len(labels)).tolist()
    few = [(row.label, count) for row, count in zip(labels.classes, counts, strict=True) if count < MIN_PER_CLASS]
    if few:
        (name, count), *others = few
        more = f" (too few as well: {', '.join(name for name, _ in others)})" if others else ""
        detail = f"{name} has {count} different readable images; each class needs at least {MIN_PER_CLASS}"
        raise TooFewImages(f"{detail}, better 40{more}")
