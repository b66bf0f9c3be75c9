"""int8 from a folder of images: the command, and what it chooses, measures and refuses."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from eyespot.errors import EngineUnavailable, ExportRefused, TooFewImages
from eyespot.types import Quantization
from eyespot.vision import export, exporter, quantize, weights
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import Engine, Threads
from eyespot.vision.quantize import Images
from eyespot.vision.weights import Entry
from tests import makers
from tests.recorder import recorder_in
from tests.serving import EYESPOT, RECIPE, ROOT, FakeEngine, environment

MANIFEST = ROOT / "weights" / "manifest.toml"
PHOTOGRAPHS = ["chelsea", "coffee", "rocket", "astronaut", "hubble_deep_field", "retina", "camera", "moon"]


def views(photograph: Image.Image) -> list[Image.Image]:
    """Five small images from one photograph: the whole, its mirror image and three parts."""
    small = photograph.resize((320, 320 * photograph.height // photograph.width))
    width, height = small.size
    parts = [(0, 0, 240, height * 3 // 4), (80, height // 4, width, height), (40, height // 8, 280, height * 7 // 8)]
    return [small, small.transpose(Image.Transpose.FLIP_LEFT_RIGHT), *(small.crop(part) for part in parts)]


@pytest.fixture(scope="module")
def entry() -> Entry:
    return weights.read_manifest(MANIFEST)["efficientnet-lite0"]


@pytest.fixture(scope="module")
def images_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty different images, one of them twice, and a text."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "below").mkdir()
    for name in PHOTOGRAPHS:
        for number, view in enumerate(views(makers.photograph(name))):
            (folder / "below" / f"{name}-{number}.jpg").write_bytes(makers.encode(view, quality=90))
    shutil.copy(folder / "below" / "coffee-0.jpg", folder / "again.jpg")
    (folder / "notes.txt").write_text("not an image")
    return folder


REAL = pytest.mark.needs("make test-all")  # half a minute


class Quantized(SimpleNamespace):
    """What `eyespot quantize` left behind."""

    done: subprocess.CompletedProcess[str]
    data_dir: Path
    calls: str

    @property
    def classifier(self) -> Classifier:
        return Classifier.open(MANIFEST, "efficientnet-lite0", precision="int8", data_dir=self.data_dir)

    @property
    def report(self) -> Quantization:
        report = self.classifier.card.quantization
        assert report
        return report


@pytest.fixture(scope="module")
def base(entry: Entry, data_dir: Path) -> tuple[Path, export.Export]:
    """The float32 export."""
    found = export.find(entry, 1000, "openvino", [data_dir / "exports"])
    assert found
    return found


def older(entry: Entry, base: tuple[Path, export.Export], data_dir: Path) -> Path:
    """An older int8 export in a data folder: the float32 one under another name, without a report."""

    def write(unfinished: Path) -> export.Export:
        for name in base[1].files:
            shutil.copy(base[0] / name, unfinished)
        return base[1].model_copy(update={"precision": "int8"})

    (data_dir / "exports").mkdir(parents=True)
    (data_dir / "exports" / base[0].name).symlink_to(base[0])
    return export.publish(data_dir / "exports", export.folder_name(entry, "openvino", "int8"), write)


@pytest.fixture(scope="module")
def quantized(
    entry: Entry, base: tuple[Path, export.Export], images_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Quantized:
    """One real run over an older int8 export, with its network calls recorded."""
    folder = tmp_path_factory.mktemp("quantized")
    older(entry, base, folder / "data")
    settings = {"EYESPOT_MODEL": entry.name, "EYESPOT_DATA_DIR": str(folder / "data"), "COLUMNS": "120"}
    settings["EYESPOT_MANIFEST"] = str(MANIFEST)
    with pytest.MonkeyPatch.context() as patch:
        recorder = recorder_in(folder, patch)
        done = subprocess.run(
            # Forced, because these images are too few and too odd.
            [EYESPOT, "quantize", "--images", images_dir, "--force"],
            env=environment(**settings, **recorder),
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    return Quantized(done=done, data_dir=folder / "data", calls=Path(recorder["RECORD"]).read_text())


@REAL
def test_the_report_is_printed_and_is_on_the_card(quantized: Quantized) -> None:
    report = quantized.report
    rows = [line.split("│")[1:3] for line in quantized.done.stdout.splitlines() if line.startswith("│")]
    table = {name.strip(): value.strip() for name, value in rows}
    assert table["best preset"] == report.preset
    assert table["images to calibrate, to compare"] == f"{report.calibrated_on}, {report.measured_on}"
    assert table["same likeliest class"] == f"{report.agreement:.1%}"
    assert table["confidence difference, mean"] == f"{report.mean_difference:.3f}"
    assert table["confidence difference, worst"] == f"{report.worst_difference:.3f}"
    assert table["images/s in float32"] == f"{report.images_per_second_before:.1f}"
    assert table["images/s in int8"] == f"{report.images_per_second:.1f}"


@REAL
def test_every_distinct_image_calibrates_or_measures(quantized: Quantized) -> None:
    report = quantized.report
    assert (report.calibrated_on, report.measured_on) == (26, 14)
    assert report.preset in quantize.PRESETS
    assert (report.agreement * 14) == pytest.approx(round(report.agreement * 14), abs=1e-3)
    assert 0 < report.mean_difference < report.worst_difference < 1


@REAL
def test_a_file_that_is_no_image_is_named(quantized: Quantized, images_dir: Path) -> None:
    named = [line for line in quantized.done.stderr.splitlines() if "not a readable image" in line]
    assert named == [f"{images_dir / 'notes.txt'}: not a readable image"]


@REAL
def test_the_weights_are_a_quarter_as_large(quantized: Quantized, base: tuple[Path, export.Export]) -> None:
    int8 = quantized.data_dir / "exports" / f"{base[0].name}-int8" / "model.bin"
    assert int8.stat().st_size < 0.3 * (base[0] / "model.bin").stat().st_size


@REAL
def test_int8_recognises_the_golden_image_and_photographs(quantized: Quantized) -> None:
    classifier = quantized.classifier
    assert (classifier.info.engine, classifier.info.precision) == ("openvino", "int8")
    classifier.check_golden_image()
    assert "espresso" in {found.label for found in classifier.classify(makers.jpeg("coffee"))}
    logits, features = classifier.engine.infer(exporter.proof_images(RECIPE)[:2], features=True)
    assert features is not None
    assert (logits.shape, features.shape) == ((2, 1000), (2, 1280, 7, 7))


@REAL
def test_nothing_but_the_two_exports_is_left(quantized: Quantized, base: tuple[Path, export.Export]) -> None:
    exports = quantized.data_dir / "exports"
    assert {path.name for path in exports.iterdir()} == {base[0].name, f"{base[0].name}-int8"}
    left = {path.name for path in (exports / f"{base[0].name}-int8").iterdir()}
    assert left == {"export.json", "head.npz", "model.bin", "model.xml"}


@REAL
def test_quantize_calls_nobody(quantized: Quantized) -> None:
    assert quantized.calls == ""


def test_without_images_the_command_fails_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    settings = {"EYESPOT_MODEL": "efficientnet-lite0", "EYESPOT_DATA_DIR": str(tmp_path / "data")}
    command = [EYESPOT, "quantize", "--images", "images"]
    done = subprocess.run(
        command, env=environment(**settings), cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("eyespot: ")]
    assert "images has 0 different readable images" in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


class Knows(FakeEngine):
    """Gives the confidences at the index in an image's first byte, and moves a clock by its seconds."""

    def __init__(self, answers: list[list[float]], clock: "Clock | None" = None, *seconds: float) -> None:
        super().__init__()
        self.logits = np.log(np.array(answers, np.float32))
        self.clock = clock
        self.seconds = seconds or (1.0,)

    def infer(self, pixels, *, features=False, exclusive=False):  # type: ignore[no-untyped-def]
        if self.clock:
            self.clock.now += self.seconds[self.calls % len(self.seconds)]
        self.calls += 1
        return self.logits[pixels[:, 0, 0, 0]], None


