"""The files of a trained model."""

import tomllib
from pathlib import Path

import pytest
import torch

from eyespot.errors import BadDataset, ExportRefused
from eyespot.types import Accuracy, Calibration
from eyespot.vision import weights
from eyespot.vision.finetune import model
from eyespot.vision.labels import ClassRow, Labels, load_labels
from eyespot.vision.weights import Entry
from tests.manifests import ENTRY
from tests.vision.finetune.test_layers import network

LABELS = Labels((ClassRow(0, "", "rose", "玫瑰"), ClassRow(1, "", "other", other=True)))


@pytest.fixture
def base(tmp_path: Path) -> Entry:
    (tmp_path / "manifest.toml").write_text(f"[net]{ENTRY}")
    return weights.read_manifest(tmp_path / "manifest.toml")["net"]


def exports(entry: Entry, _classes: int, folder: Path) -> None:
    (folder / f"{entry.name}-{entry.sha256[:12]}-00000000-openvino").mkdir(parents=True)


def refuses(_entry: Entry, _classes: int, _folder: Path) -> None:
    raise ExportRefused("it differs")


def save(base: Entry, data_dir: Path, name: str = "flowers", bias: float = 0, **options: object) -> Entry:
    trained = network()
    torch.nn.init.constant_(trained.head.bias, bias)
    make = options.get("make", exports)
    calibration, accuracy = Calibration(0.9, 0.8, 40), Accuracy(93, "40 images")
    return model.save(trained, base, LABELS, ["b" * 64, "a" * 64], name, data_dir, calibration, accuracy, make)


def test_the_model_is_in_the_manifest_with_its_labels(base: Entry, tmp_path: Path) -> None:
    saved = save(base, tmp_path / "data")
    entry = weights.read_manifest(tmp_path / "manifest.toml", tmp_path / "data")["flowers"]
    assert entry == saved
    assert (entry.architecture, entry.recipe, entry.license) == (base.architecture, base.recipe, base.license)
    assert entry.calibration == {"f32": Calibration(0.9, 0.8, 40)}
    assert entry.accuracy == Accuracy(93, "40 images")
    weights.verify(entry)
    assert load_labels(entry.labels, [entry.folder]) == LABELS
    assert entry.trained_on.read_text().split() == ["a" * 64, "b" * 64]


def test_the_weights_have_the_names_of_the_original_network(base: Entry, tmp_path: Path) -> None:
    import safetensors.torch

    kept = safetensors.torch.load_file(save(base, tmp_path / "data", bias=2).path)
    assert {"stem.weight", "norm.running_mean", "layer1.1.bias", "layer10.weight"} <= kept.keys()
    assert kept["head.bias"].tolist() == [2, 2]


def test_a_model_is_replaced_and_others_stay_as_they_are(base: Entry, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    old, other = save(base, data_dir), save(base, data_dir, "flowers-2")
    manifest = weights.own_manifest(data_dir)
    manifest.write_text(manifest.read_text().replace("[flowers-2]", "[flowers-2]\n# mine"))
    new = save(base, data_dir, bias=1)
    assert (old.path.exists(), new.path.exists(), other.path.exists()) == (False, True, True)
    kept = {path.name for path in manifest.parent.iterdir()}
    assert kept == {"manifest.toml"} | {
        f"{entry.labels}{suffix}" for entry in (new, other) for suffix in (".safetensors", ".json", ".images")
    }
    assert len(list((data_dir / "exports").iterdir())) == 2
    assert "# mine" in manifest.read_text()
    assert list(tomllib.loads(manifest.read_text())) == ["flowers", "flowers-2"]


def test_the_same_model_again_changes_nothing(base: Entry, tmp_path: Path) -> None:
    first = save(base, tmp_path / "data")
    assert save(base, tmp_path / "data", make=lambda *_: None) == first
    weights.verify(first)


def test_a_model_that_is_refused_leaves_the_older_one(base: Entry, tmp_path: Path) -> None:
    old = save(base, tmp_path / "data")
    for bias in (0, 1):
        with pytest.raises(ExportRefused):
            save(base, tmp_path / "data", bias=bias, make=refuses)
    assert weights.read_manifest(tmp_path / "manifest.toml", tmp_path / "data")["flowers"] == old
    weights.verify(old)
    assert len(list(old.folder.glob("*.safetensors"))) == 1


@pytest.mark.parametrize("name", ["", "Flowers", "a b", "../x", ".hidden", "auto", "net", "x" * 65])
def test_a_name_that_cannot_be_used_is_an_error(base: Entry, name: str) -> None:
    with pytest.raises(BadDataset):
        model.check_name(name, base.folder / "manifest.toml")


def test_a_name_is_plain(base: Entry) -> None:
    model.check_name("flowers-2.1_b", base.folder / "manifest.toml")
