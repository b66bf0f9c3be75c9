"""int8: a model calibrated on some of the user's images, and measured on the others."""

import contextlib
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

from eyespot.choices import FORMATS
from eyespot.errors import EngineUnavailable, ExportRefused, Refusal, TooFewImages
from eyespot.ordered import Progress
from eyespot.types import Quantization, Recipe
from eyespot.vision import engines, export, exporter, preprocess
from eyespot.vision.engines import Clock, Confidences, Engine, Pixels, Threads, softmax, time_each
from eyespot.vision.weights import Entry, sha256

MIN_IMAGES = 30
MIN_AGREEMENT = 0.9
_HELD_OUT = 3  # every third image is measured on
_CHOSEN_ON = 100  # images, at most
_ROUNDS = 30

# Whether additions stay in float (else the first layer does, and biases are corrected), and NNCF's fix for overflow:
# without VNNI, products of two bytes are added up in 16 bits, so weights keep to seven bits, in the first layer or in
# all. All presets take ranges from the minimum to the maximum. The best one depends on the model and the processor: on
# 200 photographs a ResNet-18 kept 98 % of its top-1 with the first, EfficientNet-Lite0 98.5 % with the third; NNCF's
# defaults kept 96.5 % and 95 %.
PRESETS = {
    "additions in float, seven bits in the first layer": (True, "FIRST_LAYER"),
    "additions in float, eight bits": (True, "DISABLE"),
    "first layer in float, seven bits, biases corrected": (False, "ENABLE"),
    "first layer in float, eight bits, biases corrected": (False, "DISABLE"),
}


@dataclass(frozen=True, slots=True)
class Images:
    """Distinct images as uint8 (side, side, 3), in an order that does not depend on their names; files skipped."""

    pixels: list[Pixels]
    skipped: list[Path]

    @property
    def calibration(self) -> list[Pixels]:
        return [image for number, image in enumerate(self.pixels) if number % _HELD_OUT]

    @property
    def held_out(self) -> list[Pixels]:
        return self.pixels[::_HELD_OUT]


def check_installed() -> None:
    """Raise `EngineUnavailable` unless NNCF is installed."""
    if importlib.util.find_spec("nncf") is None:
        raise EngineUnavailable("int8 needs `pip install eyespot[quantize]`")


def read_images(
    folder: Path,
    recipe: Recipe,
    limit: int | None = None,
    progress: Progress = lambda *_: None,
    max_pixels: int = preprocess.MAX_PIXELS,
    formats: Collection[str] = tuple(FORMATS),
) -> Images:
    """Up to `limit` images in a folder and below it; raises `TooFewImages` below 30. Other files are skipped."""
    by_hash: dict[str, Path] = {}
    found = Images([], [])
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for done, path in enumerate(files):
        progress("looking for duplicates", done, len(files))
        try:
            by_hash[sha256(path)] = path
        except OSError:
            found.skipped.append(path)
    wanted = min(len(by_hash), limit or len(by_hash))
    for _, path in sorted(by_hash.items()):
        if len(found.pixels) == wanted:
            break
        progress("reading images", len(found.pixels), wanted)
        try:
            image = preprocess.preprocess(path.read_bytes(), recipe, max_pixels=max_pixels, formats=formats)
            found.pixels.append(image.pixels)
        except (Refusal, OSError):
            found.skipped.append(path)
    if len(found.pixels) < MIN_IMAGES:
        detail = f"at least {MIN_IMAGES} are needed; a few hundred like those to be recognised are better"
        raise TooFewImages(f"{folder} has {len(found.pixels)} different readable images; {detail}")
    return found


def calibrate(base: Path, images: list[Pixels], preset: str, folder: Path) -> None:
    """Write the float32 export at `base` as an int8 model to `folder`, which is new."""
    # In this order: nncf alone would report to an analytics host.
    from eyespot.vision.engines import openvino  # noqa: I001
    import nncf

    nncf.set_log_level(logging.WARNING)
    model = openvino.read(base)
    first = next(op.friendly_name for op in model.get_ordered_ops() if op.get_type_name() == "Convolution")
    additions_in_float, overflow_fix = PRESETS[preset]
    in_float = {"types": ["Add"]} if additions_in_float else {"names": [first]}
    minmax = nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX
    with contextlib.redirect_stdout(sys.stderr):  # for NNCF's progress bars
        quantized = nncf.quantize(
            model,
            nncf.Dataset([image[None] for image in images]),
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(**in_float),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=minmax,
                overflow_fix=nncf.OverflowFix[overflow_fix],
                disable_bias_correction=additions_in_float,
            ),
        )
    folder.mkdir()
    openvino.save(quantized, folder)


