"""int8: a network calibrated on some of the user's own images, and measured on the others."""

import contextlib
import hashlib
import importlib.util
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from eyespot.errors import EngineUnavailable, ExportRefused, Refusal, TooFewImages
from eyespot.types import Quantization, Recipe
from eyespot.vision import export, preprocess
from eyespot.vision.engines import Confidences, Engine, Pixels, softmax
from eyespot.vision.weights import Entry

MIN_IMAGES = 30
MIN_AGREEMENT = 0.9
_HELD_OUT = 3  # every third image is measured on
_CHOSEN_ON = 100  # images, at most
_TIMED = 30  # inferences of each engine, in turn

# Ways to calibrate: whether the first convolution stays in floating point, which operations do, how far weights are
# kept from overflow, and whether biases are corrected. All take ranges from the least to the largest value. Without
# VNNI, products of two bytes are added up in 16 bits, and overflow; there weights are kept to seven bits, in the first
# layer or in all. Which way is best was seen to depend on the network and on the processor: on 200 photographs a
# ResNet-18 kept 98 % of its top-1 with the first of these, and EfficientNet-Lite0 98.5 % with the third, where NNCF's
# own settings kept 96.5 % and 95 %.
PRESETS: dict[str, tuple[bool, list[str], str, bool]] = {
    "additions in float, seven bits in the first layer": (False, ["Add"], "FIRST_LAYER", False),
    "additions in float, eight bits": (False, ["Add"], "DISABLE", False),
    "first layer in float, seven bits, biases corrected": (True, [], "ENABLE", True),
    "first layer in float, eight bits, biases corrected": (True, [], "DISABLE", True),
}

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True, slots=True)
class Images:
    """What was found: uint8 (side, side, 3) each, in an order that does not depend on names, without doubles."""

    pixels: list[Pixels]
    skipped: list[Path]

    @property
    def calibration(self) -> list[Pixels]:
        return [image for turn, image in enumerate(self.pixels) if turn % _HELD_OUT]

    @property
    def held_out(self) -> list[Pixels]:
        return self.pixels[::_HELD_OUT]


def check_installed() -> None:
    """Raise `EngineUnavailable` unless NNCF is installed, before anything long is begun."""
    if importlib.util.find_spec("nncf") is None:
        raise EngineUnavailable("int8 needs `pip install eyespot[quantize]`")


def read_images(
    folder: Path,
    recipe: Recipe,
    limit: int | None = None,
    progress: Progress = lambda *_: None,
    max_pixels: int = preprocess.MAX_PIXELS,
    formats: Collection[str] = preprocess.FORMATS,
) -> Images:
    """The images in a folder and below it, at most `limit` of them; other files are skipped.

    Raises:
        TooFewImages: there are less than 30.
    """
    by_hash: dict[str, Path] = {}
    pixels: list[Pixels] = []
    skipped: list[Path] = []
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for done, path in enumerate(files):
        progress("looking for doubles", done, len(files))
        try:
            with path.open("rb") as file:
                by_hash[hashlib.file_digest(file, "sha256").hexdigest()] = path
        except OSError:
            skipped.append(path)
    for done, (_, path) in enumerate(sorted(by_hash.items())):
        if len(pixels) == limit:
            break
        progress("reading images", done, min(len(by_hash), limit or len(by_hash)))
        try:
            pixels.append(
                preprocess.preprocess(path.read_bytes(), recipe, max_pixels=max_pixels, formats=formats).pixels
            )
        except (Refusal, OSError):
            skipped.append(path)
    if len(pixels) < MIN_IMAGES:
        raise TooFewImages(
            f"{folder} has {len(pixels)} different images that can be read; at least {MIN_IMAGES} are needed, "
            "and a few hundred like those that will be asked about are better"
        )
    return Images(pixels, skipped)


def quantize(
    entry: Entry,
    classes: int,
    images: Images,
    data_dir: Path,
    *,
    threads: int,
    force: bool = False,
    progress: Progress = lambda *_: None,
) -> tuple[Path, Quantization]:
    """Make the int8 export of a network in the data folder; an older one is replaced.

    Two of three images calibrate it, in more than one way, and choose the way. On the others its answers are measured
    beside those in float32.

    Raises:
        EngineUnavailable: NNCF is not installed.
        ExportRefused: fewer than 90 % of the images keep their likeliest class, and `force` was not given.
    """
    check_installed()
    folders = export.folders(entry, data_dir)
    base, record = export.find(entry, classes, "openvino", folders) or export.make(entry, classes, folders[-1])
    measured: list[Quantization] = []

    def load(folder: Path, precision: str) -> Engine:
        return export.load("openvino", folder, precision=precision, streams=1, threads=threads, latency_threads=threads)

    def write(unfinished: Path) -> export.Export:
        before = load(base, "f32")
        with tempfile.TemporaryDirectory(dir=unfinished) as tries:
            candidates = {}
            for done, name in enumerate(PRESETS):
                progress(f"calibrating, {name}", done, len(PRESETS))
                folder = Path(tries) / str(done)
                _calibrate(base, images.calibration, name, folder)
                candidates[name] = folder, load(folder, "int8")
            way = choose_way(before, {name: engine for name, (_, engine) in candidates.items()}, images.calibration)
            folder, after = candidates[way]
            progress(f"measuring, {way}", len(PRESETS), len(PRESETS))
            measured.append(compare(before, after, images, way, force=force))
            for path in [*folder.iterdir(), base / "head.npz"]:
                shutil.copy(path, unfinished)
        return record.model_copy(update={"precision": "int8", "quantization": measured[0]})

    place = export.publish(folders[-1], export.folder_name(entry, "openvino", "int8"), write, replace=True)
    return place, measured[0]


