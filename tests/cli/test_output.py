"""The table of findings."""

import io
import re

import pytest
from rich.console import Console

from eyespot.cli.formats import Finding
from eyespot.cli.output import Table
from eyespot.types import Prediction


@pytest.mark.parametrize("width", [40, 80, 200, None])
@pytest.mark.parametrize("top_k", [1, 3, 9])
def test_a_row_of_the_table_fits(width: int | None, top_k: int) -> None:
    console = Console(width=width, force_terminal=width is not None, file=io.StringIO())
    table = Table(console, top_k)
    long = [Prediction(0, "n0", "a very long label of a class that has many words", 0.123456)] * top_k
    for path in ("a.jpg", "photos/" * 20 + "cat.jpg", "猫" * 60 + ".jpg"):
        line = table.row(Finding(path, long))
        assert not re.search(r"\d\.?$", line)  # a number that is cut in two says another
        assert line.count("\n") == 1
        assert "12.3%" in line
        if width:
            assert len(line) - 1 <= width
            assert path[-5:] in line
        else:
            assert line.startswith(path)
    assert "nothing" in table.row(Finding("a.jpg", []))


def test_long_names_stay_distinguishable() -> None:
    table = Table(Console(width=80, force_terminal=True, file=io.StringIO()), 3)
    cat = [Prediction(0, "n0", "a very long label of a class that has many words", 0.123456)] * 3
    names = [f"{place}-2024-in-the-alps-{number:04}.jpg" for place in ("holiday", "wedding") for number in range(20)]
    rows = {table.row(Finding(name, cat)).split("  ")[0] for name in names}
    assert len(rows) == len(names)
    assert "holiday…lps-0001.jpg" in rows
