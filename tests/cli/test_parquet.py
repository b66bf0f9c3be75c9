"""Parquet files of findings: as data frames expect them, and resumed however a run ends."""

import fcntl
import io
import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from eyespot.cli.formats import FileProblem, Finding
from eyespot.cli.parquet import Parquet
from eyespot.cli.results import tried_again
from eyespot.errors import OutputUnusable
from eyespot.types import GroupScore, ImageInfo, ModelInfo, Prediction, Says
from tests.disk import file_size_limit
from tests.requests import image
from tests.serving import Served, run, serve_fake

MODEL = ModelInfo("net", "0" * 64, "fake", "f32")
PNG = ImageInfo("1" * 64, "PNG", 3, 4)
NEVER = tried_again([], every=False)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve_fake() as served:
        yield served


def finding(path: str) -> Finding:
    classes = [Prediction(281, "n02123045", "tabby", 0.5), Prediction(7, "n7", "猫", 0.25)]
    groups = [GroupScore("animal/cat", "猫", 0.75), GroupScore("animal", "animal", 0.875)]
    return Finding(path, Says("group", "animal/cat", "猫", 0.75), groups, classes, PNG, MODEL)


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return found


def test_a_row_is_what_the_json_line_says(tmp_path: Path, served: Served) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(image(number) if number else b"hello")
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(image(9))
    (tmp_path / "none.png").write_bytes(image(8))
    words = ("classify", ".", "-k", "2", "--url", served.url)
    done = run(*words, "-o", "found.parquet", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert sorted(tmp_path.glob("*found*")) == [tmp_path / "found.parquet"]
    printed = [json.loads(line) for line in run(*words, cwd=tmp_path).stdout.splitlines()]
    found = rows(tmp_path / "found.parquet")
    assert len(found) == 5
    assert found[0]["code"] == "unsupported-format"
    assert found[-1]["path"] == "./\\udcff.png"  # as in CSV
    for row, line in zip(found[:-1], printed[:-1], strict=True):
        says = line.get("says", {})
        expected = {**line, **says, **line.get("image", {}), **line.get("model", {}), **line.get("problem", {})}
        expected |= {"says": says.get("label"), "model": expected.get("name")}
        expected = {name: value for name, value in expected.items() if name in row}
        assert row == {**dict.fromkeys(row), **expected}


def test_a_run_that_ended_in_any_way_is_resumed(tmp_path: Path) -> None:
    path, part = tmp_path / "found.parquet", tmp_path / "found.parquet.part"
    names = ["a.jpg", "\udcff.jpg", "line\nend.jpg"]
    with closing(Parquet(path)) as results:
        results.begin()
        for name in names[:2]:
            results.write(finding(name))
        results.write(Finding("gone.jpg", problem=FileProblem("unreadable", "no such file")))
        results.write(Finding("nothing.jpg", Says("unsure", None, "unsure", 0.25), [], [], PNG, MODEL))
        killed = part.read_bytes()
    whole = rows(path)
    path.unlink()
    part.write_bytes(killed + b'{"path": "cut')
    with closing(Parquet(path)) as results:
        results.resume(MODEL, NEVER)
    assert rows(path) == whole
    with closing(Parquet(path)) as results:
        results.resume(MODEL, tried_again(["gone.jpg"], every=False))
        assert [results.has(name) for name in (*names, "gone.jpg", "nothing.jpg")] == [True, True, False, False, True]
        with pytest.raises(OutputUnusable, match="another run"):
            Parquet(path)
        for name in ("gone.jpg", names[2]):
            results.write(finding(name))
    assert [row["path"] for row in rows(path)] == [
        "a.jpg",
        "\\udcff.jpg",
        "nothing.jpg",
        "gone.jpg",
        "line\nend.jpg",
    ]
    assert rows(path)[:3] == [row for row in whole if row["code"] is None]
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_ends_before_the_next_has_its_lock_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock = tmp_path / "found.parquet", fcntl.flock
    path.touch()  # an empty file is as good as none
    first = Parquet(path)
    first.begin()
    first.write(finding("a.jpg"))

    def first_ends(file: io.FileIO, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        first.close()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", first_ends)
    with closing(Parquet(path)) as results:
        results.resume(MODEL, NEVER)
        results.write(finding("b.jpg"))
    assert [row["path"] for row in rows(path)] == ["a.jpg", "b.jpg"]
    assert list(tmp_path.iterdir()) == [path]


def test_more_rows_than_fit_in_memory_are_several_groups(tmp_path: Path) -> None:
    path = tmp_path / "found.parquet"
    with closing(Parquet(path)) as results:
        results.begin()
        for number in range(10_001):
            results.write(finding(f"{number}.jpg"))
    assert parquet.ParquetFile(path).metadata.num_row_groups == 2
    with closing(Parquet(path)) as results:
        results.resume(MODEL, NEVER)
        assert results.has("10000.jpg")
    assert parquet.ParquetFile(path).metadata.num_rows == 10_001


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("mine", "is not a Parquet file"),
        ({"my": [1]}, "its columns differ"),
        ({}, "columns differ"),
        ({"path": ["a.png"], "label": ["tabby"], "predictions": [[]]}, "found.parquet was written by an older version"),
    ],
)
def test_a_foreign_file_is_not_changed(tmp_path: Path, served: Served, content: Any, told: str) -> None:
    path = tmp_path / "found.parquet"
    path.write_text("mine") if content == "mine" else parquet.write_table(pa.table(content), path)
    before = path.read_bytes()
    for words, reason in ([], "found.parquet is not empty; --resume continues it"), (["--resume"], told):
        done = run("classify", ".", "-o", "found.parquet", *words, cwd=tmp_path, EYESPOT_URL=served.url)
        assert done.returncode == 2
        assert reason in done.stderr
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    results = Parquet(tmp_path / "found.parquet")
    results.begin()
    results.write(finding("a.jpg"))
    part = tmp_path / "found.parquet.part"
    lines = part.read_bytes()
    told = r"cannot write .*found.parquet: file too large; --resume tries again"
    with file_size_limit(100), pytest.raises(OutputUnusable, match=told):
        results.close()
    assert list(tmp_path.iterdir()) == [part]
    assert part.read_bytes() == lines
    results.close()
    assert list(tmp_path.iterdir()) == [tmp_path / "found.parquet"]


def test_without_pyarrow_its_extra_is_named(tmp_path: Path, served: Served) -> None:
    (tmp_path / "a.png").write_bytes(image(1))
    (tmp_path / "pyarrow.py").write_text("raise ModuleNotFoundError")
    done = run("classify", "a.png", "-o", "found.parquet", "--url", served.url, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "eyespot: parquet needs `pip install eyespot[parquet]`\n"
