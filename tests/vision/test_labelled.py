"""Images whose class is known from their place or name."""

import os
from pathlib import Path
from typing import Any

import pytest

from eyespot.errors import UnlabelledImages
from eyespot.vision import labelled
from eyespot.vision.labels import ClassRow, Labels

LABELS = Labels((ClassRow(0, "n02123045", "tabby", "虎斑猫"), ClassRow(1, "n02113186", "Cardigan", "卡迪根柯基犬")))


def images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_is_named_after_its_class_in_either_language_or_by_wnid(tmp_path: Path) -> None:
    images(
        tmp_path,
        "tabby/a.jpg",
        "Cardigan/虎斑猫/2026/11/b.PNG",
        "n02113186/c.webp",
        "CARDIGAN/d.jpeg",
        "tabby/notes.txt",
        "tabby/._a.jpg",
    )
    found = {path.name: class_id for path, class_id in labelled.find(tmp_path, LABELS)}
    assert found == {"a.jpg": 0, "b.PNG": 0, "c.webp": 1, "d.jpeg": 1}


def test_a_file_name_may_begin_with_a_wnid(tmp_path: Path) -> None:
    images(tmp_path, "n02123045.jpg", "train/n02113186_7.JPEG")
    assert [class_id for _, class_id in labelled.find(tmp_path, LABELS)] == [0, 1]


def test_images_of_other_classes_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    images(tmp_path, "tabby/a.jpg", "dog/b.jpg", "dog/c.jpg")
    with pytest.raises(UnlabelledImages, match=r"2 of 3 images .* \(first: dog/b.jpg\); .*eyespot labels"):
        labelled.find(tmp_path, LABELS)


def test_only_a_wnid_counts_in_a_file_name(tmp_path: Path) -> None:
    """Not a label, and not the missing wnid of a class: cameras write `_DSC1234.JPG`."""
    images(tmp_path, "tabby.jpg", "_DSC1234.JPG")
    labels = Labels((ClassRow(0, "n02123045", "tabby"), ClassRow(1, "", "rose")))
    with pytest.raises(UnlabelledImages, match="2 of 2 images"):
        labelled.find(tmp_path, labels)


def test_case_decides_between_names_that_differ_in_nothing_else(tmp_path: Path) -> None:
    images(tmp_path, "Cardigan/a.jpg", "cardigan/b.jpg")
    labels = Labels((ClassRow(0, "", "Cardigan"), ClassRow(1, "", "cardigan")))
    assert [class_id for _, class_id in labelled.find(tmp_path, labels)] == [0, 1]
    images(tmp_path, "CARDIGAN/c.jpg")
    with pytest.raises(UnlabelledImages, match="1 of 3"):
        labelled.find(tmp_path, labels)


def test_the_folder_itself_is_no_class_and_hidden_folders_are_skipped(tmp_path: Path) -> None:
    images(tmp_path, "tabby/n02113186_1.jpg", "tabby/.cache/a.jpg")
    assert [class_id for _, class_id in labelled.find(tmp_path / "tabby", LABELS)] == [1]


def test_a_synonym_names_a_class_that_has_it_alone(tmp_path: Path) -> None:
    images(tmp_path, "House sparrow/a.jpg")
    classes = ClassRow(0, "", "sparrow", synonyms=("house sparrow",)), ClassRow(1, "", "finch", synonyms=("finches",))
    assert [class_id for _, class_id in labelled.find(tmp_path, Labels(classes))] == [0]
    twice = classes[0], ClassRow(1, "", "finch", synonyms=("house sparrow",))
    with pytest.raises(UnlabelledImages):
        labelled.find(tmp_path, Labels(twice))


def test_an_underscore_is_the_class_that_is_none_of_the_others(tmp_path: Path) -> None:
    images(tmp_path, "rose/a.jpg", "_/b.jpg", "other/c.jpg")
    labels = Labels((ClassRow(0, "", "other", other=True), ClassRow(1, "", "rose")))
    assert [class_id for _, class_id in labelled.find(tmp_path, labels)] == [0, 0, 1]
    with pytest.raises(UnlabelledImages, match=r"first: _/b\.jpg"):
        labelled.find(tmp_path, LABELS)


def test_a_folder_that_cannot_be_opened_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its class would be missing from all figures."""
    images(tmp_path, "tabby/a.jpg", "Cardigan/b.jpg")
    scandir = os.scandir

    def refuse(path: str) -> Any:  # as root, every folder can be opened
        if path.endswith("tabby"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="tabby"):
        labelled.find(tmp_path, LABELS)


def listed(file: Path, text: str, encoding: str = "utf-8") -> list[tuple[Path, int]]:
    file.write_text(text, encoding)
    return labelled.find(file, LABELS)


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg,tabby\nb/c.jpg,n02113186\n",
        "path,label\na.jpg,虎斑猫\nb/c.jpg,CARDIGAN\n",
        "number,Label,File\n1,0,a.jpg\n\n2, 1 ,b/c.jpg\n",
        'file,class_id,wnid,label\r\na.jpg,7,n02123045,tabby\r\n"b/c.jpg",1,n02113186,Cardigan\r\n',
        "image,note,class\na.jpg,left,tabby\nb/c.jpg,,Cardigan\n",
    ],
)
def test_a_list_has_paths_and_labels(tmp_path: Path, text: str) -> None:
    expected = [(tmp_path / "a.jpg", 0), (tmp_path / "b/c.jpg", 1)]
    assert listed(tmp_path / "list.csv", text) == expected
    assert listed(tmp_path / "list.csv", text, "utf-8-sig") == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "a.jpg,tabby\nb.jpg,dog\nc.jpg,2\n",
            r"2 of 3 labels in .*list.csv .* \(first: 'dog' of b.jpg\); .*eyespot labels",
        ),
        ("a.jpg,tabby\nb.jpg\n", "expected a path and a label in each row, found 'b.jpg'"),
        ("a.jpg,é\n", "list.csv is neither a folder nor a CSV file in UTF-8"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UnlabelledImages, match=told):
        listed(tmp_path / "list.csv", text, "latin-1" if "é" in text else "utf-8")
