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
from eyespot.vision.classifier import Classifier, Scores
from eyespot.vision.engines import softmax
from eyespot.vision.engines.openvino import has_bf16
from tests import makers
from tests.serving import ROOT, FakeEngine, fake_classifier, golden

MANIFEST = ROOT / "weights" / "manifest.toml"
CATS = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat", "cougar", "lynx"}


@pytest.fixture(scope="module")
def classifier(data_dir: Path) -> Classifier:
    return Classifier.open(MANIFEST, "efficientnet-lite0", precision="f32", data_dir=data_dir, latency_threads=2)


@pytest.fixture(scope="module")
def reference(data_dir: Path) -> Classifier:
    return Classifier.open(MANIFEST, "efficientnet-lite0", engine="torch", data_dir=data_dir, threads=2)


@pytest.mark.parametrize(
    ("name", "labels"), [("chelsea", CATS), ("coffee", {"espresso", "cup", "coffee mug"}), ("rocket", {"missile"})]
)
def test_photographs_are_recognised(classifier: Classifier, name: str, labels: set[str]) -> None:
    assert {found.label for found in classifier.classify(makers.jpeg(name))} & labels
    assert classifier.classify(makers.jpeg(name), top_k=1)[0].label in labels | {"projectile"}


@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket", "astronaut", "hubble_deep_field", "retina"])
def test_engines_and_imaging_agree_with_torch_and_torchvision(
    classifier: Classifier, reference: Classifier, name: str
) -> None:
    """The reference: torchvision's own transforms, and torch."""
    data = makers.jpeg(name)
    bicubic = transforms.InterpolationMode.BICUBIC
    view = transforms.Compose([transforms.Resize(256, interpolation=bicubic), transforms.CenterCrop(224)])
    pixels = np.asarray(view(Image.open(io.BytesIO(data)).convert("RGB")))
    expected = softmax(reference.engine.infer(pixels[None])[0][0])
    best = int(expected.argmax())
    for seen in (classifier.scores(data), reference.scores(data)):
        assert seen.class_ids[0] == best
        assert abs(float(seen.confidences[0] - expected[best])) <= 0.03


@pytest.mark.parametrize("orientation", makers.ORIENTATIONS)
def test_a_photograph_is_the_same_in_every_orientation(classifier: Classifier, orientation: int) -> None:
    upright = classifier.classify(makers.encode(makers.photograph("coffee"), quality=95), 1)[0]
    turned = classifier.classify(makers.turned(makers.photograph("coffee"), orientation, quality=95), 1)[0]
    assert turned.label == upright.label
    assert abs(turned.confidence - upright.confidence) <= 0.05


def test_many_threads_get_their_own_answers(classifier: Classifier) -> None:
    names = ["chelsea", "coffee", "rocket", "astronaut"] * 6
    alone = {name: classifier.classify(makers.jpeg(name)) for name in set(names)}
    together: dict[int, object] = {}

    def work(i: int) -> None:
        together[i] = classifier.classify(makers.jpeg(names[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(together[i] == alone[name] for i, name in enumerate(names))


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


def test_a_network_that_was_asked_for_by_name_is_no_stand_in(classifier: Classifier) -> None:
    assert not classifier.card.stand_in


def test_a_named_network_without_weights_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.toml").write_text(MANIFEST.read_text())
    with pytest.raises(WeightsMissing, match="resnet18-f37072fd"):
        Classifier.open(tmp_path / "manifest.toml", "resnet18")


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"precision": "int8"}, "eyespot quantize"),
        ({"engine": "torch", "precision": "int8"}, "torch computes in f32"),
        ({"engine": "onnxruntime", "precision": "bf16"}, "onnxruntime computes in f32"),
    ],
)
def test_what_cannot_be_had_is_an_error(tmp_path: Path, choice: dict[str, str], reason: str) -> None:
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
    expected, seen = reference.scores(data), bf16.scores(data)
    confidence = dict(zip(expected.class_ids.tolist(), expected.confidences.tolist(), strict=True))
    assert confidence[int(seen.class_ids[0])] >= expected.confidences[0] / 2
    assert abs(float(seen.confidences[0]) - confidence[int(seen.class_ids[0])]) <= 0.05


@pytest.mark.needs("make test-all")
@pytest.mark.parametrize("engine", ["onnxruntime", "torchscript"])
def test_the_engines_that_people_ask_for_answer_as_torch_does(
    reference: Classifier, data_dir: Path, engine: str
) -> None:
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


def test_an_image_that_is_alone_is_computed_so_and_two_at_once_are_not() -> None:
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


def test_the_golden_image_is_not_held_to_the_limits_of_a_request() -> None:
    fake_classifier(FakeEngine(), max_pixels=1024, formats=["png"]).check_golden_image()


def test_the_golden_image_goes_through_both_forms_of_the_engine() -> None:
    engine = FakeEngine()
    fake_classifier(engine).check_golden_image()
    assert engine.exclusive == [True, False]


def test_the_golden_image_catches_a_network_that_sees_something_else() -> None:
    fake = fake_classifier(FakeEngine(), record=golden((9, 0.5), (4, 0.4)))
    with pytest.raises(GoldenImageFailed, match="class 9"):
        fake.check_golden_image()


@pytest.mark.parametrize(("precision", "likely"), [("f32", False), ("bf16", True), ("int8", True)])
def test_less_precision_may_take_a_class_that_torch_finds_half_as_likely(precision: str, likely: bool) -> None:
    engine = FakeEngine()
    engine.precision = precision
    seen = int(fake_classifier(engine).scores(export.SAMPLE.read_bytes()).class_ids[0])
    close = fake_classifier(engine, record=golden((9, 0.5), (seen, 0.26)))
    if likely:
        close.check_golden_image()
    else:
        with pytest.raises(GoldenImageFailed):
            close.check_golden_image()
    with pytest.raises(GoldenImageFailed):
        fake_classifier(engine, record=golden((9, 0.5), (seen, 0.24))).check_golden_image()
    fake_classifier(engine, record=golden((seen, 0.5), (9, 0.5))).check_golden_image()


def test_the_golden_image_catches_what_is_not_a_number() -> None:
    class Broken(FakeEngine):
        def infer(self, pixels, *, features=False, exclusive=False):  # type: ignore[no-untyped-def]
            return np.full((1, 10), np.nan, np.float32), None

    with pytest.raises(GoldenImageFailed):
        fake_classifier(Broken()).check_golden_image()


def test_what_was_seen_is_the_same_when_it_was_packed() -> None:
    seen = fake_classifier(FakeEngine()).scores(makers.encode(makers.flat((300, 200)), "WEBP"))
    packed = seen.pack()
    again = Scores.unpack(packed, 10)
    assert (again.class_ids == seen.class_ids).all()
    assert (again.confidences == seen.confidences).all()
    assert (again.format, again.width, again.height) == ("WEBP", 300, 200)


@given(st.binary(max_size=200) | st.integers(0, 99).map(lambda size: b"eye2" + bytes(size)), st.integers(1, 20))
def test_other_bytes_are_not_unpacked(data: bytes, classes: int) -> None:
    if len(data) == 24 + 8 * classes and data.startswith(b"eye2"):
        return
    with pytest.raises(ValueError, match="packed"):
        Scores.unpack(data, classes)
