"""The charts of an evaluation."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from eyespot.cli import charts
from eyespot.vision.labels import ClassRow, Labels
from tests.cli.evaluations import made_up, ten

MANY = Labels(tuple(ClassRow(number, "", f"a class with a rather long name {number}") for number in range(200)))
STRANGE = ten(c0="$x^{$", c1="玫瑰", c2="<b>", c3="\U0001f339", c4="n" * 300, c5="a\nb")


def pixels(png: bytes) -> "np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]":
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    ("labels", "pairs"),
    [
        pytest.param(ten(), [(0, 0)], marks=pytest.mark.needs("make test-all")),
        (STRANGE, [(n % 6, n % 5) for n in range(60)]),
        pytest.param(MANY, [(n % 200, n * n % 200) for n in range(600)], marks=pytest.mark.needs("make test-all")),
        pytest.param(MANY, [(n, n) for n in range(200)], marks=pytest.mark.needs("make test-all")),
    ],
    ids=["one", "strange", "many", "many all right"],
)
def test_charts_are_drawn_of_few_classes_and_of_many(labels: Labels, pairs: Sequence[tuple[int, int]]) -> None:
    found = made_up(pairs, labels)
    for png in (charts.confusion_matrix(found.reading.samples), charts.reliability(found)):
        drawn = pixels(png)
        assert 300 < min(drawn.shape[:2]) <= max(drawn.shape[:2]) < 3000
        assert len(np.unique(drawn.astype(int) @ [1, 256, 65536])) > 20  # colours
        assert (drawn[0] == 255).all()  # nothing is cut off
        assert (drawn[:, -1] == 255).all()


def test_true_classes_are_rows() -> None:
    """Where all images of two classes are taken for the second, a column is filled."""
    matrix = pixels(charts.confusion_matrix(made_up([(0, 1), (1, 1)], ten()).reading.samples))
    filled = np.argwhere((matrix == [8, 48, 107]).all(2))  # the darkest of matplotlib's Blues
    height, width = filled.max(0) - filled.min(0)
    assert height > 1.8 * width > 0
