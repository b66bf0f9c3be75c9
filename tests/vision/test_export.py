import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eyespot.vision import export, exporter, weights
from eyespot.vision.engines import Threads
from eyespot.vision.engines.openvino import OpenVinoEngine
from eyespot.vision.weights import Entry
from tests.serving import ROOT


@pytest.fixture(scope="module")
def entry() -> Entry:
    return weights.read_manifest(ROOT / "weights" / "manifest.toml")["efficientnet-lite0"]


@pytest.fixture(scope="module")
def made(entry: Entry, data_dir: Path) -> tuple[Path, export.Export]:
    found = export.find(entry, 1000, "openvino", [data_dir / "exports"])
    assert found
    return found


def test_an_export_agrees_with_torch(made: tuple[Path, export.Export], entry: Entry) -> None:
    _, record = made
    assert record.max_logit_difference <= 1e-3
    assert record.digest == entry.sha256
    assert set(record.files) == {"model.xml", "model.bin", "head.npz"}


def test_weights_are_stored_in_float32(made: tuple[Path, export.Export], entry: Entry) -> None:
    assert (made[0] / "model.bin").stat().st_size > 0.95 * entry.bytes


def test_the_feature_map_and_the_final_layer_give_the_logits(made: tuple[Path, export.Export], entry: Entry) -> None:
    engine = OpenVinoEngine(made[0], Threads(1, 1, 2))
    images = exporter.proof_images(entry.recipe)[:2]
    logits, features = engine.infer(images, features=True)
    assert logits.shape == (2, 1000)
    assert logits.dtype == np.float32
    assert features is not None
    assert features.shape == (2, 1280, 7, 7)
    head = np.load(made[0] / "head.npz")
    np.testing.assert_allclose(features.mean((2, 3)) @ head["weight"].T + head["bias"], logits, atol=1e-3)
    assert engine.infer(images)[1] is None


def test_logits_survive_the_next_inference(made: tuple[Path, export.Export], entry: Entry) -> None:
    engine = OpenVinoEngine(made[0], Threads(1, 1, 2))
    first, second = exporter.proof_images(entry.recipe)[:2]
    kept, _ = engine.infer(first[None])
    before = kept.copy()
    engine.infer(second[None])
    assert (kept == before).all()


def test_an_intact_export_is_found_in_the_first_folder_that_has_it(
    made: tuple[Path, export.Export], entry: Entry, tmp_path: Path
) -> None:
    found = export.find(entry, 1000, "openvino", [tmp_path, made[0].parent])
    assert found is not None
    assert found[0] == made[0]


@pytest.mark.parametrize(
    "damage",
    [
        "model.bin",
        "model.xml",
        "export.json",
        "classes",
        "digest",
        "files",
        "no head",
        "sample",
        "no golden",
        "golden of no class",
        "architecture",
    ],
)
def test_a_damaged_or_other_export_is_not_used(
    made: tuple[Path, export.Export], entry: Entry, tmp_path: Path, damage: str
) -> None:
    place = tmp_path / made[0].name
    shutil.copytree(made[0], place)
    classes = 10 if damage == "classes" else 1000
    others: dict[str, dict[str, object]] = {
        "digest": {"digest": "0" * 64},
        "files": {"files": {}},
        "no head": {"files": {name: digest for name, digest in made[1].files.items() if name != "head.npz"}},
        "sample": {"sample": "0" * 64},
        "architecture": {"architecture": "resnet18"},
        "no golden": {"golden": []},
        "golden of no class": {"golden": [[1000, 0.9]]},
    }
    if damage in others:
        record = json.loads((place / "export.json").read_text())
        (place / "export.json").write_text(json.dumps({**record, **others[damage]}))
    elif damage != "classes":
        (place / damage).write_bytes(b"x" + (place / damage).read_bytes()[1:])
    assert export.find(entry, classes, "openvino", [tmp_path]) is None


def test_an_export_of_before_records_told_the_architecture_is_used(
    made: tuple[Path, export.Export], entry: Entry, tmp_path: Path
) -> None:
    place = tmp_path / made[0].name
    shutil.copytree(made[0], place)
    record = json.loads((place / "export.json").read_text())
    assert record.pop("explains") is True
    assert record.pop("architecture") == entry.architecture
    (place / "export.json").write_text(json.dumps(record))
    before = made[1].model_copy(update={"architecture": ""})
    assert export.find(entry, 1000, "openvino", [tmp_path]) == (place, before)


def test_another_recipe_or_other_weights_are_another_export(entry: Entry) -> None:
    names = {
        export.folder_name(entry, "openvino"),
        export.folder_name(entry, "openvino", "int8"),
        export.folder_name(entry, "onnxruntime"),
        export.folder_name(entry.model_copy(update={"sha256": "1" * 64}), "openvino"),
    }
    assert len(names) == 4


def copy_of(place: Path, record: export.Export) -> Callable[[Path], export.Export]:
    """What writes a copy of the export at `place`, with another record."""

    def copy(unfinished: Path) -> export.Export:
        for name in record.files:
            shutil.copy(place / name, unfinished)
        return record

    return copy


def test_an_export_with_an_older_sample_image_is_replaced(made: tuple[Path, export.Export], tmp_path: Path) -> None:
    export.publish(tmp_path, "one", copy_of(made[0], made[1].model_copy(update={"sample": "0" * 64})))
    export.publish(tmp_path, "one", copy_of(*made))
    assert export.read(tmp_path / "one") == made[1]


def test_two_processes_may_make_the_same_export(made: tuple[Path, export.Export], tmp_path: Path) -> None:
    def publish(**options: bool) -> int:
        return (export.publish(tmp_path, "one", copy_of(*made), **options) / "model.bin").stat().st_ino

    first = publish()
    assert publish() == first
    assert publish(replace=True) != first
    (tmp_path / "one" / "model.bin").write_bytes(b"damaged")
    publish()
    assert export.read(tmp_path / "one") == made[1]
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_what_another_process_has_just_finished_is_no_error(made: tuple[Path, export.Export], tmp_path: Path) -> None:
    (tmp_path / ".unfinished-other").symlink_to("gone")  # listed, but it cannot be looked at
    export.publish(tmp_path, "one", copy_of(*made))
    assert export.read(tmp_path / "one") == made[1]


def test_an_export_that_cannot_be_replaced_is_an_error(
    made: tuple[Path, export.Export], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.publish(tmp_path, "one", copy_of(*made))
    monkeypatch.setattr(export.shutil, "rmtree", lambda *_, **__: None)  # as with another user's files
    with pytest.raises(OSError, match="not empty"):
        export.publish(tmp_path, "one", copy_of(*made), replace=True)
