"""The classifier: encoded image in, confidences out."""

import hashlib
import json
import logging
import math
import threading
import time
from collections.abc import Collection
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from eyespot._version import __version__
from eyespot.choices import FORMATS
from eyespot.errors import GoldenImageFailed, NotFound
from eyespot.telemetry import event
from eyespot.types import Answer, Calibration, Lang, Limits, ModelCard, ModelInfo, Prediction
from eyespot.vision import calibration as calibrations
from eyespot.vision import export, preprocess, weights
from eyespot.vision.activation import Activation, activation_map, overlay
from eyespot.vision.engines import Engine, Features, Logits, Threads, Weights, embedding, softmax
from eyespot.vision.export import Export
from eyespot.vision.groups import Groups, says
from eyespot.vision.labels import Labels, load_labels
from eyespot.vision.loader import Comparison, load_model
from eyespot.vision.preprocess import ModelInput
from eyespot.vision.scores import Scores
from eyespot.vision.weights import Entry

_UNFITTED = Calibration()


class Classifier:
    """One loaded model. Its methods may be called from several threads at once."""

    def __init__(
        self,
        entry: Entry,
        labels: Labels,
        engine: Engine,
        head: Weights | None,
        limits: Limits,
        *,
        calibration: Calibration = _UNFITTED,
        stand_in: bool = False,
        record: Export | None = None,
        comparison: Comparison | None = None,
    ) -> None:
        """`head` is the weights of the final layer, float32 (classes, channels), or None if it cannot explain."""
        self.labels = labels
        self.groups = Groups(labels)
        self.info = ModelInfo(entry.name, entry.sha256, engine.name, engine.precision)
        self.card = ModelCard(
            **asdict(self.info),
            architecture=entry.architecture,
            input_size=entry.recipe.crop,
            classes=len(labels),
            accuracy=entry.accuracy,
            license=entry.license,
            labels=entry.labels,
            stand_in=stand_in,
            limits=limits,
            recipe=entry.recipe,
            calibration=calibration,
            quantization=record.quantization if record else None,
            explains=head is not None,
        )
        self.recipe = entry.recipe
        self.calibration = calibration
        self.engine = engine
        self.head = head
        self.comparison = comparison
        self._record = record
        self._trained_on = entry.trained_on
        self._lock = threading.Lock()
        self._running = 0

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
        streams: int = 1,
        threads: int = 1,
        latency_threads: int | None = None,
        min_says: float | None = None,
        max_bytes: int = 5 * 1024 * 1024,
        max_pixels: int = preprocess.MAX_PIXELS,
        formats: Collection[str] = tuple(FORMATS),
    ) -> Self:
        """Open the manifest's `model`: verify its weights, and export them if no export exists.

        The engine computes `streams` images at once with `threads` threads each, and an exclusive image with
        `latency_threads`, by default all of them. More threads than that may call: they decode meanwhile. `min_says`,
        from 0.5 to 1, replaces the model's threshold for what an answer says. Raises `StartError` if the model cannot
        be opened.
        """
        entries = weights.read_manifest(Path(manifest), Path(data_dir))
        entry = weights.verify(weights.choose(entries, model))
        names = labels_of(entry, Path(labels_dir))
        first = next(iter(entries))
        if stand_in := model == "auto" and entry.name != first:  # whose weights are missing
            event(
                "stand_in_used",
                logging.WARNING,
                model=entry.name,
                missing=first,
                remedy=f"eyespot weights fetch {first}",
            )
        plan = Threads(streams, threads, latency_threads or streams * threads)
        loaded, head, record, comparison = load_model(entry, len(names), engine, precision, Path(data_dir), plan)
        limits = Limits(max_bytes, max_pixels, list(formats), len(names))
        fitted = calibrations.of(entry, loaded.precision, Path(data_dir))
        if min_says is not None:
            fitted = replace(fitted, min_says=min_says)
        return cls(
            entry,
            names,
            loaded,
            head,
            limits,
            calibration=fitted,
            stand_in=stand_in,
            record=record,
            comparison=comparison,
        )

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the model and everything else that its scores depend on."""
        info, temperature = self.info, self.calibration.temperature
        groups = [row.id for row in self.labels.groups], [row.group for row in self.labels.classes]
        parts = [info.digest, asdict(self.recipe), info.engine, info.precision, temperature, groups, __version__]
        if self._record and self._record.precision == "int8":  # made anew with other images, it answers differently
            parts.append(self._record.identity)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def trained_on(self) -> frozenset[str]:
        """The sha256 of the images that `eyespot finetune` trained it on; empty for other models."""
        return frozenset(self._trained_on.read_text().split()) if self._trained_on.is_file() else frozenset()

    def scores(
        self, data: bytes, steps: dict[str, float] | None = None, *, tensor: bool = False, embed: bool = False
    ) -> Scores:
        """The scores of one encoded image, with its embedding if asked to `embed`; raises `Refusal`.

        With `tensor` the data is the model's input, from `preprocess.to_ppm`. `steps` receives the seconds of `decode`
        and `infer`.
        """
        logits, image, features = self.infer(data, steps, tensor=tensor, features=embed)
        scores = self._scores(logits, image, len(data))
        return scores if features is None else replace(scores, embedding=embedding(features))

    @cached_property
    def embedding_size(self) -> int:
        """Number of values of an embedding. Without a head, the first use runs the model once."""
        if self.head is not None:
            return int(self.head.shape[1])
        _, features = self.engine.infer(export.golden_pixels(self.recipe), features=True)
        assert features is not None
        return int(features.shape[1])

    def class_weights(self) -> Weights:
        """The final layer's weights, which make the activation maps; raises `NotFound` if the model cannot explain."""
        if self.head is None:
            raise NotFound(
                f"{self.info.name} cannot be explained: it has layers between its pooling and its final layer."
            )
        return self.head

    def explain(
        self, data: bytes, class_id: int | None = None, steps: dict[str, float] | None = None, *, draw: bool = False
    ) -> Scores:
        """Like `scores`, plus the activation of one class, by default the top-1.

        With `draw` the activation has an overlay, and `steps` receives the seconds of drawing as `respond`. Raises
        `NotFound` if the model cannot explain.
        """
        head = self.class_weights()
        logits, image, features = self.infer(data, steps, features=True)
        scores = self._scores(logits, image, len(data))
        chosen = int(scores.class_ids[0]) if class_id is None else class_id
        assert features is not None
        cells, started = activation_map(features, head[chosen]), time.monotonic()
        png = overlay(image.pixels, cells) if draw else None
        if draw and steps is not None:
            steps["respond"] = time.monotonic() - started
        return replace(scores, activation=Activation(chosen, cells, png))

    def infer(
        self, data: bytes, steps: dict[str, float] | None = None, *, tensor: bool = False, features: bool = False
    ) -> tuple[Logits, ModelInput, Features | None]:
        """Logits, float32 (classes,), of what `scores` takes, the model's input and, if asked for, its features."""
        started = time.monotonic()
        with self._lock:
            self._running += 1
        try:
            image = self._input(data, tensor)
            decoded = time.monotonic()
            exclusive = self._running == 1
            logits, maps = self.engine.infer(image.pixels[None], features=features, exclusive=exclusive)
        finally:
            with self._lock:
                self._running -= 1
        if steps is not None:
            steps["decode"], steps["infer"] = decoded - started, time.monotonic() - decoded
        return logits[0], image, None if maps is None else maps[0]

    def _input(self, data: bytes, tensor: bool) -> ModelInput:
        if tensor:
            return preprocess.from_ppm(data, self.recipe.crop)
        limits = self.card.limits
        return preprocess.preprocess(data, self.recipe, max_pixels=limits.max_pixels, formats=limits.formats)

    def _scores(self, logits: Logits, image: ModelInput, size: int) -> Scores:
        confidences = softmax(logits, self.calibration.temperature)
        order = np.argsort(-confidences, kind="stable").astype(np.int32)
        ordered = confidences[order]
        groups = self.groups.likeliest(order, ordered)
        return Scores(order, ordered, groups, image.format, image.width, image.height, size)

    def answer(self, scores: Scores, top_k: int, min_confidence: float = 0, lang: Lang = "en") -> Answer:
        """`says`, groups, and the top-k predictions with at least `min_confidence`, for these scores."""
        groups = self.groups.named(scores.groups, lang)
        best = self.top(scores, max(top_k, 2), lang)
        said = says(best, groups, self.calibration.min_says, lang, self.labels.other)
        best = best[:top_k]
        if min_confidence:
            best = [prediction for prediction in best if prediction.confidence >= min_confidence]
        return {"says": said, "groups": groups, "predictions": best}

    def top(self, scores: Scores, top_k: int, lang: Lang = "en") -> list[Prediction]:
        """The `top_k` classes with the highest confidences."""
        best = zip(scores.class_ids[:top_k].tolist(), scores.confidences[:top_k].tolist(), strict=True)
        classes, names = self.labels.classes, self.labels.names[lang]
        return [
            Prediction(class_id, classes[class_id].wnid, names[class_id], round(value, 6)) for class_id, value in best
        ]

    def prediction(self, scores: Scores, class_id: int, lang: Lang = "en") -> Prediction:
        """One class with its confidence."""
        confidence = float(scores.confidences[scores.class_ids == class_id][0])
        wnid, name = self.labels.classes[class_id].wnid, self.labels.names[lang][class_id]
        return Prediction(class_id, wnid, name, round(confidence, 6))

    def classify(self, data: bytes, top_k: int = 3, min_confidence: float = 0, lang: Lang = "en") -> list[Prediction]:
        """The predictions for one encoded image. Raises `Refusal` if it cannot be recognised."""
        return self.answer(self.scores(data), top_k, min_confidence, lang)["predictions"]

    def check_golden_image(self) -> None:
        """Raise `GoldenImageFailed` unless the sample image is recognised as it was by torch."""
        # Not `scores`, which would refuse it if the settings exclude its format or its size.
        pixels = export.golden_pixels(self.recipe)
        for exclusive in (True, False):
            confidences = softmax(self.engine.infer(pixels, exclusive=exclusive)[0][0])
            total = float(confidences.sum(dtype=np.float64))
            if not math.isclose(total, 1, abs_tol=1e-3):
                raise GoldenImageFailed(f"the confidences of the golden image sum to {total}")
            if self._record and not self._record.is_golden(confidences, self.engine.precision):
                ids = self._record.golden[0][0], confidences.argmax()
                expected, actual = (self.labels.names["en"][class_id] for class_id in ids)
                raise GoldenImageFailed(f"the golden image shows {expected}, but was recognised as {actual}")


def labels_of(entry: Entry, labels_dir: Path) -> Labels:
    """The model's classes, from a label file beside the manifest, in `labels_dir`, or in the package."""
    return load_labels(entry.labels, [entry.folder, labels_dir, weights.packaged("labels")])
