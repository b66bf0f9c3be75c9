from pathlib import Path

import pytest

from eyespot.errors import BadManifest, UnknownModel, WeightsCorrupt, WeightsMissing
from eyespot.vision import weights
from eyespot.vision.weights import Entry
from tests.manifests import CONTENT, ENTRY, PACKAGED


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    (tmp_path / "manifest.toml").write_text(f"[net]{ENTRY}")
    return weights.read_manifest(tmp_path / "manifest.toml")["net"]


def test_one_changed_byte_is_found(entry: Entry) -> None:
    entry.path.write_bytes(CONTENT[:5] + b"x" + CONTENT[6:])
    with pytest.raises(WeightsCorrupt, match="sha256"):
        weights.verify(entry)
    entry.path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsCorrupt, match="bytes"):
        weights.verify(entry)
    entry.path.unlink()
    with pytest.raises(WeightsMissing, match="eyespot weights fetch net"):
        weights.verify(entry)


def two(tmp_path: Path) -> dict[str, Entry]:
    (tmp_path / "manifest.toml").write_text(f"[official]{ENTRY}\n[packaged]{PACKAGED}")
    return weights.read_manifest(tmp_path / "manifest.toml")


def test_auto_is_the_first_model_whose_weights_exist(tmp_path: Path) -> None:
    entries = two(tmp_path)
    assert weights.choose(entries).name == "packaged"
    (tmp_path / "net.pth").write_bytes(CONTENT)
    assert weights.choose(entries).name == "official"


def test_a_name_is_strict(tmp_path: Path) -> None:
    entries = two(tmp_path)
    with pytest.raises(WeightsMissing):
        weights.verify(weights.choose(entries, "official"))
    with pytest.raises(UnknownModel, match="official, packaged"):
        weights.choose(entries, "resnet")


def test_missing_weights_come_with_the_remedy(entry: Entry) -> None:
    with pytest.raises(WeightsMissing, match="--from FILE"):
        weights.choose({"net": entry})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no models"),
        ("[net", "cannot read the manifest .*at end of document"),
        ("net = 3", r"toml: net: 3 is not a table$"),
        (f"[net]{ENTRY}colour = 3", r"net\.colour is unknown$"),
        (f"[net]{ENTRY.replace('sha256', 'sha')}", r"net\.sha256 is missing; net\.sha is unknown$"),
        (f"[net]{ENTRY.replace('crop = 224', 'crop = 224, maen = 1')}", r"net\.recipe\.maen is unknown$"),
        (f"[net]{ENTRY}package = 3", r"net\.package: 3 is not text$"),
        (
            f"[net]{ENTRY.replace('bilinear', 'nearest')}",
            r"recipe\.interpolation: 'nearest' is not one of bilinear, bic",
        ),
        (f"[net]{ENTRY.replace('crop = 224', 'crop = 1.5')}", r"recipe\.crop: 1\.5 is not a whole number$"),
        (f"[net]{ENTRY.replace('0.5, 0.5, 0.5', '0.5')}", r"recipe\.mean\.1 is missing; "),
        (f"[net]{ENTRY.replace('0.5, 0.5, 0.5', '0.5, 0.5, []')}", r"recipe\.mean\.2: \[\] is not a number; "),
    ],
)
def test_a_bad_manifest_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "manifest.toml"
    path.write_text(text)
    with pytest.raises(BadManifest, match=message):
        weights.read_manifest(path)
    with pytest.raises(BadManifest, match=r"nowhere\.toml \(EYESPOT_MANIFEST\): No such file or directory$"):
        weights.read_manifest(tmp_path / "nowhere.toml")


def test_the_default_manifest_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(weights.read_manifest(Path("weights/manifest.toml"))) == ["resnet18", "efficientnet-lite0"]


def test_the_users_own_models_come_after_those_of_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.toml").write_text(f"[net]{ENTRY}\n[flowers]{ENTRY}")
    own = weights.own_manifest(tmp_path / "data")
    assert list(weights.read_manifest(tmp_path / "manifest.toml", tmp_path / "data")) == ["net", "flowers"]
    own.parent.mkdir(parents=True)
    own.write_text(f"[birds]{ENTRY}\n[flowers]{ENTRY}")
    entries = weights.read_manifest(tmp_path / "manifest.toml", tmp_path / "data")
    assert [(entry.name, entry.folder) for entry in entries.values()] == [
        ("net", tmp_path),
        ("flowers", own.parent),
        ("birds", own.parent),
    ]
    own.write_text("[birds")
    with pytest.raises(BadManifest, match=r"models/manifest\.toml \(EYESPOT_DATA_DIR\)"):
        weights.read_manifest(tmp_path / "manifest.toml", tmp_path / "data")


def test_an_incomplete_installation_is_an_error() -> None:
    """Not a StopIteration, which would be lost in the thread that loads the model."""
    assert not weights.packaged("weights/gone.toml").exists()
