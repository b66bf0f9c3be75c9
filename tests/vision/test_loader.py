"""The choice between f32 and bf16: by measurement, whatever the processor reports."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eyespot.errors import EngineUnavailable
from eyespot.vision import loader
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import Engine, Features, Logits, Pixels
from eyespot.vision.engines.openvino import has_bf16
from eyespot.vision.export import Export
from tests.serving import ROOT, golden, serve_process

MANIFEST = ROOT / "weights" / "manifest.toml"
RECORD = golden((3, 0.9), (4, 0.05))
Events = Callable[[], list[tuple[str, dict[str, Any]]]]


class Timed:
    """An engine that always recognises one class, and moves a clock by its milliseconds."""

    name = "openvino"

    def __init__(self, precision: str, milliseconds: float, recognises: int, now: list[float]) -> None:
        self.precision = precision
        self._milliseconds, self._recognises, self._now = milliseconds, recognises, now

    def infer(
        self, pixels: Pixels, *, features: bool = False, exclusive: bool = False
    ) -> tuple[Logits, Features | None]:
        self._now[0] += self._milliseconds / 1000
        return np.eye(10, dtype=np.float32)[[self._recognises]] * 9, None


class Machine:
    """A processor on which an inference takes `f32` or `bf16` milliseconds; None cannot compile bf16."""

    def __init__(self, f32: float, bf16: float | None, recognises: int = 3) -> None:
        self.f32, self.bf16, self.recognises = f32, bf16, recognises
        self.now = [0.0]
        self.loaded: list[bool] = []

    def load(self, bf16: bool) -> Engine:
        self.loaded.append(bf16)
        if not bf16:
            return Timed("f32", self.f32, 3, self.now)
        if self.bf16 is None:
            raise RuntimeError("Exception from src/core.cpp:131:\nSupported primitive descriptors list is empty\n")
        return Timed("bf16", self.bf16, self.recognises, self.now)

    def choose(self, data_dir: Path, platform: str = "this processor", record: Export = RECORD) -> str:
        return loader.load_fastest(self.load, record, platform, data_dir, clock=lambda: self.now[0])[0].precision


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Events:
    logging.getLogger("eyespot").propagate = True
    caplog.set_level("INFO", "eyespot")
    return lambda: [(record.getMessage(), record.facts) for record in caplog.records]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("machine", "chosen"),
    [
        (Machine(25, 4.4), "bf16"),
        (Machine(31, 16), "bf16"),
        (Machine(25, 35), "f32"),
        (Machine(25, 24), "f32"),  # not worth its rounding
        (Machine(25, 4.4, recognises=7), "f32"),  # wrong
        (Machine(25, None), "f32"),
    ],
)
def test_bf16_is_chosen_if_it_is_faster_and_right(machine: Machine, chosen: str, tmp_path: Path) -> None:
    assert machine.choose(tmp_path) == chosen


def test_a_new_comparison_is_logged_with_both_figures(tmp_path: Path, events: Events) -> None:
    for _ in range(2):
        Machine(31, 16).choose(tmp_path)
    figures = {"precision": "bf16", "f32_ms": 31.0, "bf16_ms": 16.0, "golden": True}
    assert events() == [("precision_compared", figures)]


def test_a_model_that_does_not_compile_in_bf16_logs_one_warning(tmp_path: Path, events: Events) -> None:
    for _ in range(2):
        assert Machine(31, None).choose(tmp_path) == "f32"
    (warning, facts), *others = events()
    assert warning == "bf16_unavailable"
    assert "Supported primitive descriptors list is empty" in facts["reason"]
    assert [name for name, _ in others] == ["precision_compared"]


def test_a_comparison_is_kept_for_its_processor_and_export(tmp_path: Path) -> None:
    machine = Machine(31, 16)
    assert machine.choose(tmp_path) == "bf16"
    assert machine.loaded == [False, True]
    machine.f32, machine.bf16 = 1, 2
    assert machine.choose(tmp_path) == "bf16"
    assert machine.loaded == [False, True, True]
    assert machine.choose(tmp_path, platform="another processor") == "f32"
    other = RECORD.model_copy(update={"files": {"model.bin": "1" * 64}})
    assert machine.choose(tmp_path, record=other) == "f32"
    assert machine.choose(tmp_path) == "bf16"
    assert len(json.loads((tmp_path / "precision.json").read_text())) == 3


def test_a_kept_choice_that_no_longer_compiles_is_compared_again(tmp_path: Path) -> None:
    machine = Machine(31, 16)
    assert machine.choose(tmp_path) == "bf16"
    machine.bf16 = None
    assert machine.choose(tmp_path) == "f32"
    machine.bf16 = 16
    assert machine.choose(tmp_path) == "f32"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"this processor": 1}'])
def test_a_damaged_file_is_rewritten(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "precision.json").write_bytes(content)
    assert Machine(31, 16).choose(tmp_path) == "bf16"
    assert [path.name for path in tmp_path.iterdir()] == ["precision.json"]
    assert len(json.loads((tmp_path / "precision.json").read_text())) == 1


def test_without_a_writable_folder_every_start_compares(tmp_path: Path) -> None:
    machine = Machine(31, 16)
    for _ in range(2):
        assert machine.choose(tmp_path / "missing") == "bf16"
    assert machine.loaded == [False, True] * 2


def test_bf16_by_name_is_an_error_if_it_is_unavailable(data_dir: Path) -> None:
    if has_bf16():
        with pytest.raises(EngineUnavailable, match="cannot run this model in bf16"):
            loader.load_openvino("bf16", Machine(31, None).load, RECORD, data_dir)
    else:
        with pytest.raises(EngineUnavailable, match="does not compute in bf16"):
            Classifier.open(MANIFEST, "efficientnet-lite0", precision="bf16", data_dir=data_dir)


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE", ""])
def test_a_server_starts_with_any_instruction_set(packaged: dict[str, str], instructions: str) -> None:
    """OpenVINO still reports bf16 when oneDNN may not use it; with AVX2 the model then does not compile."""
    settings = {**packaged, "EYESPOT_PRECISION": "auto"} | (
        {"ONEDNN_MAX_CPU_ISA": instructions} if instructions else {}
    )
    with serve_process(**settings) as served, served.client() as client:
        model = client.get("/model").json()
    (ready,) = (event for event in served.events if event["event"] == "model_ready")
    assert ready["precision"] == model["precision"]
    assert ("f32_ms" in ready) == has_bf16()
    if instructions or not has_bf16():
        assert model["precision"] == "f32"
