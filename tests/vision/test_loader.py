"""The choice between f32, bf16 and ncnn: by measurement, whatever the processor reports."""

import json
import logging
import sys
from collections.abc import Callable
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eyespot.errors import EngineUnavailable, ExportRefused
from eyespot.vision import loader
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import Engine, Features, Logits, Pixels
from eyespot.vision.engines.openvino import has_bf16
from eyespot.vision.export import Export
from tests.serving import EVAL, ROOT, golden, serve_process

MANIFEST = ROOT / "weights" / "manifest.toml"
RECORD = golden((3, 0.9), (4, 0.05))
Events = Callable[[], list[tuple[str, dict[str, Any]]]]


class Timed:
    """An engine that always recognises one class, and moves a clock by its milliseconds."""

    def __init__(self, name: str, precision: str, milliseconds: float, recognises: int, now: list[float]) -> None:
        self.name, self.precision = name, precision
        self._milliseconds, self._recognises, self._now = milliseconds, recognises, now

    def infer(
        self, pixels: Pixels, *, features: bool = False, exclusive: bool = False
    ) -> tuple[Logits, Features | None]:
        self._now[0] += self._milliseconds / 1000
        return np.eye(10, dtype=np.float32)[[self._recognises]] * 9, None


class Machine:
    """A processor on which an inference takes so many milliseconds; None cannot compile, an error has no ncnn."""

    def __init__(
        self,
        f32: float,
        bf16: float | None = None,
        ncnn: float | Exception = 99,
        recognises: int = 3,
        others: tuple[str, ...] = ("bf16",),
    ) -> None:
        self.times: dict[str, float | Exception | None] = {"f32": f32, "bf16": bf16, "ncnn": ncnn}
        self.recognises, self.others = recognises, others
        self.now = [0.0]
        self.loaded: list[str] = []

    def load(self, name: str) -> Engine:
        self.loaded.append(name)
        milliseconds = self.times[name]
        if milliseconds is None:
            raise RuntimeError("Exception from src/core.cpp:131:\nSupported primitive descriptors list is empty\n")
        if isinstance(milliseconds, Exception):
            raise milliseconds
        engine, precision = ("ncnn", "f32") if name == "ncnn" else ("openvino", name)
        return Timed(engine, precision, milliseconds, 3 if name == "f32" else self.recognises, self.now)

    @property
    def loads(self) -> dict[str, loader.Load]:
        return {name: partial(self.load, name) for name in ("f32", *self.others)}

    def choose(self, data_dir: Path, platform: str = "this processor", record: Export = RECORD) -> str:
        chosen, _ = loader.load_fastest(self.loads, record, platform, data_dir, clock=lambda: self.now[0])
        return "ncnn" if chosen.name == "ncnn" else chosen.precision


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
    figures = {"engine": "openvino", "precision": "bf16", "f32_ms": 31.0, "bf16_ms": 16.0, "golden": True}
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
    assert machine.loaded == ["bf16", "f32"]
    machine.times.update(f32=1, bf16=2)
    assert machine.choose(tmp_path) == "bf16"
    assert machine.loaded == ["bf16", "f32", "bf16"]
    assert machine.choose(tmp_path, platform="another processor") == "f32"
    other = RECORD.model_copy(update={"files": {"model.bin": "1" * 64}})
    assert machine.choose(tmp_path, record=other) == "f32"
    assert machine.choose(tmp_path) == "bf16"
    assert len(json.loads((tmp_path / "precision.json").read_text())) == 3


def test_a_kept_choice_that_no_longer_compiles_is_compared_again(tmp_path: Path) -> None:
    machine = Machine(31, 16)
    assert machine.choose(tmp_path) == "bf16"
    machine.times["bf16"] = None
    assert machine.choose(tmp_path) == "f32"
    machine.times["bf16"] = 16
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
    assert machine.loaded == ["bf16", "f32"] * 2


ALL = ("bf16", "ncnn")
MISSING = EngineUnavailable("exporting for ncnn needs `pip install eyespot[models]`")
REFUSED = ExportRefused("net could not be exported: ncnn and torch differ by 1 in a logit")


@pytest.mark.parametrize(
    ("machine", "chosen", "loaded"),
    [
        (Machine(33, 17, 25, others=ALL), "bf16", ["bf16", "f32"]),  # no export for ncnn is made
        (Machine(33, 32, 25, others=ALL), "ncnn", ["bf16", "f32", "ncnn"]),
        (Machine(33, None, 25, others=ALL), "ncnn", ["bf16", "f32", "ncnn"]),
        (Machine(33, None, 31, others=ALL), "f32", ["bf16", "f32", "ncnn"]),
        (Machine(33, ncnn=25, others=("ncnn",)), "ncnn", ["ncnn", "f32"]),
        (Machine(33, ncnn=25, recognises=7, others=("ncnn",)), "f32", ["ncnn", "f32"]),
        (Machine(33, 32, MISSING, others=ALL), "f32", ["bf16", "f32", "ncnn"]),
        (Machine(33, 32, REFUSED, others=ALL), "f32", ["bf16", "f32", "ncnn"]),
    ],
)
def test_ncnn_is_chosen_if_bf16_is_not_and_it_is_faster_and_right(
    machine: Machine, chosen: str, loaded: list[str], tmp_path: Path
) -> None:
    assert machine.choose(tmp_path) == chosen
    assert machine.loaded == loaded


