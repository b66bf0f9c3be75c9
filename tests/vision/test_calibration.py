"""Which calibration a model has."""

from pathlib import Path

import pytest

from eyespot.errors import DataDirUnwritable
from eyespot.types import Calibration
from eyespot.vision import calibration
from eyespot.vision.weights import Entry
from tests.serving import RECIPE

F32, BF16, OWN = Calibration(1.1, 0.6, 10), Calibration(1.2, 0.7, 20), Calibration(1.3, 0.8, 30)


def entry(**given: Calibration) -> Entry:
    facts = {"name": "own", "folder": Path(), "architecture": "none", "file": "own.pth", "sha256": "a" * 64, "bytes": 1}
    return Entry(**facts, labels="ten", license="none", recipe=RECIPE, calibration=given)


def test_the_one_fitted_here_comes_before_the_manifest(tmp_path: Path) -> None:
    model = entry(f32=F32, bf16=BF16)
    assert calibration.of(model, "bf16", tmp_path) == BF16
    assert calibration.of(model, "int8", tmp_path) == F32
    assert calibration.of(entry(), "f32", tmp_path) == Calibration()
    calibration.keep(OWN, model.sha256, "bf16", tmp_path)
    assert calibration.of(model, "bf16", tmp_path) == OWN
    assert calibration.of(model, "f32", tmp_path) == F32
    assert calibration.of(entry(f32=F32).model_copy(update={"sha256": "b" * 64}), "bf16", tmp_path) == F32


def test_each_precision_is_kept(tmp_path: Path) -> None:
    model = entry()
    for precision, one in {"f32": F32, "bf16": BF16, "int8": OWN}.items():
        file = calibration.keep(one, model.sha256, precision, tmp_path / "new")
    assert [calibration.of(model, name, tmp_path / "new") for name in ("f32", "bf16", "int8")] == [F32, BF16, OWN]
    assert len(list(file.parent.iterdir())) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"temperature": 0}', '{"temperature": Infinity}'])
def test_a_broken_file_is_told_and_ignored(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    file = calibration.keep(OWN, "a" * 64, "f32", tmp_path)
    file.write_text(content)
    assert calibration.of(entry(f32=F32), "f32", tmp_path) == F32
    assert "calibration_ignored" in caplog.text


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataDirUnwritable, match="EYESPOT_DATA_DIR"):
        calibration.keep(F32, "a" * 64, "f32", tmp_path / "file")
