"""Training images: folders and `labels.csv`."""

import json
from pathlib import Path

import pytest

from eyespot.errors import BadDataset, BadManifest
from eyespot.vision.finetune import dataset
from eyespot.vision.labels import Labels, load_labels, to_json


def folder(root: Path, *names: str, table: str | bytes | None = None) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    if table is not None:
        (root / "labels.csv").write_bytes(table.encode() if isinstance(table, str) else table)
    return root


def test_each_folder_is_a_class_and_what_is_none_of_them_comes_last(tmp_path: Path) -> None:
    names = ["tulip/a.jpg", "other/x.png", "Rose/b/c.jpg", "empty/notes.txt", ".git/d.jpg", "stray.jpg"]
    found = dataset.read(folder(tmp_path, *names))
    assert [(row.label, row.other) for row in found.labels.classes] == [
        ("Rose", False),
        ("tulip", False),
        ("other", True),
    ]
    assert [(path.name, class_id) for path, class_id in found.images] == [("c.jpg", 0), ("a.jpg", 1), ("x.png", 2)]
    assert [path.name for path in found.strays] == ["stray.jpg"]


def test_a_table_gives_names_and_groups(tmp_path: Path) -> None:
    rows = "r,rose,玫瑰,flower/shrub,花/灌木\nt,,郁金香,flower,\n_,nothing,都不是,,\n"
    table = f"\ufeffFolder, label,zh,group,group_zh\n{rows}"
    labels = dataset.read(folder(tmp_path, "r/a.jpg", "t/b.jpg", "u/c.jpg", "_/d.jpg", table=table)).labels
    assert labels.names == {"en": ("rose", "t", "u", "nothing"), "zh": ("玫瑰", "郁金香", "u", "都不是")}
    assert [(row.id, row.label, row.zh) for row in labels.groups] == [
        ("flower", "flower", "花"),
        ("flower/shrub", "shrub", "灌木"),
    ]
    assert [row.group for row in labels.classes] == ["flower/shrub", "flower", None, None]


def test_the_labels_are_a_label_file(tmp_path: Path) -> None:
    labels = dataset.read(folder(tmp_path, "a/a.jpg", "_/b.jpg", table="folder,group\na,x\n")).labels
    (tmp_path / "own.json").write_bytes(to_json(labels))
    assert load_labels("own", [tmp_path]) == labels
    assert isinstance(labels, Labels)
    assert json.loads((tmp_path / "own.json").read_bytes())["classes"][0] == {
        "class_id": 0,
        "wnid": "",
        "label": "a",
        "group": "x",
    }


@pytest.mark.parametrize(
    ("names", "table", "message"),
    [
        (["a/a.jpg"], None, "needs at least two folders of images.* it has 1$"),
        (["a.jpg", "b.jpg"], None, "it has 0$"),
        (["a/a.jpg", "_/b.jpg", "Other/c.jpg"], None, "has both Other and _"),
        (["a/a.jpg", "b/b.jpg"], "folder,name\na,x\n", r"labels\.csv must begin with the line folder,label,zh,"),
        (["a/a.jpg", "b/b.jpg"], "", r"labels\.csv must begin"),
        (["a/a.jpg", "b/b.jpg"], "folder,zh\nc,x\n", "names the folder 'c', which has no images$"),
        (["a/a.jpg", "b/b.jpg"], "folder,zh\na,x,y\n", "the row of 'a' has more cells than the first line$"),
        (["a/a.jpg", "b/b.jpg"], "folder,label\na,Other\n", "'a' cannot be called other; name the folder so$"),
        (["a/a.jpg", "b/b.jpg"], "folder;label\na;x\n", "it begins with 'folder;label'$"),
        (["a/a.jpg", "b/b.jpg"], "folder\na\n a \n", "has several rows for the folder 'a'$"),
        (["a/a.jpg", "caf\udce9/b.jpg"], None, r"'caf\\udce9' cannot be the name of a class; rename the folder$"),
        (["a/a.jpg", "b/b.jpg"], b"folder\n\xff\n", "cannot be read: it is not UTF-8$"),
        (["a/a.jpg", "b/b.jpg"], 'folder,label\na,"x\n', "cannot be read: "),
    ],
)
def test_a_dataset_that_cannot_be_used_is_an_error(
    tmp_path: Path, names: list[str], table: str | bytes | None, message: str
) -> None:
    with pytest.raises(BadDataset, match=message):
        dataset.read(folder(tmp_path, *names, table=table))


def test_names_must_be_unique(tmp_path: Path) -> None:
    with pytest.raises(BadManifest, match=r"labels\.csv: 'b' is the name of 2 classes"):
        dataset.read(folder(tmp_path, "a/a.jpg", "b/b.jpg", table="folder,label\na,b\n"))
