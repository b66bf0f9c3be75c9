"""Bytes in, confidences out: the manifest, the weights, an engine, preprocess and labels, joined."""

import builtins
import logging
import math
import struct
import threading
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from eyespot.errors import EngineUnavailable, GoldenImageFailed
from eyespot.telemetry import event
from eyespot.types import Label, Limits, ModelCard, ModelInfo, Prediction
from eyespot.vision import export, labels, precision, preprocess, weights
from eyespot.vision.engines import Confidences, Engine, softmax
from eyespot.vision.export import Export
from eyespot.vision.precision import Comparison
from eyespot.vision.weights import Entry

_HEAD = struct.Struct("<4s8sIII")  # of a packed `Scores`: what it is, format, width, height, bytes
_PACKED = b"eye2"


@dataclass(frozen=True, slots=True)
class Scores:
    """What the network says of one image: all classes, likeliest first.

    `class_ids` is int32 and `confidences` float32, both of shape (classes,); confidences are in [0, 1] and sum to 1.
    `width` and `height` are pixels of the upright image, `bytes` the size of the encoded one.
    """

    class_ids: npt.NDArray[np.int32]
    confidences: Confidences
    format: str
    width: int
    height: int
    bytes: int

    def pack(self) -> builtins.bytes:
        """As bytes, 8 for each class and a few more, which `unpack` makes into the same again."""
        head = _HEAD.pack(_PACKED, self.format.encode(), self.width, self.height, self.bytes)
        return head + self.class_ids.tobytes() + self.confidences.tobytes()

    @classmethod
    def unpack(cls, packed: builtins.bytes, classes: int) -> Self:
        """Raises `ValueError` when these are not the bytes of a `Scores` of so many classes."""
        if len(packed) != _HEAD.size + 8 * classes or not packed.startswith(_PACKED):
            raise ValueError("not the packed form of what a network said of an image")
        _, kind, width, height, size = _HEAD.unpack_from(packed)
        class_ids = np.frombuffer(packed, np.int32, classes, _HEAD.size)
        confidences = np.frombuffer(packed, np.float32, classes, _HEAD.size + 4 * classes)
        return cls(class_ids, confidences, kind.rstrip(b"\0").decode(), width, height, size)


