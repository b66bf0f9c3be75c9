"""Training of the final layer of a network that has layers before it."""

from pathlib import Path

import numpy as np
import torch

from eyespot.vision import weights
from eyespot.vision.engines.torch import load_network
from eyespot.vision.finetune.dataset import Dataset
from eyespot.vision.finetune.features import Features
from eyespot.vision.finetune.training import train
from eyespot.vision.labels import ClassRow, Labels
from eyespot.vision.weights import Entry
from tests.vision.test_network import MANIFEST, RECIPE, lively


def base(folder: Path) -> Entry:
    torch.save(lively("mobilenet_v3_small").state_dict(), folder / "mine.pth")
    size, digest = (folder / "mine.pth").stat().st_size, weights.sha256(folder / "mine.pth")
    (folder / "manifest.toml").write_text(MANIFEST.format(sha256=digest, bytes=size))
    return weights.read_manifest(folder / "manifest.toml")["mine"]


def test_the_final_layer_is_trained_on_what_the_layers_before_it_give(tmp_path: Path) -> None:
    entry = base(tmp_path)
    truth = np.arange(20) % 2
    pixels = torch.randint(0, 128, (20, RECIPE.crop, RECIPE.crop, 3), dtype=torch.uint8)
    pixels[truth == 1, :, :, 0] += 127  # the second class is red
    with torch.inference_mode():
        pooled = load_network("mine", entry.architecture, entry.path, 7, entry.recipe)(pixels)[1].mean((2, 3)).numpy()
    labels = Labels(tuple(ClassRow(i, "", name) for i, name in enumerate(("grey", "red"))), ())
    paths = [Path(f"{number}.png") for number in range(20)]
    trained = train(entry, 7, Dataset(labels, [], []), Features(paths, [], pooled, truth, [], []), seed=0)
    with torch.inference_mode():
        assert (trained.network(pixels)[0].argmax(1).numpy() == truth).all()
    saved = trained.network.weights()
    assert saved.keys() == lively("mobilenet_v3_small").state_dict().keys()
    assert saved["classifier.3.weight"].shape == (2, 1024)