def quantize(
    entry: Entry,
    classes: int,
    images: Images,
    data_dir: Path,
    *,
    threads: int,
    force: bool = False,
    progress: Progress = lambda *_: None,
    calibrate: Callable[[Path, list[Pixels], str, Path], None] = calibrate,
    load: Callable[..., Engine] = engines.load,
) -> tuple[Path, Quantization]:
    """Make a model's int8 export in the data folder, in place of an older one; its folder and its report.

    Two of three images calibrate it with each preset and choose the preset; the others measure it against float32.
    Raises `EngineUnavailable` without NNCF, `ExportRefused` as `compare` does.
    """
    check_installed()
    folders = export.folders(entry, data_dir)
    base, record = export.find(entry, classes, "openvino", folders) or exporter.make(entry, classes, folders[-1])
    plan = Threads(1, threads, threads)
    reports: list[Quantization] = []

    def write(unfinished: Path) -> export.Export:
        before, candidates = load("openvino", base, plan), {}
        with tempfile.TemporaryDirectory(dir=unfinished) as tries:
            for done, preset in enumerate(PRESETS):
                progress(f"calibrating, {preset}", done, len(PRESETS))
                calibrate(base, images.calibration, preset, Path(tries, preset))
                candidates[preset] = load("openvino", Path(tries, preset), plan, precision="int8")
            best = choose_preset(before, candidates, images.calibration)
            progress(f"measuring, {best}", len(PRESETS), len(PRESETS))
            reports.append(compare(before, candidates[best], images, best, force=force))
            for path in [*Path(tries, best).iterdir(), *base.glob(export.HEAD)]:
                shutil.copy(path, unfinished)
        return record.model_copy(update={"precision": "int8", "quantization": reports[0]})

    place = export.publish(folders[-1], export.folder_name(entry, "openvino", "int8"), write, replace=True)
    return place, reports[0]


def choose_preset(
    before: Engine, candidates: dict[str, Engine], images: list[Pixels], clock: Clock = time.perf_counter
) -> str:
    """The candidate nearest to the float32 engine, among those at most 5 % slower than the fastest.

    Nearest by the Kullback-Leibler divergence of the confidences, which says more than a count of top-1 on few images.
    """
    images = images[:_CHOSEN_ON]
    expected = _confidences(before, images)
    seconds = median_seconds(list(candidates.values()), images[0], clock)
    divergence = {
        name: float(np.sum(expected * (_log(expected) - _log(_confidences(engine, images)))))
        for (name, engine), taken in zip(candidates.items(), seconds, strict=True)
        if taken <= min(seconds) / 0.95
    }
    return min(divergence, key=lambda name: divergence[name])


def compare(
    before: Engine, after: Engine, images: Images, preset: str, *, force: bool, clock: Clock = time.perf_counter
) -> Quantization:
    """Compare them on the images held out. Unless `force`, raises `ExportRefused` if under 90 % keep their top-1."""
    expected, actual = (_confidences(engine, images.held_out) for engine in (before, after))
    best = expected.argmax(1)
    apart = np.abs(np.take_along_axis(expected - actual, best[:, None], 1))
    agreement = float((actual.argmax(1) == best).mean())
    if agreement < MIN_AGREEMENT and not force:
        kept = f"int8 keeps the top-1 of {agreement:.1%} of {len(best)} images; {MIN_AGREEMENT:.0%} are needed"
        raise ExportRefused(f"{kept}. More images that the model knows may help; --force keeps it anyway")
    seconds_before, seconds_after = median_seconds([before, after], images.held_out[0], clock)
    return Quantization(
        preset=preset,
        calibrated_on=len(images.calibration),
        measured_on=len(best),
        agreement=round(agreement, 4),
        mean_difference=round(float(apart.mean()), 4),
        worst_difference=round(float(apart.max()), 4),
        images_per_second=round(1 / seconds_after, 1),
        images_per_second_before=round(1 / seconds_before, 1),
    )


def _log(confidences: Confidences) -> Confidences:
    return np.log(np.maximum(confidences, 1e-30))  # float32 rounds the smallest ones to 0


def _confidences(engine: Engine, images: list[Pixels]) -> Confidences:
    return np.stack([softmax(engine.infer(image[None], exclusive=True)[0][0]) for image in images])


def median_seconds(engines: list[Engine], image: Pixels, clock: Clock = time.perf_counter) -> list[float]:
    """Median seconds of one exclusive inference, for each engine."""
    return [median(seconds) for seconds in time_each(engines, image[None], _ROUNDS, True, clock)]
