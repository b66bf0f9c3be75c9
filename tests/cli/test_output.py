"""The table of findings."""

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from eyespot.cli.formats import Finding
from eyespot.cli.output import Table
from eyespot.types import Prediction, Says

LONG = "a very long label of a class that has many words"
CLASS, GROUP = Says("class", "n0", LONG, 0.987654), Says("group", "animal/dog", LONG, 0.987654)
UNSURE = Says("unsure", None, "unsure", 0.4)


@pytest.mark.parametrize("width", [40, 80, 200, None])
@pytest.mark.parametrize("top_k", [1, 3, 9])
@pytest.mark.parametrize("says", [CLASS, GROUP, UNSURE], ids=["class", "group", "unsure"])
def test_a_row_of_the_table_fits(width: int | None, top_k: int, says: Says) -> None:
    console = Console(width=width, force_terminal=width is not None, file=io.StringIO())
    table = Table(console, top_k)
    long = [Prediction(i, f"n{i}", LONG, 0.123456) for i in range(top_k)]
    for path in ("a.jpg", "photos/" * 20 + "cat.jpg", "猫" * 60 + ".jpg"):
        line = table.row(Finding(path, says, predictions=long)).plain
        assert not re.search(r"\d\.?$", line)  # a number that is cut in two says another
        assert line.count("\n") == 1
        assert ("unsure" if says is UNSURE else "… 98.8%") in line
        if width:
            assert cell_len(line[:-1]) <= width
            assert path[-5:] in line
        else:
            assert line.startswith(path)
            assert line.count("12.3%") == top_k - (says is CLASS)  # the class itself is not named twice
    assert table.row(Finding("a.jpg", says, predictions=[])).plain.startswith("a.jpg  ")
    assert not table.row(Finding("a.jpg"))


def test_a_class_a_group_and_unsure_look_different() -> None:
    table = Table(Console(width=80, force_terminal=True, file=io.StringIO()), 3)
    rows = [table.row(Finding("a.jpg", says)) for says in (CLASS, GROUP, UNSURE)]
    assert len({str(row.spans[0].style) for row in rows}) == 3
    assert "%" not in rows[2].plain  # it has no confidence that would mean anything


def test_what_is_said_stands_in_one_column_also_in_chinese() -> None:
    table = Table(Console(width=80, force_terminal=True, file=io.StringIO()), 3)
    others = [Prediction(1, "n1", "虎斑猫", 0.25), Prediction(2, "n2", "猫", 0.125)]
    starts = set()
    for path in ("a.jpg", "照片/猫.jpg", "照片/" * 30 + "猫.jpg"):
        for says in (CLASS, GROUP, Says("group", "animal/cat", "家猫", 0.9), Says("unsure", None, "不确定", 0.4)):
            for predictions in ([], others):
                row = table.row(Finding(path, says, predictions=predictions)).plain
                cells = [row.index(says.label[:10]), *(row.index(each.label) for each in predictions if "猫 " in row)]
                starts.add(tuple(cell_len(row[:cell]) for cell in cells[:2]))
    assert starts == {(22,), (22, 42)}


def test_long_names_stay_distinguishable() -> None:
    table = Table(Console(width=80, force_terminal=True, file=io.StringIO()), 3)
    cat = [Prediction(0, "n0", LONG, 0.123456)] * 3
    names = [f"{place}-2024-in-the-alps-{number:04}.jpg" for place in ("holiday", "wedding") for number in range(20)]
    rows = {table.row(Finding(name, UNSURE, predictions=cat)).plain.split("  ")[0] for name in names}
    assert len(rows) == len(names)
    assert "holiday…lps-0001.jpg" in rows
