import io
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from rich.console import Console

from eyespot.bench import report
from eyespot.bench.figures import EngineFigures, LoadFigures, Report
from eyespot.errors import EngineUnavailable, StartError

ENGINES = [EngineFigures("torch", "f32", 50, 600), EngineFigures("openvino", "f32", 123.4, 250, 18, 9, 1, 1e-6, True)]
LOADS = [LoadFigures(8, 1234.5, 0.25, 12.34, {"503": 2}, 0.934), LoadFigures(1, 0, float("nan"), float("nan"), {})]


def shown(found: Report) -> str:
    console = Console(width=120, file=io.StringIO(), record=True)
    report.show(found, console)
    return console.export_text()


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_the_figures_of_engines() -> None:
    text = shown(Report(1, model="net", engines=ENGINES, decode_ms={"JPEG 500 x 375": 4}, skipped={"a b": "gone"}))
    assert rows(text) == [
        ["torch", "f32", "50", "600", "", "", "", "", ""],
        ["openvino", "f32", "123.4", "250", "18", "9", "1", "1e-06", "*"],
        ["JPEG 500 x 375", "4"],
    ]
    assert "a b was not measured: gone" in text
    assert "Interrupted" not in text


def test_the_figures_of_a_server() -> None:
    text = shown(Report(1, "http://server", 3, loads=LOADS, bound=1300, interrupted=True))
    assert rows(text) == [
        ["8", "1,234.5", "0.25", "12.3", "2 x 503", "0.934"],
        ["1", "0", "", "", "0", ""],
    ]
    assert "http://server" in text
    assert "Interrupted" in text


def test_it_survives_json() -> None:
    kind = TypeAdapter(Report)
    found = Report(1, model="net", engines=ENGINES, loads=LOADS[:1])
    assert kind.validate_json(kind.dump_json(found)) == found
    assert b'"p50_ms":null' in kind.dump_json(Report(1, loads=LOADS))


@pytest.mark.parametrize("name", ["speed.svg", "gone/speed.png"])
def test_a_chart_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(StartError, match=name):
        report.check_chart(tmp_path / name)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with pytest.raises(EngineUnavailable, match=r"eyespot\[plot\]"):
        report.check_chart(tmp_path / "speed.png")
