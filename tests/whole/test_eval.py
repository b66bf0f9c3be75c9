"""A real ResNet-18 and 200 labelled photographs, through HTTP; the figures are those of ../shared/eval/README.md."""

import csv
import io
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from eyespot.types import Calibration
from eyespot.vision import fitting, samples
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import Confidences, softmax
from eyespot.vision.engines.openvino import has_bf16
from eyespot.vision.evaluation import report
from eyespot.vision.preprocess import REDUCED_SIDE, preprocess
from eyespot.vision.weights import read_manifest
from tests import makers
from tests.serving import EVAL, EYESPOT, ROOT, Served, environment, run

pytestmark = pytest.mark.needs("eval")
slow = pytest.mark.needs("make test-all")


@cache
def photographs() -> list[tuple[Path, int]]:
    with (EVAL / "labels.csv").open() as file:
        return [(EVAL / row["file"], int(row["class_id"])) for row in csv.DictReader(file)]


@cache
def reference() -> list[tuple[int, float]]:
    """Top-1 and its probability, as torch and torchvision's transforms have them."""
    with (EVAL / "reference_top5.csv").open() as file:
        tops = [row["top1"].split(":") for row in csv.DictReader(file)]
    return [(int(class_id), float(confidence)) for class_id, confidence in tops]


def top5(served: Served) -> list[dict[int, float]]:
    """The five likeliest classes of each photograph, likeliest first."""

    def ask(photograph: tuple[Path, int]) -> dict[int, float]:
        reply = client.post("/predict?top_k=5", files={"file": photograph[0].read_bytes()})
        assert reply.status_code == 200
        return {found["class_id"]: found["confidence"] for found in reply.json()["predictions"]}

    with served.client(limits=httpx.Limits(max_connections=4)) as client, ThreadPoolExecutor(4) as callers:
        return list(callers.map(ask, photographs()))


def answers_of(model: Classifier, every: int = 1) -> list[dict[int, float]]:
    """The same without a server, for every so many photographs."""
    seen = [model.classify(path.read_bytes(), 5) for path, _ in photographs()[::every]]
    return [{found.class_id: found.confidence for found in predictions} for predictions in seen]


def agreement(answers: list[dict[int, float]], every: int = 1) -> tuple[int, float]:
    """Top-1s that are the reference's, and the worst difference of a top confidence."""
    pairs = list(zip(answers, reference()[::every], strict=True))
    same = sum(next(iter(answer)) == best for answer, (best, _) in pairs)
    worst = max(abs(answer.get(best, 0) - p) for answer, (best, p) in pairs)
    return same, worst


def accuracy(answers: list[dict[int, float]]) -> tuple[float, float]:
    truth = [class_id for _, class_id in photographs()]
    top1 = np.mean([next(iter(answer)) == true for answer, true in zip(answers, truth, strict=True)])
    top5 = np.mean([true in answer for answer, true in zip(answers, truth, strict=True)])
    return float(top1), float(top5)


def test_openvino_in_float32_answers_as_torch_does(eval_server: Served) -> None:
    answers = top5(eval_server)
    same, worst = agreement(answers)
    top1, in_five = accuracy(answers)
    print(f"same top-1 {same}/200, worst difference {worst:.4f}, top-1 {top1}, top-5 {in_five}")
    assert same >= 199
    assert worst <= 0.03
    assert top1 >= 0.785
    assert in_five >= 0.945


def test_the_stand_in_is_as_good_as_it_says(server: Served) -> None:
    top1, in_five = accuracy(top5(server))
    print(f"top-1 {top1}, top-5 {in_five}")
    assert top1 >= 0.87
    assert in_five >= 0.97


@pytest.mark.needs("make test-all")
@pytest.mark.parametrize("engine", ["torch", "ncnn", "onnxruntime", "torchscript"])
def test_the_other_engines_answer_as_the_reference_does(data_dir: Path, engine: str) -> None:
    # One thread: on busy cores the second one of torch cost ten times what it gained.
    model = Classifier.open(EVAL / "manifest.toml", "resnet18-eval", engine=engine, data_dir=data_dir)
    assert (model.info.engine, model.info.precision) == (engine, "f32")
    answers = answers_of(model, every=3)
    same, worst = agreement(answers, every=3)
    print(f"{engine}: same top-1 {same}/{len(answers)}, worst difference {worst:.4f}")
    assert same >= len(answers) - 1
    assert worst <= 0.03


@pytest.mark.needs("make test-all")
def test_bf16_keeps_the_top1_of_the_reference(data_dir: Path) -> None:
    if not has_bf16():
        pytest.skip("this processor does not compute in bf16 natively")
    manifest = EVAL / "manifest.toml"
    model = Classifier.open(manifest, "resnet18-eval", precision="bf16", data_dir=data_dir, latency_threads=2)
    same, worst = agreement(answers_of(model))
    print(f"same top-1 {same}/200, worst difference {worst:.4f}")
    assert same >= 197


@pytest.mark.needs("make test-all")
def test_int8_from_other_photographs_keeps_the_top1_of_the_reference(
    eval_server: Served, data_dir: Path, tmp_path: Path
) -> None:
    """By `eyespot quantize`, from half of them for the sake of time.

    The server has made the float32 export that it starts from.
    """
    (tmp_path / "exports").mkdir()
    for place in (data_dir / "exports").glob("resnet18-eval-*-openvino"):
        (tmp_path / "exports" / place.name).symlink_to(place)
    settings = {"EYESPOT_MODEL": "resnet18-eval", "EYESPOT_DATA_DIR": str(tmp_path)}
    subprocess.run(
        [EYESPOT, "quantize", "--images", EVAL / "calibration", "--limit", "99"],
        env=environment(EYESPOT_MANIFEST=str(EVAL / "manifest.toml"), **settings),
        check=True,
        timeout=600,
    )
    model = Classifier.open(
        EVAL / "manifest.toml", "resnet18-eval", precision="int8", data_dir=tmp_path, latency_threads=2
    )
    answers = answers_of(model)
    same, worst = agreement(answers)
    top1, in_five = accuracy(answers)
    print(f"same top-1 {same}/200, worst difference {worst:.4f}, top-1 {top1}, top-5 {in_five}")
    assert same >= 188
    assert top1 >= accuracy([{best: p} for best, p in reference()])[0] - 0.01


