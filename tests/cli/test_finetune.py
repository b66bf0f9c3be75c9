"""`eyespot finetune`, as a process."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from eyespot.vision import weights
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import Threads
from eyespot.vision.engines.torch import TorchEngine, load_network
from eyespot.vision.preprocess import preprocess
from tests import makers
from tests.serving import ROOT, run, serve_process

KINDS, TRAINED, TESTED = 10, range(40), range(40, 60)


@pytest.fixture
def settings(tmp_path: Path, packaged: dict[str, str]) -> dict[str, str]:
    """The packaged network, with a data folder of the test's own."""
    exports = tmp_path / "data" / "exports"
    exports.mkdir(parents=True)
    for made in Path(packaged["EYESPOT_DATA_DIR"], "exports").glob("[!.]*"):  # not what another test is making
        (exports / made.name).symlink_to(made)
    return {**packaged, "EYESPOT_DATA_DIR": str(tmp_path / "data")}


def test_a_mistake_is_told_before_anything_is_computed(tmp_path: Path, settings: dict[str, str]) -> None:
    folder = makers.textures(tmp_path / "images", 2, range(1))
    for name, message in [
        ("resnet18", "resnet18 is a model of"),
        ("My Flowers", "use lower-case letters, digits"),
    ]:
        told = run("finetune", str(folder), "--name", name, cwd=tmp_path, **settings)
        assert (told.returncode, message in told.stderr) == (2, True), told.stderr
    assert not (tmp_path / "data" / "models").exists()


def nothing(number: int) -> bytes:
    """Part of a photograph, on which there are no stripes."""
    image = makers.photograph(("coffee", "rocket", "astronaut", "chelsea")[number % 4])
    left, top = np.random.default_rng(number).integers(0, 150, 2).tolist()
    return makers.encode(image.crop((left, top, left + 140, top + 140)))


@pytest.mark.needs("make test-all")
def test_from_a_folder_to_a_server(tmp_path: Path, settings: dict[str, str]) -> None:
    folder = makers.textures(tmp_path / "images", KINDS, TRAINED)
    (folder / "_").mkdir()
    for number in TRAINED:
        (folder / "_" / f"{number}.jpg").write_bytes(nothing(number))
    (folder / "labels.csv").write_text("folder,label,zh,group\nstripes 0,upright,竖纹,stripes\n")
    (folder / "stray.png").write_bytes((folder / "stripes 0" / "0.png").read_bytes())
    (folder / "stripes 1" / "copy.png").write_bytes((folder / "stripes 2" / "0.png").read_bytes())

    done = run("finetune", str(folder), "--name", "own", cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    assert f"{KINDS * 40 + 39} images, cross-validated" in done.stdout  # without the copies
    assert "stray.png: not in a class's folder, left out" in done.stderr
    assert "the same image in different classes, left out" in done.stderr
    assert done.stdout.splitlines()[-1] == f"EYESPOT_DATA_DIR={tmp_path}/data EYESPOT_MODEL=own eyespot serve"
    again = run("finetune", str(folder), "--name", "own", cwd=tmp_path, **settings)
    saved = [line.split(" after ")[0] for line in (done.stdout + again.stdout).splitlines() if "saved to" in line]
    assert saved[0] == saved[1]  # whose name holds the sha256

    own = {**settings, "EYESPOT_MODEL": "own"}
    (folder / "stray.png").unlink()
    flattered = run("evaluate", str(folder), cwd=tmp_path, **own)
    assert f"{KINDS * 40 + 39} of {KINDS * 40 + 39} images trained this model" in flattered.stderr, flattered.stderr
    refused = run("calibrate", str(folder), cwd=tmp_path, **own)
    assert (refused.returncode, "calibrate it only on new images" in refused.stderr) == (2, True), refused.stderr
    accuracy, reference = _accuracy(folder, tmp_path / "data")
    assert 0.5 < reference < 1
    assert accuracy >= reference - 0.01
    card = json.loads(run("model", "--json", cwd=tmp_path, **own).stdout)
    assert (card["name"], card["classes"], card["stand_in"]) == ("own", KINDS + 1, False)
    with serve_process(**own) as served, served.client() as client:
        found = client.post("/predict?lang=zh", content=makers.encode(makers.texture(0, 99), "PNG")).json()
        assert found["predictions"][0]["label"] == "竖纹"
        for number in range(100, 104):
            assert client.post("/predict", content=nothing(number)).json()["says"]["kind"] == "unsure"


def _accuracy(folder: Path, data_dir: Path) -> tuple[float, float]:
    """Of the trained model, and of scikit-learn's logistic regression on torch's features, on images new to both."""
    manifest = ROOT / "weights" / "manifest.toml"
    entry = weights.read_manifest(manifest)["efficientnet-lite0"]
    torch = TorchEngine(load_network(entry.name, entry.architecture, entry.path, 1000, entry.recipe), Threads(1, 2, 2))
    own = Classifier.open(manifest, "own", data_dir=data_dir, precision="f32", latency_threads=2)

    def features(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        maps = torch.infer(preprocess(data, entry.recipe).pixels[None], features=True)[1]
        assert maps is not None
        return maps[0].mean((1, 2))

    seen = [(features(path.read_bytes()), path.parent.name) for path in sorted(folder.glob("*/*.*"))]
    with threadpool_limits(1):  # several took 20 times as long beside other processes
        fitted = LogisticRegression(max_iter=1000).fit([row for row, _ in seen], [name for _, name in seen])
    names = {"stripes 0": "upright", "_": "other"}
    right = []
    for kind in range(KINDS):
        for number in TESTED:
            data, name = makers.encode(makers.texture(kind, number), "PNG"), f"stripes {kind}"
            ours, theirs = own.classify(data)[0].label, fitted.predict([features(data)])[0]
            right.append((ours == names.get(name, name), theirs == name))
    return tuple(np.mean(right, axis=0))  # type: ignore[return-value]
