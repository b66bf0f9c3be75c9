"""Training of more than the last layer, on a small network of our own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from eyespot.errors import BadDataset
from eyespot.types import Recipe
from eyespot.vision.engines.network import Network
from eyespot.vision.finetune import layers
from eyespot.vision.finetune.layers import Images, Unfreeze
from tests import makers

RECIPE = Recipe(40, 32, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def network() -> Network:
    torch.manual_seed(0)
    parts = {
        "stem": torch.nn.Conv2d(3, 8, 5, stride=2),
        "norm": torch.nn.BatchNorm2d(8),
        "layer1": torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv2d(8, 12, 3, stride=2), torch.nn.ReLU()),
        "layer10": torch.nn.Conv2d(12, 12, 1),
        "pool": torch.nn.AdaptiveAvgPool2d(1),
        "flat": torch.nn.Flatten(),
        "head": torch.nn.Linear(12, 2),
    }
    plain = torch.nn.Sequential()
    for name, part in parts.items():
        plain.add_module(name, part)
    return Network(plain.eval(), RECIPE)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Images:
    monkeypatch.setattr(layers, "_LEARNING_RATE", 0.01)  # of a network that knows nothing yet
    monkeypatch.setattr(layers, "_PATIENCE", 3)
    paths = []
    for number in range(40):
        paths.append(tmp_path / f"{number}.png")
        bright = 180 * (number >= 20) + number
        paths[-1].write_bytes(makers.encode(makers.flat((48, 40), (bright, 2 * number, bright)), "PNG"))
    held_out = np.arange(40) % 5 == 0
    plan = Unfreeze("layer1", 3, 0, tmp_path / "checkpoint", 10**6, 1)
    return Images(paths, np.repeat([0, 1], 20), held_out, RECIPE, plan)


def stop_in(epoch: int) -> Callable[[str, int, int], None]:
    def progress(what: str, done: int, _total: int) -> None:
        if what.startswith(f"epoch {epoch} ") and done:
            raise KeyboardInterrupt

    return progress


def test_only_the_chosen_layers_and_the_head_learn(images: Images) -> None:
    before, tuned = network(), network()
    logits = layers.tune(tuned, images)
    assert logits.shape == (8, 2)
    changed = {name for name, value in tuned.state_dict().items() if (value != before.state_dict()[name]).any()}
    assert changed == {f"body.layer1.1.{name}" for name in ("weight", "bias")} | {"head.weight", "head.bias"}
    assert {name for name, value in tuned.named_parameters() if value.requires_grad} == changed


def test_layers_that_do_not_exist_are_an_error() -> None:
    with pytest.raises(BadDataset, match="no layers 'layer4'; it has stem, norm, layer1, layer10"):
        layers.unfreeze(network(), "layer4")


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(images: Images) -> None:
    whole = layers.tune(network(), images)
    images.plan.checkpoint.unlink()
    with pytest.raises(KeyboardInterrupt):
        layers.tune(network(), images, stop_in(3))
    assert images.plan.checkpoint.exists()
    seen: list[str] = []
    resumed = layers.tune(network(), images, lambda what, *_: seen.append(what))
    assert set(seen) == {"epoch 3 of 3"}
    assert (resumed == whole).all()


def test_a_checkpoint_of_another_run_is_not_used(images: Images) -> None:
    with pytest.raises(KeyboardInterrupt):
        layers.tune(network(), images, stop_in(3))
    other = network()
    other.head.weight.data += 1
    seen: list[str] = []
    layers.tune(other, images, lambda what, *_: seen.append(what))
    assert "epoch 1 of 3" in seen
    images.plan.checkpoint.write_bytes(b"cut off")
    layers.tune(network(), images)


def test_what_makes_it_worse_is_not_kept(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_LEARNING_RATE", 1e3)
    before, tuned = network(), network()
    layers.tune(tuned, images)
    assert all((value == before.state_dict()[name]).all() for name, value in tuned.state_dict().items())
