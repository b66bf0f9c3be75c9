"""`eyespot evaluate`: as a process, and its parts with fake engines."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from eyespot.cli import evaluate
from eyespot.errors import EngineUnavailable, UnlabelledImages
from eyespot.vision.classifier import Classifier
from eyespot.vision.labels import ClassRow, Labels
from tests import makers
from tests.cli.evaluations import Shifted, draw, drawn, made_up, ten
from tests.serving import fake_classifier, run

FOLDERS = {"chelsea": "虎斑猫", "coffee": "espresso", "rocket": "n03773504"}


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A copy, a file that is no image, and one image in two classes, beside two that can be measured."""
    folder = tmp_path / "labelled"
    for name, title in FOLDERS.items():
        (folder / title).mkdir(parents=True)
        (folder / title / "0.jpg").write_bytes(makers.jpeg(name))
    (folder / "espresso" / "copy.jpg").write_bytes(makers.jpeg("coffee"))
    (folder / "espresso" / "broken\x1b[2J.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "zebra").mkdir()
    (folder / "zebra" / "cat.jpg").write_bytes(makers.jpeg("chelsea"))
    return folder


def test_figures_are_printed_and_a_report_is_written(tmp_path: Path, labelled: Path, packaged: dict[str, str]) -> None:
    words = ["evaluate", str(labelled), "--compare", "f32,int8,f32", "--output", "new/report"]
    done = run(*words, cwd=tmp_path, **packaged)
    assert done.returncode == 0, done.stderr
    assert "efficientnet-lite0 (57934424), openvino" in done.stdout
    assert "2 images" in done.stdout
    for row in (
        "top-1 accuracy",
        "top-5 accuracy",
        "answers right",
        "calibration error (ECE)",
        "images/s",
        "inference",
    ):
        assert done.stdout.count(row) == 1
    assert "McNemar" not in done.stdout
    assert "wrote new/report/report.html" in done.stdout
    told = sorted(done.stderr.splitlines())
    assert len(told) == 3
    assert told[0].endswith("broken?[2J.jpg: not a readable image")
    assert "zebra/cat.jpg" in told[1]
    assert "虎斑猫/0.jpg: the same image in different classes, left out" in told[1]
    assert (
        told[2] == "int8 is left out: efficientnet-lite0 has no int8 export; `eyespot quantize --images DIR` makes one"
    )
    names = sorted(path.name for path in (tmp_path / "new" / "report").iterdir())
    assert names == ["confusion.png", "reliability.png", "report.html"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--compare", "f32,f8"], "--compare has 'f8'; the precisions are f32, bf16, int8"),
        (["--compare", ""], "--compare has ''"),
        (["--compare", "int8,f32"], "has no int8 export"),
        (["--output", "photographs"], "photographs/confusion.png is not from an earlier report; choose another folder"),
        (["--output", "photographs/confusion.png/x"], "cannot write to photographs/confusion.png/x: Not a directory"),
        (["--output", "labelled/report"], "--output must not be inside the folder that is evaluated"),
        (["--output", "/proc"], "cannot write to /proc: "),
        (["--precision", "int8"], "EYESPOT_PRECISION=int8 eyespot evaluate"),
    ],
)
def test_what_cannot_be_done_is_told(
    tmp_path: Path, labelled: Path, packaged: dict[str, str], words: list[str], told: str
) -> None:
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "confusion.png").touch()
    done = run("evaluate", str(labelled), *words, cwd=tmp_path, **packaged)
    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "photographs" / "confusion.png").read_bytes()


def models(**wrong: list[int]) -> Callable[[str], Classifier]:
    """A model in each precision, with the classes that it does not recognise; there are no others."""

    def open_model(precision: str) -> Classifier:
        if precision not in wrong:
            raise EngineUnavailable(f"this processor has no {precision}")
        return fake_classifier(Shifted(precision, wrong[precision]), labels=ten(c9="other"))

    return open_model


def test_precisions_are_compared_with_the_first(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = drawn(tmp_path, ten(c9="other"))
    (folder / "class 1" / "broken.png").touch()
    found = evaluate.run(models(f32=[1], int8=[2, 3, 9]), folder, ["f32", "bf16", "int8"], threads=2)
    told = ["class 1/broken.png: not a readable image", "bf16 is left out: this processor has no bf16"]
    assert capfd.readouterr().err.replace(f"{folder}/", "").splitlines() == told
    rows = {title: cells for title, *cells in evaluate.rows(found)}
    assert rows["top-1 accuracy"] == ["90.0% (69.9–97.2)", "70.0% (48.1–85.5)"]
    assert rows["right where f32 is wrong"] == ["", "2"]
    assert rows["wrong where f32 is right"] == ["", "6"]
    assert rows["p (McNemar)"] == ["", "0.289"]
    assert "answered with a group" not in rows  # these classes have none
    assert rows["unsure, of 'other' images"] == ["100.0% (34.2–100.0)", "0.0% (0.0–65.8)"]
    assert rows["unsure, of all other images"] == ["0.0% (0.0–17.6)"] * 2


def test_without_images_of_none_of_the_classes_nothing_is_refused(tmp_path: Path) -> None:
    folder = drawn(tmp_path, ten(c9="other"))
    shutil.rmtree(folder / "other")
    (folder / "class 8" / "1.png").unlink()
    rows = {title: cells for title, *cells in evaluate.rows(evaluate.run(models(f32=[]), folder, ["f32"], 1))}
    assert rows["unsure, of 'other' images"] == ["-"]
    assert "p (McNemar)" not in rows


def test_only_what_says_something_of_a_model_is_measured() -> None:
    three = Labels(tuple(ClassRow(number, "", f"class {number}") for number in range(3)))
    titles = [row[0] for row in evaluate.rows([made_up([(0, 1), (2, 2)], three)])]
    assert titles == [
        *("top-1 accuracy", "answered", "answers right", "calibration error (ECE)"),
        *("images/s", "inference"),
    ]


def test_the_first_precision_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="no bf16"):
        evaluate.run(models(f32=[]), drawn(tmp_path, ten()), ["bf16", "f32"], 1)


def test_images_that_change_between_precisions_are_an_error(tmp_path: Path) -> None:
    folder = drawn(tmp_path, ten())

    def open_model(precision: str) -> Classifier:
        draw(folder / "class 4" / f"{precision}.png", 4, 7)
        draw(folder / "class 5" / f"{precision}.png", 5, 8 + len(precision))
        return fake_classifier(Shifted(precision), labels=ten())

    with pytest.raises(UnlabelledImages, match="changed while they were read; run this again"):
        evaluate.run(open_model, folder, ["f32", "int8"], 1)


def test_names_are_printed_as_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    evaluate.show([made_up([(1, 2), (2, 2)], ten(c1="[red]rose", c2="[/b]"))])
    shown = capfd.readouterr().out
    assert "[red]rose → [/b]" in shown
    assert "0 of 1" in shown
