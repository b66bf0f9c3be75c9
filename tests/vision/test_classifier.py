import io
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from eyespot.errors import BrokenImage, EngineUnavailable, GoldenImageFailed, WeightsMissing
from eyespot.vision import export, exporter
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import softmax
from eyespot.vision.engines.openvino import has_bf16
from eyespot.vision.scores import Scores
from tests import makers
from tests.serving import ROOT, FakeEngine, fake_classifier, golden

MANIFEST = ROOT / "weights" / "manifest.toml"
CATS = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat", "cougar", "lynx"}


@pytest.fixture(scope="module")
def classifier(data_dir: Path) -> Classifier:
    return Classifier.open(MANIFEST, "efficientnet-lite0", precision="f32", data_dir=data_dir, latency_threads=2)


@pytest.fixture(scope="module")
def reference(data_dir: Path) -> Classifier:
    return Classifier.open(MANIFEST, "efficientnet-lite0", engine="torch", data_dir=data_dir, threads=1)


@pytest.mark.parametrize(
    ("name", "labels"), [("chelsea", CATS), ("coffee", {"espresso", "cup", "coffee mug"}), ("rocket", {"missile"})]
)
def test_photographs_are_recognised(classifier: Classifier, name: str, labels: set[str]) -> None:
    assert {found.label for found in classifier.classify(makers.jpeg(name))} & labels
    assert classifier.classify(makers.jpeg(name), top_k=1)[0].label in labels | {"projectile"}


@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket", "astronaut", "hubble_deep_field", "retina"])
def test_openvino_and_preprocess_agree_with_torch_and_torchvision(
    classifier: Classifier, reference: Classifier, name: str
) -> None:
    """The reference is torch with torchvision's own transforms."""
    data = makers.jpeg(name)
    bicubic = transforms.InterpolationMode.BICUBIC
    view = transforms.Compose([transforms.Resize(256, interpolation=bicubic), transforms.CenterCrop(224)])
    pixels = np.asarray(view(Image.open(io.BytesIO(data)).convert("RGB")))
    expected = softmax(reference.engine.infer(pixels[None])[0][0], reference.calibration.temperature)
    best = int(expected.argmax())
    for scores in (classifier.scores(data), reference.scores(data)):
        assert scores.class_ids[0] == best
        assert abs(float(scores.confidences[0] - expected[best])) <= 0.03


@pytest.mark.parametrize("orientation", makers.ORIENTATIONS)
def test_a_photograph_is_the_same_in_every_orientation(classifier: Classifier, orientation: int) -> None:
    upright = classifier.classify(makers.encode(makers.photograph("coffee"), quality=95), 1)[0]
    turned = classifier.classify(makers.turned(makers.photograph("coffee"), orientation, quality=95), 1)[0]
    assert turned.label == upright.label
    assert abs(turned.confidence - upright.confidence) <= 0.05


def test_many_threads_get_their_own_answers(classifier: Classifier) -> None:
    names = ["chelsea", "coffee", "rocket", "astronaut"] * 6
    expected = {name: classifier.classify(makers.jpeg(name)) for name in set(names)}
    together: dict[int, object] = {}

    def work(i: int) -> None:
        together[i] = classifier.classify(makers.jpeg(names[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(together[i] == expected[name] for i, name in enumerate(names))


def test_confidences_are_ordered_and_sum_to_one(classifier: Classifier) -> None:
    everything = classifier.classify(makers.jpeg(), top_k=1000)
    confidences = [found.confidence for found in everything]
    assert len(everything) == 1000
    assert confidences == sorted(confidences, reverse=True)
    assert sum(confidences) == pytest.approx(1, abs=1e-3)
    assert classifier.classify(makers.jpeg(), top_k=1000, min_confidence=0.1) == [
        found for found in everything if found.confidence >= 0.1
    ]


def test_softmax_survives_large_logits() -> None:
    assert softmax(np.array([1e4, 0, -1e4], np.float32)).tolist() == [1, 0, 0]


def test_the_stand_in_says_so(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("eyespot").propagate = True
    with caplog.at_level("WARNING", "eyespot"):
        stand_in = Classifier.open(MANIFEST, data_dir=data_dir)
    if not (ROOT / "weights" / "resnet18-f37072fd.pth").exists():
        assert stand_in.card.stand_in
        (record,) = caplog.records
        assert "eyespot weights fetch resnet18" in record.facts["remedy"]  # type: ignore[attr-defined]


def test_a_model_chosen_by_name_is_not_a_stand_in(classifier: Classifier) -> None:
    assert not classifier.card.stand_in


def test_a_model_chosen_by_name_needs_its_weights(tmp_path: Path) -> None:
    (tmp_path / "manifest.toml").write_text(MANIFEST.read_text())
    with pytest.raises(WeightsMissing, match="resnet18-f37072fd"):
        Classifier.open(tmp_path / "manifest.toml", "resnet18")


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"precision": "int8"}, "eyespot quantize"),
        ({"engine": "torch", "precision": "int8"}, "torch computes in f32"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "onnxruntime computes in f32"),
        ({"engine": "tensorrt"}, "unknown engine 'tensorrt'; the engines are openvino, ncnn, torch"),
    ],
)
def test_an_unavailable_engine_or_precision_is_an_error(tmp_path: Path, choice: dict[str, str], reason: str) -> None:
    with pytest.raises(EngineUnavailable, match=reason):
        Classifier.open(MANIFEST, "efficientnet-lite0", data_dir=tmp_path, **choice)