def _calibrate(base: Path, images: list[Pixels], way: str, folder: Path) -> None:
    """Write the float32 model at `base` as an int8 model into `folder`."""
    # In this order: by itself nncf would report to an analytics host.
    from eyespot.vision.engines import openvino  # noqa: I001
    import nncf

    nncf.set_log_level(logging.WARNING)
    model = openvino.read(base)
    first = next(op.friendly_name for op in model.get_ordered_ops() if op.get_type_name() == "Convolution")
    first_in_float, types_in_float, overflow, corrected = PRESETS[way]
    with contextlib.redirect_stdout(sys.stderr):  # where its progress bars belong
        quantized = nncf.quantize(
            model,
            nncf.Dataset([image[None] for image in images]),
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=[first] if first_in_float else [], types=types_in_float),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX,
                overflow_fix=nncf.OverflowFix[overflow],
                disable_bias_correction=not corrected,
            ),
        )
    folder.mkdir()
    openvino.save(quantized, folder)


def choose_way(before: Engine, candidates: dict[str, Engine], images: list[Pixels]) -> str:
    """The candidate nearest to the float32 engine, among those that are at most 5 % slower than the quickest.

    Nearest is the least Kullback-Leibler divergence of the confidences, which tells more of so few images than a count
    of likeliest classes does.
    """
    images = images[:_CHOSEN_ON]
    expected = _confidences(before, images)
    seconds = seconds_each(list(candidates.values()), images[0])
    divergence = {
        name: float(np.sum(expected * (_log(expected) - _log(_confidences(engine, images)))))
        for (name, engine), taken in zip(candidates.items(), seconds, strict=True)
        if taken <= min(seconds) / 0.95
    }
    return min(divergence, key=lambda name: divergence[name])


def compare(before: Engine, after: Engine, images: Images, way: str, *, force: bool) -> Quantization:
    """What the int8 engine answers beside the float32 one, on the images that it was not calibrated on.

    Raises:
        ExportRefused: too often something else, unless `force` is given.
    """
    expected, actual = (_confidences(engine, images.held_out) for engine in (before, after))
    best = expected.argmax(1)
    apart = np.abs(np.take_along_axis(expected - actual, best[:, None], 1))
    agreement = float((actual.argmax(1) == best).mean())
    if agreement < MIN_AGREEMENT and not force:
        raise ExportRefused(
            f"int8 keeps the likeliest class of {agreement:.1%} of {len(best)} images; {MIN_AGREEMENT:.0%} are needed. "
            "More images, and such as the network knows, may help; --force takes it as it is"
        )
    seconds_before, seconds_after = seconds_each([before, after], images.held_out[0])
    return Quantization(
        preset=way,
        calibrated_on=len(images.calibration),
        measured_on=len(best),
        agreement=round(agreement, 4),
        mean_difference=round(float(apart.mean()), 4),
        worst_difference=round(float(apart.max()), 4),
        images_per_second=round(1 / seconds_after, 1),
        images_per_second_before=round(1 / seconds_before, 1),
    )


def _log(confidences: Confidences) -> Confidences:
    return np.log(np.maximum(confidences, 1e-30))  # of logits far apart the least is 0 in float32


def _confidences(engine: Engine, images: list[Pixels]) -> Confidences:
    return np.stack([softmax(engine.infer(image[None], exclusive=True)[0][0]) for image in images])


def seconds_each(engines: list[Engine], image: Pixels) -> list[float]:
    """Median seconds of one inference with all threads, for each engine; they take turns, since machines are noisy."""
    seconds: list[list[float]] = [[] for _ in engines]
    for _ in range(_TIMED):
        for engine, taken in zip(engines, seconds, strict=True):
            started = time.perf_counter()
            engine.infer(image[None], exclusive=True)
            taken.append(time.perf_counter() - started)
    return [median(taken) for taken in seconds]
