"""Class-activation maps of the packaged model, on photographs and on images composed of one."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from eyespot.vision import export
from eyespot.vision.activation import ActivationMap, activation_map, overlay
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import Weights
from eyespot.vision.preprocess import preprocess
from tests import makers
from tests.serving import EVAL, ROOT

OTHERS = ("torch", "ncnn", "onnxruntime", "torchscript")
ENGINES = ["openvino", *(pytest.param(name, marks=pytest.mark.needs("make test-all")) for name in OTHERS)]
REAL = pytest.param((EVAL / "manifest.toml", "resnet18-eval"), marks=pytest.mark.needs("eval"), id="resnet18-eval")
MODELS = [pytest.param((ROOT / "weights" / "manifest.toml", "efficientnet-lite0"), id="packaged"), REAL]


def opened(model: tuple[Path, str], data_dir: Path, engine: str = "openvino") -> Classifier:
    manifest, name = model
    return Classifier.open(manifest, name, engine=engine, precision="f32", data_dir=data_dir, latency_threads=2)


def head(model: Classifier, data_dir: Path) -> tuple[Weights, Weights]:
    """Weights and bias of the final layer, from the export."""
    (folder,) = (data_dir / "exports").glob(f"{model.info.name}-*-openvino")
    with np.load(folder / export.HEAD) as stored:
        return stored["weight"], stored["bias"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_mean_of_the_map_and_the_bias_are_the_logit(data_dir: Path, model: tuple[Path, str], engine: str) -> None:
    opened(model, data_dir)  # makes the export
    classifier = opened(model, data_dir, engine)
    weights, bias = head(classifier, data_dir)
    np.testing.assert_array_equal(classifier.head, weights)
    pixels = preprocess(makers.jpeg("coffee"), classifier.recipe).pixels
    logits, features = classifier.engine.infer(pixels[None], features=True, exclusive=True)
    assert features is not None
    for class_id in (0, 281, 504, 967, 999):
        explained = classifier.explain(makers.jpeg("coffee"), class_id=class_id).activation
        assert explained
        assert (explained.class_id, explained.map.shape, explained.map.dtype) == (class_id, (7, 7), np.float32)
        assert explained.map.mean() + bias[class_id] == pytest.approx(logits[0, class_id], abs=1e-3)
        np.testing.assert_allclose(explained.map, activation_map(features[0], weights[class_id]), atol=1e-3)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("engine", ENGINES)
def test_features_change_no_logit(data_dir: Path, model: tuple[Path, str], engine: str) -> None:
    classifier = opened(model, data_dir, engine)
    for name in ("chelsea", "rocket"):
        pixels = preprocess(makers.jpeg(name), classifier.recipe).pixels[None]
        for exclusive in (True, False):
            plain, nothing = classifier.engine.infer(pixels, exclusive=exclusive)
            logits, features = classifier.engine.infer(pixels, features=True, exclusive=exclusive)
            np.testing.assert_array_equal(plain, logits)
            assert nothing is None
            assert features is not None
        scores, explained = classifier.scores(makers.jpeg(name)), classifier.explain(makers.jpeg(name))
        assert explained.pack() == scores.pack()
        assert scores.activation is None


def composed(name: str, box: tuple[int, int, int, int], corner: tuple[int, int], ground: str) -> bytes:
    """A part of a photograph, 160 pixels a side, in a corner of a square ground: plain, or blurred noise."""
    noise = np.random.default_rng(0).integers(90, 160, (448, 448, 3), dtype=np.uint8)
    blurred = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(12))
    image = blurred if ground == "blurred" else makers.flat((448, 448), "gray")
    part = makers.photograph(name).crop(box).resize((160, 160), Image.Resampling.BICUBIC)
    image.paste(part, tuple(32 + 224 * place for place in corner))  # type: ignore[arg-type]
    return makers.encode(image, "PNG")


OBJECTS = {"chelsea": (90, 0, 390, 300), "coffee": (110, 20, 390, 300)}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("ground", ["plain", "blurred"])
@pytest.mark.parametrize("name", OBJECTS)
def test_the_map_peaks_where_the_object_is(data_dir: Path, model: tuple[Path, str], ground: str, name: str) -> None:
    classifier = opened(model, data_dir)
    for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):
        explained = classifier.explain(composed(name, OBJECTS[name], corner, ground)).activation
        assert explained
        row, column = np.unravel_index(explained.map.argmax(), explained.map.shape)
        assert (np.sign(column - 3), np.sign(row - 3)) == (2 * corner[0] - 1, 2 * corner[1] - 1), explained.map


def drawn(cells: ActivationMap, level: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """The overlay of a grey image in RGB, and how warm each pixel is: red beyond blue."""
    image = Image.open(io.BytesIO(overlay(np.full((224, 224, 3), level, np.uint8), cells)))
    assert (image.format, image.size) == ("PNG", (224, 224))
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return pixels, pixels[..., 0] - pixels[..., 2]


def test_the_overlay_is_warm_where_the_map_is_high_and_grey_where_it_is_negative() -> None:
    cells = np.full((7, 7), -50, np.float32)
    cells[1, 1] = 30
    pixels, warmth = drawn(cells, 128)
    assert warmth[32:64, 32:64].mean() > 50
    assert np.abs(warmth[96:]).max() <= 8
    assert abs(pixels[96:].mean() - 128) < 3


def test_a_map_without_a_positive_cell_leaves_the_image_grey() -> None:
    for value in (-1, 0):
        _, warmth = drawn(np.full((7, 7), value, np.float32), 99)
        assert np.abs(warmth).max() <= 8
