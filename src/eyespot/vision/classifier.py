"""Bytes in, confidences out: the manifest, the weights, an engine, imaging and labels, joined."""

import logging
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from eyespot.errors import EngineUnavailable, GoldenImageFailed
from eyespot.telemetry import event
from eyespot.types import Label, Limits, ModelCard, ModelInfo, Prediction
from eyespot.vision import export, imaging, labels, weights
from eyespot.vision.engines import Engine
from eyespot.vision.weights import Entry

Confidences = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Seen:
    """What the network says of one image: float32 confidences of all classes, in [0, 1], summing to 1."""

    confidences: Confidences
    format: str
    width: int
    height: int


class Classifier:
    """One network, ready; `see` and `classify` may be called from several threads at once."""

    def __init__(
        self,
        entry: Entry,
        labels: tuple[Label, ...],
        engine: Engine,
        *,
        max_bytes: int = 5 * 1024 * 1024,
        max_pixels: int = imaging.MAX_PIXELS,
        formats: Collection[str] = imaging.FORMATS,
        stand_in: bool = False,
        golden_class: int | None = None,
    ) -> None:
        self.labels = labels
        self.info = ModelInfo(entry.name, entry.sha256, engine.name, engine.precision)
        self.card = ModelCard(
            **asdict(self.info),
            architecture=entry.architecture,
            input_size=entry.recipe.crop,
            classes=len(labels),
            accuracy=entry.accuracy,
            license=entry.license,
            stand_in=stand_in,
            limits=Limits(max_bytes, max_pixels, list(formats), len(labels)),
        )
        self._recipe = entry.recipe
        self._engine = engine
        self._golden_class = golden_class

    @classmethod
    def open(
        cls,
        manifest: Path | str = "weights/manifest.toml",
        model: str = "auto",
        *,
        engine: str = "auto",
        precision: str = "auto",
        labels_dir: Path | str = "labels",
        data_dir: Path | str = "data",
        workers: int = 1,
        threads: int = 1,
        max_bytes: int = 5 * 1024 * 1024,
        max_pixels: int = imaging.MAX_PIXELS,
        formats: Collection[str] = imaging.FORMATS,
    ) -> Self:
        """The network that the manifest calls `model`, verified, loaded, and exported first when that was never done.

        `workers` threads may call it at once, each with `threads` threads of the engine.

        Raises:
            StartError: it cannot be had; the message says why.
        """
        entries = weights.read_manifest(Path(manifest))
        entry = weights.choose(entries, model)
        path = weights.verify(entry)
        places = [entry.folder, Path(labels_dir), weights.packaged("labels")]
        names = labels.load_labels(entry.labels, places)
        stand_in = model == "auto" and weights.is_stand_in(entry, entries)
        if stand_in:
            event(
                "stand_in_used",
                logging.WARNING,
                model=entry.name,
                missing=next(iter(entries)),
                remedy=weights.remedy(entries),
            )
        folders = [entry.folder / "exports", Path(data_dir) / "exports"]
        loaded, golden_class = _load(entry, path, len(names), engine, precision, folders, workers, threads)
        return cls(
            entry,
            names,
            loaded,
            max_bytes=max_bytes,
            max_pixels=max_pixels,
            formats=formats,
            stand_in=stand_in,
            golden_class=golden_class,
        )

    def see(self, data: bytes) -> Seen:
        """The confidences of all classes for one encoded image.

        Raises:
            Refusal: the image cannot be recognised; see `imaging.see`.
        """
        picture = imaging.see(
            data, self._recipe, max_pixels=self.card.limits.max_pixels, formats=self.card.limits.formats
        )
        logits, _ = self._engine.infer(picture.pixels[None])
        return Seen(softmax(logits[0]), picture.format, picture.width, picture.height)

    def top(self, confidences: Confidences, top_k: int, min_confidence: float = 0) -> list[Prediction]:
        """The `top_k` likeliest classes with at least `min_confidence`, likeliest first."""
        order = np.argsort(-confidences, kind="stable")[:top_k]
        return [
            Prediction(label.class_id, label.wnid, label.label, round(confidence, 6))
            for label, confidence in ((self.labels[i], float(confidences[i])) for i in order)
            if confidence >= min_confidence
        ]

    def classify(self, data: bytes, top_k: int = 3, min_confidence: float = 0) -> list[Prediction]:
        """What is in one encoded image. Raises `Refusal` when it cannot be recognised."""
        return self.top(self.see(data).confidences, top_k, min_confidence)

    def check_golden_image(self) -> None:
        """Raise `GoldenImageFailed` unless the sample image is recognised as torch recognised it."""
        # Not by `see`: an operator may allow fewer formats or pixels than it has.
        picture = imaging.see(export.SAMPLE.read_bytes(), self._recipe)
        confidences = softmax(self._engine.infer(picture.pixels[None])[0][0])
        total = float(confidences.sum(dtype=np.float64))
        if not math.isclose(total, 1, abs_tol=1e-3):
            raise GoldenImageFailed(f"the confidences of the golden image sum to {total}")
        best = int(confidences.argmax())
        if self._golden_class is not None and best != self._golden_class:
            expected, actual = self.labels[self._golden_class].label, self.labels[best].label
            raise GoldenImageFailed(f"the golden image is a {expected}, and was recognised as a {actual}")


def _load(
    entry: Entry, path: Path, classes: int, engine: str, precision: str, exports: list[Path], workers: int, threads: int
) -> tuple[Engine, int | None]:
    """The engine with the network in it, and the class that torch gives the golden image, where that is on record."""
    if precision not in ("auto", "f32"):
        raise EngineUnavailable(f"precision {precision} is not available in this version; f32 is")
    if engine in ("auto", "openvino"):
        from eyespot.vision.engines.openvino import OpenVinoEngine

        found = export.find(entry, classes, "openvino", exports)
        place, record = found or export.make(entry, classes, exports[-1])
        return OpenVinoEngine(place / "model.xml", workers=workers, threads=threads), record.golden_class
    if engine == "torch":
        try:
            from eyespot.vision.engines.torch import TorchEngine, load_network
        except ModuleNotFoundError as error:
            raise EngineUnavailable("the torch engine needs `pip install eyespot[models]`") from error
        return TorchEngine(load_network(entry.architecture, path, classes, entry.recipe), threads=threads), None
    raise EngineUnavailable(f"engine {engine} is not available in this version; openvino and torch are")


def softmax(logits: npt.NDArray[np.float32]) -> Confidences:
    """Confidences, float32 of the same shape (classes,), from logits."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    confidences: Confidences = (powers / powers.sum()).astype(np.float32)
    return confidences
