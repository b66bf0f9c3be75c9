from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from pydantic import TypeAdapter
from typer.testing import CliRunner

from eyespot.bench import machine, server
from eyespot.bench.figures import EngineFigures, LoadFigures, Report
from eyespot.cli.main import app
from eyespot.vision.classifier import Classifier
from tests.serving import ROOT, Served, run


@pytest.mark.needs("make test-all")
def test_a_real_measurement_its_json_and_its_chart(tmp_path: Path, packaged: dict[str, str]) -> None:
    words = ["bench", "--engine", "openvino", "--seconds", "0.05", "--json", "--plot", "speed.png"]
    done = run(*words, cwd=tmp_path, **packaged)
    assert done.returncode == 0, done.stderr
    measured = TypeAdapter(Report).validate_json(done.stdout)
    rows = {row.precision: row for row in measured.engines}
    assert rows["f32"].bound > 0
    assert rows["f32"].memory_mb > 50
    assert rows["f32"].same_top1 is None  # with torch, which was not asked for
    assert [row.precision for row in measured.engines if row.auto] == [chosen_here(packaged)]
    assert [what for what, why in measured.skipped.items() if "eyespot quantize" in why] == ["openvino int8"]
    assert len(measured.decode_ms) == 5
    assert measured.host["openvino"]
    with Image.open(tmp_path / "speed.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 200


def chosen_here(packaged: dict[str, str]) -> str:
    manifest, data_dir = ROOT / "weights" / "manifest.toml", packaged["EYESPOT_DATA_DIR"]
    return Classifier.open(manifest, packaged["EYESPOT_MODEL"], data_dir=data_dir).info.precision


@pytest.mark.needs("make test-all")
def test_a_real_server_beside_the_bound(tmp_path: Path, server: Served, packaged: dict[str, str]) -> None:
    words = ["bench", "--url", server.url, "--seconds", "0.5", "--rounds", "1", "--connections", "2", "--json"]
    done = run(*words, cwd=tmp_path, **packaged)
    assert done.returncode == 0, done.stderr
    measured = TypeAdapter(Report).validate_json(done.stdout)
    (row,) = measured.loads
    assert measured.bound
    assert row.of_bound > 0
    assert (row.connections, row.failures, measured.model) == (2, {}, packaged["EYESPOT_MODEL"])
    assert 0 < row.p50_ms <= row.p99_ms


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--images", "empty"], "empty has no valid JPEG, PNG or WebP image"),
        (["--url", "http://127.0.0.1:9"], "No eyespot answers at http://127.0.0.1:9"),
        (["--plot", "speed.svg"], "speed.svg"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_exit_code_2(
    tmp_path: Path, packaged: dict[str, str], words: list[str], told: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "text.jpg").write_text("no image")
    done = run("bench", *words, cwd=tmp_path, **packaged)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("eyespot: ")]
    assert told in line


def test_help_teaches(tmp_path: Path) -> None:
    done = run("bench", "--help", cwd=tmp_path)
    for word in ("--url", "--images", "--json", "--plot", "Examples", "EYESPOT_MODEL"):
        assert word in done.stdout


def measuring(
    module: object, monkeypatch: pytest.MonkeyPatch, found: EngineFigures | LoadFigures | None, interrupt: bool
) -> None:
    """Let `bench` find this in the place of what it would measure."""

    def measure(report: Report, *_: object) -> Iterator[str]:
        yield "something"
        report.skipped["onnxruntime f32"] = "it is not here"
        report.engines += [found] if isinstance(found, EngineFigures) else []
        report.loads += [found] if isinstance(found, LoadFigures) else []
        if interrupt:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "measure", measure)


@pytest.mark.parametrize("interrupt", [False, True])
def test_when_nothing_could_be_measured_the_exit_code_is_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, interrupt: bool
) -> None:
    measuring(machine, monkeypatch, None, interrupt)
    done = CliRunner().invoke(app, ["bench", "--plot", str(tmp_path / "speed.png")])
    assert done.exit_code == 1
    assert not (tmp_path / "speed.png").exists()
    assert "it is not here" in done.stdout
    assert ("Interrupted" in done.stdout) == interrupt


def test_ctrl_c_shows_what_was_measured_until_then(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(machine, monkeypatch, EngineFigures("torch", "f32", 12.5, 600), True)
    done = CliRunner().invoke(app, ["bench"])
    assert done.exit_code == 0
    assert "12.5" in done.stdout
    assert "Interrupted" in done.stdout


@pytest.mark.parametrize("rate", [0, 7])
def test_a_server_that_recognised_nothing_was_not_measured(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    measuring(server, monkeypatch, LoadFigures(1, rate, 1, 1, {}), False)
    assert CliRunner().invoke(app, ["bench", "--url", "http://server"]).exit_code == (0 if rate else 1)
