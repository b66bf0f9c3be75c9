"""The images in folders: which, in which order, each once."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from eyespot import files


def found(paths: list[Path | str]) -> list[str | OSError]:
    return list(files.find(map(str, paths)))


def test_a_folder_is_searched_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ["b.PNG", "a.jpg", "z/c.webp", "B/d.jpeg", "B/c/e.mpo", ".hidden/f.jpg", "._a.jpg", "notes.txt", "jpg"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "z" / "c.webp")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone")
    names = ["a.jpg", "b.PNG", "link.jpg", "B/d.jpeg", "B/c/e.mpo", "z/c.webp"]
    assert found([tmp_path]) == [str(tmp_path / name) for name in names]


def test_folders_may_be_as_deep_as_the_system_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        monkeypatch.chdir(tmp_path)
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        Path("deep.jpg").touch()
        monkeypatch.chdir(tmp_path)
        Path("z.jpg").touch()
        assert found(["."]) == ["./z.jpg", f"./{'d/' * 1500}deep.jpg"]
    finally:
        os.chdir(tmp_path)
        subprocess.run(["rm", "-rf", "d"], check=True)


def test_a_file_is_found_once_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ["p/a.jpg", "p/q/b.jpg", "p/.c.jpg", "p/notes"]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert found(["p", "p/a.jpg", "./p/q", "p"]) == ["p/a.jpg", "p/q/b.jpg"]
    assert found(["p/q", "p/a.jpg", "p/a.jpg", "p"]) == ["p/q/b.jpg", "p/a.jpg"]
    assert found(["p", "p/.c.jpg", "p/notes"]) == ["p/a.jpg", "p/q/b.jpg", "p/.c.jpg", "p/notes"]
    assert found(["gone.jpg"]) == ["gone.jpg"]


def test_a_folder_that_cannot_be_opened_is_an_error_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ["a.jpg", "z/b.jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "shut").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(files.os, "scandir", refuse)
    first, error, last = found([tmp_path])
    assert (first, last) == (str(tmp_path / "a.jpg"), str(tmp_path / "z/b.jpg"))
    assert isinstance(error, PermissionError)
    assert error.filename == str(tmp_path / "shut")