def confidences(model: Classifier, data: bytes, reduced_side: float) -> Confidences:
    """In the order of class_id; `reduced_side` is that of `preprocess`."""
    pixels = preprocess(data, model.recipe, max_pixels=model.card.limits.max_pixels, reduced_side=reduced_side).pixels
    return softmax(model.engine.infer(pixels[None])[0][0])


@pytest.mark.needs("make test-all")
def test_large_jpegs_are_recognised_as_at_full_scale(data_dir: Path) -> None:
    """Enlarged to a short side of 1,501 pixels, decoded at half of that, and some to 3,001, decoded at a quarter."""
    model = Classifier.open(EVAL / "manifest.toml", "resnet18-eval", threads=2, data_dir=data_dir)
    same, close = [], []
    for number, (path, _) in enumerate(photographs()[::4]):
        small = Image.open(path).convert("RGB")
        factor = (1501 if number % 5 else 3001) / min(small.size)
        size = tuple(min(round(side * factor), 8001) for side in small.size)
        data = makers.encode(small.resize(size, Image.Resampling.BICUBIC), quality=90)  # type: ignore[arg-type]
        reduced, full = (confidences(model, data, side) for side in (REDUCED_SIDE, 1000))
        best = int(full.argmax())
        same.append(int(reduced.argmax()) == best)
        close.append(abs(float(reduced[best] - full[best])) <= 0.02)
    print(f"same top-1 {np.mean(same)}, within 0.02 {np.mean(close)} of {len(same)}")
    assert np.mean(same) >= 0.98
    assert np.mean(close) >= 0.95


def test_calibration_photographs_are_all_readable(eval_server: Served) -> None:
    with eval_server.client() as client:
        photographs = sorted((EVAL / "calibration").glob("*.jpg"))[::20]
        assert photographs
        for path in photographs:
            reply = client.post("/predict", content=path.read_bytes())
            assert reply.status_code == 200
            with Image.open(io.BytesIO(path.read_bytes())) as image:
                assert reply.json()["image"]["width"] == image.width


@slow
@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize(
    ("model", "calibrated"), [("resnet18-eval", "resnet18"), ("efficientnet-lite0", "efficientnet-lite0")]
)
def test_what_is_said_is_right(data_dir: Path, model: str, calibrated: str, precision: str) -> None:
    """With the numbers of the manifest, on the 200 photographs they were not fitted on."""
    if precision == "bf16" and not has_bf16():
        pytest.skip("this processor has no bf16")
    opened, used = calibrated_model(model, calibrated, precision, data_dir)
    found = report([(samples.read(opened, EVAL / "images").samples.candidates(used.temperature), used)])
    print(model, precision, found)
    assert found.said_right.value >= 0.95
    assert found.said.value >= 0.85


@slow
@pytest.mark.parametrize(
    ("model", "calibrated"), [("resnet18-eval", "resnet18"), ("efficientnet-lite0", "efficientnet-lite0")]
)
def test_the_numbers_of_the_manifest_are_fitted(data_dir: Path, model: str, calibrated: str) -> None:
    opened, used = calibrated_model(model, calibrated, "f32", data_dir)
    fitted = fitting.fit(samples.read(opened, EVAL / "calibration").samples)
    assert fitted.temperature == pytest.approx(used.temperature, abs=0.05)
    assert fitted.min_says == pytest.approx(used.min_says, abs=0.03)


@slow
def test_an_evaluation_has_the_figures_of_the_reference(data_dir: Path, tmp_path: Path) -> None:
    """bf16 is compared where this processor has it, and left out elsewhere."""
    settings = {"EYESPOT_MANIFEST": str(EVAL / "manifest.toml"), "EYESPOT_MODEL": "resnet18-eval"}
    words = ["evaluate", str(EVAL / "labels.csv"), "--compare", "f32,bf16", "--output", "report"]
    done = run(*words, cwd=tmp_path, EYESPOT_DATA_DIR=str(data_dir), **settings)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "200 images" in done.stdout
    right = accuracy([{best: p} for best, p in reference()])[0]
    assert re.search(rf"top-1 accuracy +│ ({right:.1%}|{right - 0.005:.1%}|{right + 0.005:.1%}) \(", done.stdout)
    assert re.search(r"top-5 accuracy +│ 9[45]\.\d% \(", done.stdout)
    assert ("McNemar" in done.stdout) == has_bf16()
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 24
    for name in ("confusion.png", "reliability.png"):
        with Image.open(tmp_path / "report" / name) as image:
            assert min(image.size) > 500


def calibrated_model(model: str, calibrated: str, precision: str, data_dir: Path) -> tuple[Classifier, Calibration]:
    """The model, and the calibration that the packaged manifest has for the weights it stands for."""
    packaged = ROOT / "weights" / "manifest.toml"
    manifest = EVAL / "manifest.toml" if model == "resnet18-eval" else packaged
    opened = Classifier.open(manifest, model, precision=precision, data_dir=data_dir, latency_threads=2)
    return opened, read_manifest(packaged)[calibrated].calibration[precision]