class Clock:
    """Moves only while an engine computes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def numbered(count: int) -> Images:
    return Images([np.full((2, 2, 3), number, np.uint8) for number in range(count)], [])


SURE = [0.8, 0.1, 0.1]
UNDECIDED = [0.34, 0.33, 0.33]


def test_the_nearest_preset_is_chosen_even_if_a_top1_changes(clock: Clock) -> None:
    before = Knows([SURE, UNDECIDED], clock)
    candidates: dict[str, Engine] = {
        "unsure": Knows([[0.5, 0.3, 0.2], UNDECIDED], clock),
        "near": Knows([SURE, [0.33, 0.34, 0.33]], clock),
        "wrong": Knows([[0.1, 0.8, 0.1], UNDECIDED], clock),
    }
    assert quantize.choose_preset(before, candidates, numbered(2).pixels, clock) == "near"


def test_confidences_that_are_0_in_float32_are_compared_too(clock: Clock) -> None:
    with np.errstate(divide="ignore"):  # of the fakes' own logarithm
        candidates: dict[str, Engine] = {"wrong": Knows([[1, 0, 0]], clock), "near": Knows([[0, 1, 1e-9]], clock)}
        assert quantize.choose_preset(Knows([[0, 1, 0]], clock), candidates, numbered(1).pixels, clock) == "near"


@pytest.mark.parametrize(("seconds", "chosen"), [(1, "near"), (1.05, "near"), (1.06, "quick"), (3, "quick")])
def test_a_preset_more_than_5_percent_slower_is_left_out(clock: Clock, seconds: float, chosen: str) -> None:
    candidates: dict[str, Engine] = {
        "quick": Knows([[0.5, 0.3, 0.2]], clock, 1),
        "near": Knows([SURE], clock, seconds),
    }
    assert quantize.choose_preset(Knows([SURE], clock), candidates, numbered(1).pixels, clock) == chosen


def test_a_busy_moment_does_not_count(clock: Clock) -> None:
    engines: list[Engine] = [Knows([SURE], clock, 1, 50, 1), Knows([SURE], clock, 2)]
    assert quantize.median_seconds(engines, numbered(1).pixels[0], clock) == [1, 2]


def changed(count: int) -> list[list[float]]:
    """Confidences for 30 images; `count` of the ten held out change their top-1."""
    return [[0.3, 0.6, 0.1] if number % 3 == 0 and number < 3 * count else [0.7, 0.2, 0.1] for number in range(30)]


@pytest.mark.parametrize(("count", "force", "refused"), [(1, False, False), (2, False, True), (2, True, False)])
def test_less_than_90_percent_agreement_is_refused_unless_forced(
    clock: Clock, count: int, force: bool, refused: bool
) -> None:
    before, after = Knows([SURE] * 30, clock), Knows(changed(count), clock)
    if refused:
        with pytest.raises(ExportRefused, match=r"80\.0% of 10 images.*--force"):
            quantize.compare(before, after, numbered(30), "a preset", force=force, clock=clock)
    else:
        report = quantize.compare(before, after, numbered(30), "a preset", force=force, clock=clock)
        assert report.agreement == 1 - count / 10


def test_the_report_is_about_the_images_held_out(clock: Clock) -> None:
    answers = [[0.3, 0.6, 0.1] if number % 3 else [0.7, 0.2, 0.1] for number in range(30)]
    answers[27] = [0.3, 0.6, 0.1]
    before, after = Knows([SURE] * 30, clock, 1 / 25), Knows(answers, clock, 1 / 100)
    assert quantize.compare(before, after, numbered(30), "a preset", force=False, clock=clock) == Quantization(
        preset="a preset",
        calibrated_on=20,
        measured_on=10,
        agreement=0.9,
        mean_difference=0.14,  # nine that are 0.1 apart and one that is 0.5
        worst_difference=0.5,
        images_per_second=100,
        images_per_second_before=25,
    )


@pytest.mark.parametrize("count", [30, 31, 32, 40])
def test_images_are_calibrated_on_or_held_out_and_never_both(count: int) -> None:
    images = numbered(count)
    calibration, held_out = ({int(image[0, 0, 0]) for image in part} for part in (images.calibration, images.held_out))
    assert not calibration & held_out
    assert calibration | held_out == set(range(count))
    assert len(held_out) == -(-count // 3)


def write_images(folder: Path, numbers: range, name: str = "{}.png") -> Path:
    for number in numbers:
        (folder / name.format(number)).write_bytes(makers.encode(makers.flat(color=(number, 0, 0)), "PNG"))
    return folder


def read(folder: Path, limit: int | None = None) -> Images:
    return quantize.read_images(folder, RECIPE, limit, lambda *_: None)


def colors(images: Images) -> list[int]:
    return [int(image[0, 0, 0]) for image in images.pixels]


def test_all_images_of_a_folder_and_those_below_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    write_images(tmp_path, range(20))
    write_images(tmp_path / "a" / "b", range(20, 32))
    images = read(tmp_path)
    assert sorted(colors(images)) == list(range(32))
    assert images.skipped == []
    assert images.pixels[0].shape == (224, 224, 3)
    assert images.pixels[0].dtype == np.uint8


def test_skipped_files_do_not_count_towards_the_limit(tmp_path: Path) -> None:
    write_images(tmp_path, range(40))
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    assert len(read(tmp_path, 31).pixels) == 31
    assert colors(read(tmp_path, 31)) == colors(read(tmp_path))[:31]
    assert len(read(tmp_path, 40).pixels) == len(read(tmp_path, 99).pixels) == 40


def test_duplicates_are_read_once(tmp_path: Path) -> None:
    write_images(tmp_path, range(30))
    write_images(tmp_path, range(10), "again-{}.png")
    assert sorted(colors(read(tmp_path))) == list(range(30))


def test_unreadable_files_are_skipped_and_named(tmp_path: Path) -> None:
    write_images(tmp_path, range(30))
    broken = {"text.png": b"hello", "empty.jpg": b"", "cut.jpg": makers.jpeg("coffee")[:500]}
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
    images = read(tmp_path)
    assert {path.name for path in images.skipped} == set(broken)
    assert len(images.pixels) == 30


@pytest.mark.parametrize(("count", "copies"), [(0, 0), (29, 0), (29, 29)])
def test_less_than_30_different_images_are_too_few(tmp_path: Path, count: int, copies: int) -> None:
    write_images(tmp_path, range(count))
    write_images(tmp_path, range(copies), "again-{}.png")
    with pytest.raises(TooFewImages, match=f"has {count} different readable images"):
        read(tmp_path)


def test_a_missing_folder_has_too_few_images(tmp_path: Path) -> None:
    with pytest.raises(TooFewImages, match="gone"):
        read(tmp_path / "gone")


def test_the_order_of_images_does_not_depend_on_their_names(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    write_images(tmp_path / "one", range(32))
    for number in range(32):
        shutil.copy(tmp_path / "one" / f"{number}.png", tmp_path / "two" / f"{99 - number}.png")
    assert colors(read(tmp_path / "one")) == colors(read(tmp_path / "two"))
    # So the third held out is not every third of a camera's numbers.
    assert colors(read(tmp_path / "one")) != sorted(colors(read(tmp_path / "one")))


def test_a_refused_export_leaves_the_older_one(entry: Entry, base: tuple[Path, export.Export], tmp_path: Path) -> None:
    place = older(entry, base, tmp_path)
    before = (place / "export.json").stat().st_ino

    def calibrate(base: Path, images: object, preset: object, folder: Path) -> None:
        folder.mkdir()

    def load(engine: str, folder: Path, threads: Threads, *, precision: str = "f32") -> Engine:
        return Knows([[0.1, 0.9] if precision == "int8" else [0.9, 0.1]] * 30)

    with pytest.raises(ExportRefused):
        quantize.quantize(entry, 1000, numbered(30), tmp_path, threads=1, calibrate=calibrate, load=load)
    assert (place / "export.json").stat().st_ino == before
    assert export.find(entry, 1000, "openvino", [tmp_path / "exports"], "int8")
    assert {path.name for path in place.parent.iterdir()} == {base[0].name, place.name}


def test_without_nncf_the_error_says_what_to_install(
    entry: Entry, base: tuple[Path, export.Export], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = older(entry, base, tmp_path)
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(EngineUnavailable, match=r"pip install eyespot\[quantize\]"):
        quantize.quantize(entry, 1000, numbered(30), tmp_path, threads=1)
    assert {path.name for path in place.parent.iterdir()} == {base[0].name, place.name}
