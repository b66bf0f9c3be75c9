import subprocess
from pathlib import Path

import pytest

from eyespot.errors import BadManifest, UnknownModel, WeightsCorrupt, WeightsMissing
from eyespot.types import Accuracy, Recipe
from eyespot.vision import weights
from eyespot.vision.weights import Entry
from tests.disk import file_size_limit
from tests.manifests import CONTENT, ENTRY, PACKAGED, PUBLISHED, SHA256
from tests.serving import ROOT

OFFICIAL = weights.read_manifest(ROOT / "weights" / "manifest.toml")


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


@pytest.fixture
def published(tmp_path: Path) -> Entry:
    (tmp_path / "manifest.toml").write_text(f"[net]{PUBLISHED}")
    return weights.read_manifest(tmp_path / "manifest.toml")["net"]


@pytest.mark.needs("sha256sum")
def test_the_first_verification_pins_the_whole_sha256_beside_the_file(published: Entry) -> None:
    published.path.write_bytes(CONTENT)
    for _ in range(2):
        checked = weights.verify(published)
        assert (checked.sha256, checked.bytes) == (SHA256, len(CONTENT))
        assert {path.name for path in published.folder.iterdir()} == {"manifest.toml", "net.pth", "net.pth.sha256"}
        subprocess.run(["sha256sum", "--check", "--strict", "net.pth.sha256"], cwd=published.folder, check=True)


def test_a_file_that_is_not_the_pinned_one_is_refused(published: Entry) -> None:
    published.path.write_bytes(CONTENT)
    other = f"{SHA256[:8]}{'0' * 56}"
    published.pin.write_text(f"{other}  net.pth\n")
    with pytest.raises(WeightsCorrupt, match=f"has sha256 {SHA256}, the weights of net have {other}"):
        weights.verify(published)


@pytest.mark.parametrize("text", ["", "no sha256", "0" * 64, "\N{GREEK SMALL LETTER ALPHA}" * 64])
def test_a_pin_that_does_not_fit_the_manifest_is_told_with_the_remedy(published: Entry, text: str) -> None:
    published.path.write_bytes(CONTENT)
    published.pin.write_text(text)
    told = rf"net\.pth\.sha256 does not hold a sha256 that begins with {SHA256[:8]}; delete it"
    with pytest.raises(WeightsCorrupt, match=told):
        weights.verify(published)


def test_where_nothing_can_be_written_the_prefix_is_checked_and_nothing_pinned(published: Entry) -> None:
    published.path.write_bytes(CONTENT)
    with file_size_limit(0):
        assert weights.verify(published).sha256 == SHA256
    assert {path.name for path in published.folder.iterdir()} == {"manifest.toml", "net.pth"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x" + CONTENT[1:], f"has sha256 .*, the weights of net have {SHA256[:8]}$"),
        (CONTENT[:-2000], r"has 305,200 bytes, the weights of net have 0\.293 MiB$"),
        (CONTENT + bytes(2000), r"has 309,200 bytes, the weights of net have 0\.293 MiB$"),
    ],
)
def test_a_file_that_does_not_fit_what_is_published_is_refused(published: Entry, content: bytes, message: str) -> None:
    published.path.write_bytes(content)
    with pytest.raises(WeightsCorrupt, match=message):
        weights.verify(published)
    assert not published.pin.exists()


@pytest.mark.parametrize(
    "name", [name for name, entry in OFFICIAL.items() if (entry.source or "").startswith("torchvision:")]
)
def test_an_official_entry_says_what_torchvision_says(name: str) -> None:
    from torchvision.models import get_weight

    entry = OFFICIAL[name]
    assert entry.source
    official = get_weight(entry.source.removeprefix("torchvision:"))
    file, transforms, meta = official.url.rpartition("/")[2], official.transforms(), official.meta
    accuracy = meta["_metrics"]["ImageNet-1K"]
    assert (entry.name, entry.file) == (entry.architecture, file)
    assert f"{type(official).__name__}".lower() == f"{name}_weights"
    assert file == f"{file.rpartition('-')[0]}-{(entry.sha256_prefix or entry.sha256)[:8]}.pth"
    assert (entry.mib or round(entry.bytes / 2**20, 3)) == meta["_file_size"]
    assert entry.accuracy == Accuracy(accuracy["acc@1"], "ImageNet-1k val, as published", accuracy["acc@5"])
    assert entry.recipe == Recipe(
        *transforms.resize_size,
        *transforms.crop_size,
        transforms.interpolation.value,
        tuple(transforms.mean),
        tuple(transforms.std),
    )
    assert transforms.antialias  # as Pillow resizes
    assert len(meta["categories"]) == 1000


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
    with pytest.raises(
        UnknownModel,
        match=r"^unknown model 'Offical'; did you mean official\? `eyespot weights list`",
    ):
        weights.choose(entries, "Offical")


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
        (f"[net]{ENTRY.replace('sha256', 'sha')}", r"net\.sha is unknown$"),
        (f"[net]{ENTRY}".replace(f'sha256 = "{SHA256}"', ""), r"net\.sha256 is missing$"),
        (f"[net]{ENTRY}".replace("bytes = 307200", ""), r"net\.bytes is missing$"),
        (
            f"[net]{PUBLISHED}".replace(SHA256[:8], "ABC"),
            r"sha256_prefix: 'ABC' is not 8 to 64 hexadecimal digits in lower",
        ),
        (f"[net]{PUBLISHED}".replace("0.293", "0"), r"net\.mib: 0 is not a number above 0$"),
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
    assert list(weights.read_manifest(Path("weights/manifest.toml")))[:2] == ["resnet18", "efficientnet-lite0"]


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
    own.write_text("# none yet")
    assert len(weights.read_manifest(tmp_path / "manifest.toml", tmp_path / "data")) == 2
    own.write_text("[birds")
    with pytest.raises(BadManifest, match=r"models/manifest\.toml \(EYESPOT_DATA_DIR\)"):
        weights.read_manifest(tmp_path / "manifest.toml", tmp_path / "data")


def test_an_incomplete_installation_is_an_error() -> None:
    """Not a StopIteration, which would be lost in the thread that loads the model."""
    assert not weights.packaged("weights/gone.toml").exists()