class Classifier:
    """One network, ready; `scores` and `classify` may be called from several threads at once."""

    def __init__(
        self,
        entry: Entry,
        labels: tuple[Label, ...],
        engine: Engine,
        *,
        max_bytes: int = 5 * 1024 * 1024,
        max_pixels: int = preprocess.MAX_PIXELS,
        formats: Collection[str] = preprocess.FORMATS,
        stand_in: bool = False,
        record: Export | None = None,
        comparison: Comparison | None = None,
    ) -> None:
        """`comparison` is what bf16 or f32 was chosen by."""
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
            quantization=record.quantization if record else None,
        )
        self.recipe = entry.recipe
        self.engine = engine
        self.comparison = comparison
        self._record = record
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
        max_bytes: int = 5 * 1024 * 1024,
        max_pixels: int = preprocess.MAX_PIXELS,
        formats: Collection[str] = preprocess.FORMATS,
    ) -> Self:
        """The network that the manifest calls `model`, verified, loaded, and exported first when that was never done.

        The engine computes `streams` images at once, each with `threads` threads; one that is exclusive with
        `latency_threads`, by default all of them. More threads than `streams` may call: their images are decoded
        meanwhile, and the engines other than openvino compute them too.

        Raises:
            StartError: it cannot be had; the message says why.
        """
        entries = weights.read_manifest(Path(manifest))
        entry = weights.choose(entries, model)
        path = weights.verify(entry)
        names = labels_of(entry, Path(labels_dir))
        stand_in = model == "auto" and weights.is_stand_in(entry, entries)
        if stand_in:
            event(
                "stand_in_used",
                logging.WARNING,
                model=entry.name,
                missing=next(iter(entries)),
                remedy=weights.remedy(entries),
            )
        plan = {"streams": streams, "threads": threads, "latency_threads": latency_threads or streams * threads}
        loaded, record, comparison = _load(entry, path, len(names), engine, precision, Path(data_dir), plan)
        return cls(
            entry,
            names,
            loaded,
            max_bytes=max_bytes,
            max_pixels=max_pixels,
            formats=formats,
            stand_in=stand_in,
            record=record,
            comparison=comparison,
        )

    def scores(self, data: bytes, steps: dict[str, float] | None = None) -> Scores:
        """What the model says of one encoded image; `steps` is given the seconds of `decode` and `infer`.

        Raises:
            Refusal: the image cannot be recognised; see `preprocess`.
        """
        started = time.monotonic()
        with self._lock:
            self._running += 1
        try:
            image = preprocess.preprocess(
                data, self.recipe, max_pixels=self.card.limits.max_pixels, formats=self.card.limits.formats
            )
            decoded = time.monotonic()
            logits, _ = self.engine.infer(image.pixels[None], exclusive=self._running == 1)
        finally:
            with self._lock:
                self._running -= 1
        confidences = softmax(logits[0])
        order = np.argsort(-confidences, kind="stable").astype(np.int32)
        if steps is not None:
            steps["decode"], steps["infer"] = decoded - started, time.monotonic() - decoded
        return Scores(order, confidences[order], image.format, image.width, image.height, len(data))

    def top(self, scores: Scores, top_k: int, min_confidence: float = 0) -> list[Prediction]:
        """The `top_k` likeliest classes with at least `min_confidence`, likeliest first."""
        likeliest = zip(scores.class_ids[:top_k].tolist(), scores.confidences[:top_k].tolist(), strict=True)
        return [
            Prediction(label.class_id, label.wnid, label.label, round(confidence, 6))
            for label, confidence in ((self.labels[i], confidence) for i, confidence in likeliest)
            if confidence >= min_confidence
        ]

    def classify(self, data: bytes, top_k: int = 3, min_confidence: float = 0) -> list[Prediction]:
        """What is in one encoded image. Raises `Refusal` when it cannot be recognised."""
        return self.top(self.scores(data), top_k, min_confidence)

    def check_golden_image(self) -> None:
        """Raise `GoldenImageFailed` unless the sample image is recognised as torch recognised it."""
        # Not by `scores`: an operator may allow fewer formats or pixels than it has.
        pixels = export.golden_pixels(self.recipe)
        for exclusive in (True, False):
            self._check_golden(softmax(self.engine.infer(pixels, exclusive=exclusive)[0][0]))

    def _check_golden(self, confidences: Confidences) -> None:
        total = float(confidences.sum(dtype=np.float64))
        if not math.isclose(total, 1, abs_tol=1e-3):
            raise GoldenImageFailed(f"the confidences of the golden image sum to {total}")
        if self._record and not self._record.is_golden(confidences, self.engine.precision):
            expected, actual = (self.labels[i].label for i in (self._record.golden[0][0], int(confidences.argmax())))
            raise GoldenImageFailed(f"the golden image is a {expected}, and was recognised as a {actual}")


def labels_of(entry: Entry, labels_dir: Path) -> tuple[Label, ...]:
    """The classes of a network: from beside its manifest, from `labels_dir`, or from the package."""
    return labels.load_labels(entry.labels, [entry.folder, labels_dir, weights.packaged("labels")])


def _load(
    entry: Entry, path: Path, classes: int, engine: str, asked: str, data_dir: Path, plan: dict[str, int]
) -> tuple[Engine, Export | None, Comparison | None]:
    """The engine with the network in it; the record of the export and the comparison, where there are such."""
    engine = "openvino" if engine == "auto" else engine
    if engine != "openvino" and asked not in ("auto", "f32"):
        raise EngineUnavailable(f"the engine {engine} computes in f32; {asked} needs openvino")
    if engine == "torch":
        return _load_torch(entry, path, classes, plan), None, None
    exports = export.folders(entry, data_dir)
    if asked == "int8":  # one that the user made comes before one beside the manifest
        found = export.find(entry, classes, engine, exports[::-1], "int8")
        if not found:
            raise EngineUnavailable(f"{entry.name} has no int8 export yet; `eyespot quantize --images DIR` makes it")
    else:
        found = export.find(entry, classes, engine, exports) or export.make(entry, classes, exports[-1], engine)
    place, record = found

    def load(bf16: bool) -> Engine:
        return export.load(engine, place, precision=record.precision, bf16=bf16, **plan)

    if engine != "openvino":
        return load(False), record, None
    loaded, comparison = precision.load_engine(asked, load, record, data_dir)
    return loaded, record, comparison


def _load_torch(entry: Entry, path: Path, classes: int, plan: dict[str, int]) -> Engine:
    try:
        from eyespot.vision.engines.torch import TorchEngine, load_network

        network = load_network(entry.architecture, path, classes, entry.recipe)
    except ModuleNotFoundError as error:
        raise EngineUnavailable(f"the engine torch needs `pip install eyespot[models]`: {error}") from error
    return TorchEngine(network, threads=plan["threads"], latency_threads=plan["latency_threads"])
