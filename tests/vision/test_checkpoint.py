"""Checkpoints in the usual forms load, and whatever does not fit is told with the parameter and both numbers."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from eyespot.errors import WeightsCorrupt
from eyespot.types import Recipe
from eyespot.vision.engines import Logits, Threads
from eyespot.vision.engines.network import Network, build
from eyespot.vision.engines.torch import TorchEngine, load
from tests import makers

ARCHITECTURE = "shufflenet_v2_x0_5"  # the smallest
PIXELS = np.asarray(makers.photograph("coffee").resize((64, 64)))[None]
RECIPE = Recipe(64, 64, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return dict(build(ARCHITECTURE, 5).state_dict())


def logits(file: Path) -> Logits:
    engine = load(file, Threads(), model="mine", architecture=ARCHITECTURE, classes=5, recipe=RECIPE)
    return engine.infer(PIXELS)[0]


@pytest.fixture(scope="module")
def expected(state: State) -> Logits:
    network = build(ARCHITECTURE, 5)
    network.load_state_dict(state)
    engine = TorchEngine(Network(network, RECIPE), Threads())
    return engine.infer(PIXELS)[0]


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {
        "epoch": 3,
        "state_dict": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1}]},
    },
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.25},
    "model": lambda state: {"model": state, "args": None},
    "nested": lambda state: {"model": {"state_dict": state}},
    "module.": lambda state: prefixed("module.", state),
    "model. of Lightning": lambda state: {"state_dict": prefixed("model.", state), "pytorch-lightning_version": "2.5"},
    "module.model._orig_mod.": lambda state: prefixed("module.model._orig_mod.", state),
    "without counts": lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_in_a_usual_form_loads(state: State, expected: Logits, tmp_path: Path, form: str) -> None:
    torch.save(FORMS[form](state), tmp_path / "mine.pth")
    assert (logits(tmp_path / "mine.pth") == expected).all()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_load(state: State, expected: Logits, tmp_path: Path, prefix: str) -> None:
    save_file(prefixed(prefix, state), tmp_path / "mine.safetensors")
    assert (logits(tmp_path / "mine.safetensors") == expected).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(state: State, tmp_path: Path, dtype: torch.dtype) -> None:
    half = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    torch.save({name: value.to(torch.float32) for name, value in half.items()}, tmp_path / "bare.pth")
    save_file(half, tmp_path / "mine.safetensors")
    found = logits(tmp_path / "mine.safetensors")
    assert found.dtype == np.float32
    assert (found == logits(tmp_path / "bare.pth")).all()


class Malicious:
    """Creates a file when it is unpickled as pickle does it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_file_that_holds_more_than_tensors_is_refused_and_runs_nothing(state: State, tmp_path: Path) -> None:
    ran, mine = tmp_path / "ran", tmp_path / "mine.pth"
    pickle.loads(pickle.dumps(Malicious(ran)))
    ran.unlink()  # it would have run
    for content in (build(ARCHITECTURE, 5), {"state_dict": state, "args": Malicious(ran)}):
        torch.save(content, mine)
        with pytest.raises(
            WeightsCorrupt, match=r"mine\.pth is damaged, or holds more than tensors; save one with `torch"
        ):
            logits(mine)
    mine.write_bytes(pickle.dumps(Malicious(ran), protocol=2))
    with pytest.raises(WeightsCorrupt, match="more than tensors"):
        logits(mine)
    assert not ran.exists()


@pytest.mark.parametrize("name", ["mine.pth", "mine.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", bytes(100)])
def test_a_file_that_is_no_checkpoint_is_told_with_the_remedy(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsCorrupt, match=r"is damaged, .*safetensors$"):
        logits(tmp_path / name)


ENDLESS: dict[str, Any] = {}
ENDLESS["model"] = ENDLESS
ODD = [{3: torch.zeros(1)}, {"a": torch.zeros(1, dtype=torch.int8)}, ENDLESS]


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [1], {}, {"epoch": 3}, {"state_dict": {}}, {"model": {"a": 1}}, *ODD]
)
def test_a_checkpoint_without_a_state_dict_is_told_with_the_remedy(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "mine.pth")
    with pytest.raises(WeightsCorrupt, match=r"mine\.pth has no state dict; save one with `torch\.save"):
        logits(tmp_path / "mine.pth")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fc.weight": torch.zeros(9, 1024)}, r"labels has 5 classes, but the weights have 9 outputs \(fc\.weight\)"),
        ({"fc.bias": torch.zeros(9)}, r"labels has 5 classes, but the weights have 9 outputs \(fc\.bias\)"),
        (
            {"conv1.0.weight": torch.zeros(24, 1, 3, 3), "fc.weight": torch.zeros(9, 1024)},
            r"conv1\.0\.weight has the shape 24 x 1 x 3 x 3 in the weights, and 24 x 3 x 3 x 3 in the architecture",
        ),
        (
            {"fc.weight": torch.zeros(5, 9)},
            r"fc\.weight has the shape 5 x 9 in the weights, and 5 x 1024 in the architecture",
        ),
        ({"fc.bias": None}, r"the weights do not fit the architecture: they lack fc\.bias"),
        (
            {"fc.bias": None, "conv5.0.weight": None},
            r"the weights do not fit the architecture: they lack conv5\.0\.weight and 1 other",
        ),
        (
            {"aux.bias": torch.zeros(1)},
            r"the weights do not fit the architecture: they have aux\.bias, which it does not",
        ),
        (
            {"fc.bias": None, "a": torch.zeros(1), "b": torch.zeros(1), "c": torch.zeros(1)},
            r"the weights do not fit the architecture: they lack fc\.bias and have a and 2 others, which it does not",
        ),
    ],
)
def test_weights_that_do_not_fit_name_the_parameter_and_both_numbers(
    state: State, tmp_path: Path, changed: dict[str, torch.Tensor | None], message: str
) -> None:
    other = {name: value for name, value in {**state, **changed}.items() if value is not None}
    torch.save(other, tmp_path / "mine.pth")
    with pytest.raises(WeightsCorrupt, match=f"^mine: {message}$"):
        logits(tmp_path / "mine.pth")
