"""Label files, and searches in them."""

import json
from pathlib import Path

import pytest

from eyespot.errors import BadManifest
from eyespot.types import Group, Lang
from eyespot.vision.labels import ClassRow, GroupRow, Labels, load_labels


def row(class_id: int, name: str, **others: object) -> dict[str, object]:
    return {"class_id": class_id, "wnid": "n0", "label": name, **others}


def group(path: str, name: str = "", **others: object) -> dict[str, object]:
    return {"id": path, "label": name or path, **others}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([row(0, "a"), row(1, "a")], "'a' is the name of 2 classes; names must be unique$"),
        ([row(0, "a", zh="甲"), row(1, "b", zh="甲")], "'甲' is the name of 2 classes"),
        ([row(0, "a", zh="b"), row(1, "b")], "'b' is the name of 2 classes"),  # shown where Chinese is asked for
        ([row(1, "a"), row(0, "b")], "class_id must be 0, 1, 2, … in this order$"),
        ([], "json: it has no classes$"),
        ([{"label": "a"}], r"not a label file: classes\.0\.class_id is missing"),
        ([row(-1, "a")], r"not a label file: classes\.0\.class_id: -1 is not a whole number of at least 0$"),
        ({}, "not a label file: classes is missing$"),
        ({"classes": [row(0, "a", group="x")]}, "there is no group 'x'$"),
        ({"classes": [row(0, "a")], "groups": [group("x/y")]}, "there is no group 'x'$"),
        ({"classes": [row(0, "a")], "groups": [group("x", "n"), group("y", "n")]}, "'n' is the name of 2 groups"),
        (
            {"classes": [row(0, "a")], "groups": [group("x"), group("x", "z")]},
            "'x' is the id of 2 groups; ids",
        ),
        ([row(0, "a", other=True), row(1, "b", other=True)], "only one class can be `other`$"),
        ([row(0, "a\nb")], r"'a\\nb' cannot be a name"),
        ([row(0, "a" * 201)], "cannot be a name: it has 1 to 200 characters"),
        ("3", "not a label file: 3 is not a table$"),
        ("{", "not a label file: it is not JSON$"),
    ],
)
def test_a_bad_label_file_is_an_error(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "own.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(BadManifest, match=message):
        load_labels("own", [tmp_path])


def test_the_first_folder_that_has_the_label_file_wins(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "two" / "own.json").write_text(json.dumps([row(0, "a")]))
    assert load_labels("own", [tmp_path / "one", tmp_path / "two"]).names["en"] == ("a",)
    with pytest.raises(BadManifest, match="looked for"):
        load_labels("own", [tmp_path / "one"])


def test_an_english_name_stands_in_for_a_chinese_one(tmp_path: Path) -> None:
    content = {"classes": [row(0, "a", zh="甲", group="x"), row(1, "b")], "groups": [group("x", "letters")]}
    (tmp_path / "own.json").write_text(json.dumps(content))
    first, second = load_labels("own", [tmp_path]).entries["zh"]
    assert (first.label, first.en, first.zh, first.groups) == ("甲", "a", "甲", [Group("x", "letters")])
    assert (second.label, second.en, second.zh, second.groups) == ("b", "b", None, [])


SOME = Labels(
    (
        ClassRow(0, "n0", "great white shark", "大白鲨", ("white shark", "Carcharodon"), group="animal/fish"),
        ClassRow(1, "n1", "jersey", "T恤", ("T-shirt", "tee shirt")),
        ClassRow(2, "n2", "hand-held computer", "掌上电脑"),
    ),
    (GroupRow("animal", "animal", "动物"), GroupRow("animal/fish", "fish", "鱼")),
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("great", [0]),
        ("GREAT  white", [0]),
        ("shark", [0]),
        ("hark", []),
        ("carch", [0]),
        ("shark white", []),  # the end of a name and the beginning of the next
        ("shark carcharodon", []),
        ("T", [1]),
        ("t-shirt", [1]),
        ("Ｔ恤", [1]),
        ("ｔ恤", [1]),
        ("held", [2]),
        ("hand held", [2]),
        ("白", [0]),
        ("脑", [2]),
        ("电脑 ", [2]),
        ("鱼", []),
        ("", [0, 1, 2]),
        ("\t ", [0, 1, 2]),
        ("\0", []),
        ("\n", [0, 1, 2]),
        ("a" * 100_000, []),
    ],
)
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_classes_are_found_by_a_word_in_either_language(text: str, found: list[int], lang: Lang) -> None:
    entries = SOME.find(text, lang)
    assert [entry.class_id for entry in entries] == found
    assert [entry.label for entry in entries] == [SOME.names[lang][class_id] for class_id in found]


def test_matching_names_come_before_matching_synonyms() -> None:
    rows = (ClassRow(0, "n0", "bullfrog", synonyms=("Rana catesbeiana",)), ClassRow(1, "n1", "Persian cat"))
    assert [entry.class_id for entry in Labels(rows).find("cat")] == [1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"classes": [{**row(0, "a"), "groups": "x"}]}, "groups"),
        ({"classes": [row(0, "a")], "groups": [{"id": "a/b/c/d", "label": "x"}]}, "'a/b/c/d' is more than three deep"),
    ],
)
def test_what_has_no_effect_is_an_error(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "own.json").write_text(json.dumps(content))
    with pytest.raises(BadManifest, match=message):
        load_labels("own", [tmp_path])


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    (tmp_path / "own.json").write_text(json.dumps([row(0, "a")]), "utf-8-sig")
    assert len(load_labels("own", [tmp_path])) == 1