@pytest.mark.parametrize(("ncnn", "chosen", "later"), [(25, "ncnn", ["ncnn"]), (31, "f32", ["f32"])])
def test_a_later_start_loads_the_winner_alone(ncnn: float, chosen: str, later: list[str], tmp_path: Path) -> None:
    machine = Machine(33, 32, ncnn, others=ALL)
    machine.choose(tmp_path)
    machine.loaded.clear()
    assert machine.choose(tmp_path) == chosen
    assert machine.loaded == later


def test_an_engine_that_loads_but_fails_does_not_stop_the_server(tmp_path: Path, events: Events) -> None:
    class Failing(Timed):
        def infer(self, *_: object, **__: object) -> tuple[Logits, None]:
            raise RuntimeError("ncnn could not compute out0: status -100")

    loads = {"f32": Machine(33).loads["f32"], "ncnn": lambda: Failing("ncnn", "f32", 25, 3, [0.0])}
    chosen, _ = loader.load_fastest(loads, RECORD, "this processor", tmp_path)
    assert chosen.name == "openvino"
    assert events()[0][0] == "ncnn_unavailable"


def test_a_comparison_that_other_programs_disturbed_is_made_again(tmp_path: Path) -> None:
    machine, seconds = Machine(33, 17), chain([33, 17], repeat(60))

    def disturbed() -> float:
        machine.now[0] += next(seconds)
        return machine.now[0]

    loader.load_fastest(machine.loads, RECORD, "this processor", tmp_path, clock=disturbed)
    machine.loaded.clear()
    assert machine.choose(tmp_path) == "bf16"
    assert machine.loaded == ["bf16", "f32"]


@pytest.mark.parametrize("why", [MISSING, REFUSED])  # an exporter that was killed is refused too
def test_what_cannot_be_had_is_logged_and_tried_again(why: Exception, tmp_path: Path, events: Events) -> None:
    machine = Machine(33, ncnn=why, others=("ncnn",))
    assert machine.choose(tmp_path) == "f32"
    assert events() == [("ncnn_unavailable", {"reason": str(why)})]
    machine.times["ncnn"] = 25
    assert machine.choose(tmp_path) == "ncnn"
    figures = {"engine": "ncnn", "precision": "f32", "f32_ms": 33.0, "ncnn_ms": 25.0, "golden": True}
    assert events()[1:] == [("precision_compared", figures)]
    machine.times["ncnn"] = why  # with its export
    assert machine.choose(tmp_path) == "f32"
    assert len(events()) == 3


def test_what_earlier_versions_kept_is_read(tmp_path: Path) -> None:
    kept = {"f32_ms": 31.0, "bf16_ms": 16.0, "golden": True}
    (tmp_path / "precision.json").write_text(json.dumps({f"this processor, {RECORD.identity}": kept}))
    machine = Machine(31, 99, 25, others=ALL)
    assert machine.choose(tmp_path) == "bf16"
    assert machine.loaded == ["bf16"]


def test_the_packaged_model_is_not_compared_with_ncnn(data_dir: Path) -> None:
    model = Classifier.open(MANIFEST, "efficientnet-lite0", precision="f32", data_dir=data_dir)
    assert (model.info.engine, model.comparison) == ("openvino", None)


@pytest.mark.needs("eval")
@pytest.mark.needs("make test-all")
def test_a_real_resnet_is_compared_once(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "exports").symlink_to(data_dir / "exports")

    def start(**options: str) -> Classifier:
        return Classifier.open(
            EVAL / "manifest.toml", "resnet18-eval", **{"precision": "f32", **options}, data_dir=tmp_path
        )

    first = start()
    assert first.comparison
    assert first.comparison.ncnn_ms
    assert first.comparison.golden
    assert first.info.engine == ("ncnn" if first.comparison.is_worth_it else "openvino")
    again = start()
    assert (again.info, again.comparison) == (first.info, first.comparison)
    assert start(engine="openvino").comparison is None


@pytest.mark.needs("eval")
@pytest.mark.parametrize("missing", ["ncnn", "pnnx"])
def test_without_ncnn_or_what_exports_for_it_openvino_serves(
    data_dir: Path, tmp_path: Path, events: Events, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    Classifier.open(EVAL / "manifest.toml", "resnet18-eval", engine="openvino", precision="f32", data_dir=data_dir)
    (tmp_path / "exports").mkdir()
    for place in (data_dir / "exports").glob("resnet18-eval-*-openvino"):
        (tmp_path / "exports" / place.name).symlink_to(place)
    monkeypatch.setitem(sys.modules, missing, None)
    model = Classifier.open(EVAL / "manifest.toml", "resnet18-eval", precision="f32", data_dir=tmp_path)
    assert (model.info.engine, model.info.precision) == ("openvino", "f32")
    reason = f"exporting for ncnn needs `pip install eyespot[models]`: no {missing}"
    assert [found for found in events() if found[0] != "export_started"][-1:] == [
        ("ncnn_unavailable", {"reason": reason})
    ]


def test_bf16_by_name_is_an_error_if_it_is_unavailable(data_dir: Path) -> None:
    if has_bf16():
        with pytest.raises(EngineUnavailable, match="cannot run this model in bf16"):
            loader.load_allowed("bf16", Machine(31, None).loads, RECORD, data_dir)
    else:
        with pytest.raises(EngineUnavailable, match="this processor has no bf16"):
            Classifier.open(MANIFEST, "efficientnet-lite0", precision="bf16", data_dir=data_dir)


def test_f32_that_does_not_compile_is_an_error_beside_ncnn_too(tmp_path: Path) -> None:
    machine = Machine(33, others=("ncnn",))
    machine.times["f32"] = None
    with pytest.raises(EngineUnavailable, match="cannot run this model in f32"):
        loader.load_allowed("f32", machine.loads, RECORD, tmp_path)


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
