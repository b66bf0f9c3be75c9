import json
from pathlib import Path

import pytest

from eyespot.errors import BadManifest
from eyespot.vision.labels import load_labels
from tests.serving import ROOT


def test_imagenet_has_a_thousand_classes_with_unique_names() -> None:
    labels = load_labels("imagenet1k", [ROOT / "labels"])
    assert len(labels) == 1000
    assert len({label.label for label in labels}) == 1000
    assert len({label.wnid for label in labels}) == 1000
    assert [label.class_id for label in labels] == list(range(1000))


def test_the_names_are_those_of_torchvision() -> None:
    from torchvision.models import ResNet18_Weights

    names = [label.label for label in load_labels("imagenet1k", [ROOT / "labels"])]
    assert names == ResNet18_Weights.IMAGENET1K_V1.meta["categories"]


def row(class_id: int, name: str) -> dict[str, object]:
    return {"class_id": class_id, "wnid": "n0", "label": name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([row(0, "a"), row(1, "a")], "unique"),
        ([row(1, "a"), row(0, "b")], "order"),
        ([{"label": "a"}], "not a label file"),
        ("{", "not a label file"),
    ],
)
def test_a_bad_file_is_an_error(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "own.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(BadManifest, match=message):
        load_labels("own", [tmp_path])


def test_the_first_folder_that_has_the_file_wins(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "two" / "own.json").write_text(json.dumps([row(0, "a")]))
    assert load_labels("own", [tmp_path / "one", tmp_path / "two"])[0].label == "a"
    with pytest.raises(BadManifest, match="looked for"):
        load_labels("own", [tmp_path / "one"])
