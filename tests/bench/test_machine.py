from pathlib import Path

import numpy as np
import pytest

from eyespot.bench import machine
from eyespot.bench.figures import EngineFigures, Report, Task
from eyespot.errors import EngineUnavailable, StartError
from tests.bench import fakes


def measured(folder: Path, *, run: machine.Run = fakes.figures, task: Task | None = None, **options: object) -> Report:
    report = Report(0.05)
    list(machine.measure(report, fakes.settings(folder), task or Task(0.05), run=run, **options))  # type: ignore[arg-type]
    return report


def test_every_engine_is_measured_torch_first_or_the_report_says_why_not(tmp_path: Path) -> None:
    tasks: list[Task] = []

    def run(task: Task) -> EngineFigures:
        tasks.append(task)
        if task.precision == "int8":
            raise EngineUnavailable("never quantized")
        return fakes.figures(task)

    report = measured(tmp_path, run=run)
    asked = [(task.engine, task.precision) for task in tasks]
    assert asked[0] == ("torch", "f32")
    assert set(asked) == {
        *(("openvino", "f32"), ("openvino", "bf16"), ("openvino", "int8")),
        *(("torch", "f32"), ("ncnn", "f32"), ("onnxruntime", "f32"), ("torchscript", "f32")),
    }
    assert {task.model for task in tasks} == {"net"}
    assert len({task.reference for task in tasks}) == 1
    assert [(row.engine, row.precision) for row in report.engines] == [pair for pair in asked if pair[1] != "int8"]
    assert report.skipped == {"openvino int8": "never quantized"}
    assert (report.model, report.digest, report.images) == ("net", fakes.DIGEST, 8)


def test_decoding_is_measured_by_format_and_size(tmp_path: Path) -> None:
    report = measured(tmp_path, engines=["torch"])
    assert list(report.decode_ms) == [
        *("JPEG 500 x 375", "JPEG 1600 x 1200", "JPEG 4000 x 3000", "PNG 1000 x 750", "WEBP 1000 x 750")
    ]
    assert min(report.decode_ms.values()) > 0


def test_only_the_engines_that_are_named(tmp_path: Path) -> None:
    report = measured(tmp_path, engines=["torchscript", "torch"])
    assert [row.engine for row in report.engines] == ["torch", "torchscript"]


def test_an_interrupted_measurement_keeps_what_it_has(tmp_path: Path) -> None:
    def run(task: Task) -> EngineFigures:
        if task.engine == "openvino":
            raise KeyboardInterrupt
        return fakes.figures(task)

    report = Report(0.05)
    with pytest.raises(KeyboardInterrupt):
        list(machine.measure(report, fakes.settings(tmp_path), Task(0.05), run=run))
    assert [row.engine for row in report.engines] == ["torch"]


@pytest.mark.parametrize(
    ("task", "engines", "told"),
    [
        (Task(1), ["tensorrt"], "'tensorrt'; known are openvino, ncnn, torch"),
        (Task(1, Path("gone")), [], "gone has no valid"),
    ],
)
def test_what_cannot_be_measured(tmp_path: Path, task: Task, engines: list[str], told: str) -> None:
    with pytest.raises(StartError, match=told):
        measured(tmp_path, task=task, engines=engines)


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(EngineUnavailable, match="no-such-model"):
        machine.run(Task(0.05, model="no-such-model"))


def test_agreement_with_torch(tmp_path: Path) -> None:
    torch, other = Task(1, engine="torch", reference=tmp_path / "torch.npy"), Task(1, reference=tmp_path / "torch.npy")
    expected = np.array([[0.7, 0.3], [0.6, 0.4]], np.float32)
    confidences = np.array([[0.6, 0.4], [0.35, 0.65]], np.float32)
    assert machine.agreement(confidences, other) == (None, None)  # torch has not been measured
    assert machine.agreement(expected, torch) == (1, 0)
    assert machine.agreement(confidences, other) == (0.5, pytest.approx(0.25))
