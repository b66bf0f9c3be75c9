"""Images whose class is known from their place or name."""

from pathlib import Path

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
        "more/虎斑猫/b.PNG",
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


def test_an_underscore_is_the_class_that_is_none_of_the_others(tmp_path: Path) -> None:
    images(tmp_path, "rose/a.jpg", "_/b.jpg", "other/c.jpg")
    labels = Labels((ClassRow(0, "", "other", other=True), ClassRow(1, "", "rose")))
    assert [class_id for _, class_id in labelled.find(tmp_path, labels)] == [0, 0, 1]
    with pytest.raises(UnlabelledImages, match=r"first: _/b\.jpg"):
        labelled.find(tmp_path, LABELS)