@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket", "astronaut", "hubble_deep_field", "retina"])
def test_bf16_differs_from_torch_only_where_torch_is_undecided(
    reference: Classifier, data_dir: Path, name: str
) -> None:
    if not has_bf16():
        pytest.skip("this processor does not compute in bf16 natively")
    bf16 = Classifier.open(MANIFEST, "efficientnet-lite0", precision="bf16", data_dir=data_dir, latency_threads=2)
    data = makers.jpeg(name)
    expected, scores = reference.scores(data), bf16.scores(data)
    confidence = dict(zip(expected.class_ids.tolist(), expected.confidences.tolist(), strict=True))
    assert confidence[int(scores.class_ids[0])] >= expected.confidences[0] / 2
    assert abs(float(scores.confidences[0]) - confidence[int(scores.class_ids[0])]) <= 0.05


@pytest.mark.needs("make test-all")
@pytest.mark.parametrize("engine", ["ncnn", "onnxruntime", "torchscript"])
def test_other_engines_answer_as_torch_does(reference: Classifier, data_dir: Path, engine: str) -> None:
    other = Classifier.open(MANIFEST, "efficientnet-lite0", engine=engine, data_dir=data_dir, latency_threads=2)
    assert (other.info.engine, other.info.precision) == (engine, "f32")
    other.check_golden_image()
    images = exporter.proof_images(other.recipe)[:3]
    expected, maps = reference.engine.infer(images, features=True)
    for exclusive in (True, False):
        actual, features = other.engine.infer(images, features=True, exclusive=exclusive)
        np.testing.assert_allclose(actual, expected, atol=1e-3)
        assert features is not None
        assert maps is not None
        np.testing.assert_allclose(features, maps, atol=1e-3)
    assert other.engine.infer(images)[1] is None


def test_a_single_image_is_exclusive_and_two_at_once_are_not() -> None:
    engine = FakeEngine()
    fake = fake_classifier(engine)
    fake.scores(makers.jpeg("coffee"))
    engine.go.clear()
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(fake.scores, makers.jpeg("coffee"))
        for _ in range(2):
            assert engine.started.acquire(timeout=30)
        second = callers.submit(fake.scores, makers.jpeg("coffee"))
        assert engine.started.acquire(timeout=30)
        engine.go.set()
        first.result(), second.result()
    fake.scores(makers.jpeg("coffee"))
    with pytest.raises(BrokenImage):
        fake.scores(makers.jpeg("coffee")[:500])
    fake.scores(makers.jpeg("coffee"))
    assert engine.exclusive == [True, True, False, True, True]


def test_the_limits_of_requests_do_not_apply_to_the_golden_image() -> None:
    fake_classifier(FakeEngine(), max_pixels=1024, formats=["png"]).check_golden_image()


def test_the_golden_image_is_computed_shared_and_exclusive() -> None:
    engine = FakeEngine()
    fake_classifier(engine).check_golden_image()
    assert engine.exclusive == [True, False]


def test_the_golden_image_catches_a_model_that_recognises_something_else() -> None:
    fake = fake_classifier(FakeEngine(), record=golden((9, 0.5), (4, 0.4)))
    with pytest.raises(GoldenImageFailed, match="class 9"):
        fake.check_golden_image()


@pytest.mark.parametrize(("precision", "likely"), [("f32", False), ("bf16", True), ("int8", True)])
def test_below_f32_a_class_may_win_that_torch_finds_half_as_likely(precision: str, likely: bool) -> None:
    engine = FakeEngine()
    engine.precision = precision
    scores = int(fake_classifier(engine).scores(export.SAMPLE.read_bytes()).class_ids[0])
    close = fake_classifier(engine, record=golden((9, 0.5), (scores, 0.26)))
    if likely:
        close.check_golden_image()
    else:
        with pytest.raises(GoldenImageFailed):
            close.check_golden_image()
    with pytest.raises(GoldenImageFailed):
        fake_classifier(engine, record=golden((9, 0.5), (scores, 0.24))).check_golden_image()
    fake_classifier(engine, record=golden((scores, 0.5), (9, 0.5))).check_golden_image()


def test_the_golden_image_catches_nan() -> None:
    class Broken(FakeEngine):
        def infer(self, pixels, *, features=False, exclusive=False):  # type: ignore[no-untyped-def]
            return np.full((1, 10), np.nan, np.float32), None

    with pytest.raises(GoldenImageFailed):
        fake_classifier(Broken()).check_golden_image()


def test_packed_scores_unpack_to_the_same() -> None:
    scores = fake_classifier(FakeEngine()).scores(makers.encode(makers.flat((300, 200)), "WEBP"))
    packed = scores.pack()
    for wrong in (packed[:-1], packed + b"\0", packed[:-12], packed + bytes(12)):
        with pytest.raises(ValueError, match="packed"):
            Scores.unpack(wrong, 10)
    again = Scores.unpack(packed, 10)
    assert (again.class_ids == scores.class_ids).all()
    assert (again.confidences == scores.confidences).all()
    assert again.groups == scores.groups != ()
    assert (again.format, again.width, again.height) == ("WEBP", 300, 200)


@given(st.binary(max_size=200) | st.integers(0, 99).map(lambda size: b"eye3" + bytes(size)), st.integers(1, 20))
def test_other_bytes_are_not_unpacked(data: bytes, classes: int) -> None:
    if len(data) == 28 + 8 * classes and data.startswith(b"eye3"):  # without groups
        return
    with pytest.raises(ValueError, match="packed"):
        Scores.unpack(data, classes)
