"""`eyespot calibrate`, as a process."""

import json
from pathlib import Path

import pytest

from tests import makers
from tests.serving import run

# What the packaged model takes for something else now and then, so that there is something to fit.
FOLDERS = {"chelsea": "虎斑猫", "coffee": "espresso", "rocket": "n03773504"}


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """108 images of three classes, whose folders are named in each of the three ways."""
    folder = tmp_path / "labelled"
    for name, title in FOLDERS.items():
        (folder / title).mkdir(parents=True)
        for number in range(36):
            image = makers.photograph(name)
            left, top = 2 * number, number
            cut = image.crop((left, top, image.width - 2 * number, image.height - number))
            (folder / title / f"{number}.jpg").write_bytes(makers.encode(cut))
    return folder


def test_a_calibration_is_measured_kept_and_used(tmp_path: Path, labelled: Path, packaged: dict[str, str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "exports").symlink_to(Path(packaged["EYESPOT_DATA_DIR"], "exports"))
    settings = {**packaged, "EYESPOT_DATA_DIR": str(tmp_path / "data")}

    def calibration(**others: str) -> dict[str, float]:
        shown = run("model", "--json", cwd=tmp_path, **settings, **others).stdout
        return json.loads(shown)["calibration"]  # type: ignore[no-any-return]

    before = calibration()
    assert before["images"] == 200
    tried = run("calibrate", str(labelled), "--dry-run", cwd=tmp_path, **settings)
    assert tried.returncode == 0, tried.stderr
    assert "108 images" in tried.stdout
    assert "answers right" in tried.stdout
    assert tried.stdout.splitlines()[-1] == "not saved (--dry-run)"
    assert calibration() == before
    done = run("calibrate", str(labelled), cwd=tmp_path, **settings)
    assert "saved to" in done.stdout.splitlines()[-1]
    fitted = calibration()
    assert fitted["images"] == 108
    assert f"min_says = {fitted['min_says']}" in done.stdout
    assert calibration(EYESPOT_MIN_SAYS="0.6") == {**fitted, "min_says": 0.6}


def test_images_without_a_class_are_an_error(tmp_path: Path, labelled: Path, packaged: dict[str, str]) -> None:
    (labelled / "espresso").rename(labelled / "expresso")
    told = run("calibrate", str(labelled), cwd=tmp_path, **packaged)
    assert told.returncode == 2
    assert "36 of 108 images" in told.stderr
    assert "expresso" in told.stderr


def test_labels_that_are_wrong_are_noticed(tmp_path: Path, labelled: Path, packaged: dict[str, str]) -> None:
    """Without a threshold that is enough, nothing is saved: the server would be unsure of everything."""
    for title in FOLDERS.values():
        (labelled / title).rename(labelled / f"was {title}")
    for title, wrong in zip(FOLDERS.values(), ("goldfish", "wok", "zebra"), strict=True):
        (labelled / f"was {title}").rename(labelled / wrong)
    told = run("calibrate", str(labelled), cwd=tmp_path, **packaged)
    assert told.returncode == 2
    assert "are the labels right? Nothing was saved" in told.stderr
    assert not Path(packaged["EYESPOT_DATA_DIR"], "calibrations").exists()


def test_images_to_measure_on_must_be_others(tmp_path: Path, labelled: Path, packaged: dict[str, str]) -> None:
    told = run("calibrate", str(labelled), "--test", str(labelled), cwd=tmp_path, **packaged)
    assert told.returncode == 2
    assert "--test must name other images" in told.stderr
