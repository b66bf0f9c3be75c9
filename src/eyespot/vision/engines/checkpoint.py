"""Reads checkpoints: the tensors of a network, however they were saved. Nothing in a file is ever run."""

from pathlib import Path
from typing import Any, cast

import torch

from eyespot.errors import WeightsCorrupt

State = dict[str, torch.Tensor]

_PLACES = ("state_dict", "model_state_dict", "model")  # of the state dict, beside the optimizer's
_DEPTH = 3  # of a state dict in a checkpoint, which may contain itself
_PREFIXES = ("module.", "model.", "_orig_mod.")  # of DataParallel, Lightning and torch.compile
_REMEDY = "save one with `torch.save(model.state_dict(), FILE)`, or as safetensors"


def read_state(weights: Path) -> State:
    """The state dict in a checkpoint of torch or safetensors; raises `WeightsCorrupt`."""
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsCorrupt(f"{weights} is damaged, or holds more than tensors; {_REMEDY}") from error
    for _ in range(_DEPTH):
        state = next((state[place] for place in _PLACES if _holds(state, place)), state)
    if not (isinstance(state, dict) and state and all(_is_weight(*item) for item in state.items())):
        raise WeightsCorrupt(f"{weights} has no state dict; {_REMEDY}")
    while prefix := next((one for one in _PREFIXES if all(name.startswith(one) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return cast(State, state)


def _is_weight(name: Any, value: Any) -> bool:
    """Whether it is a named tensor of the kinds that networks have: floating point, or a count."""
    plain = isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided
    return plain and not value.is_meta and (value.is_floating_point() or value.dtype == torch.int64)


def _holds(checkpoint: Any, place: str) -> bool:
    return isinstance(checkpoint, dict) and isinstance(checkpoint.get(place), dict)


def mismatch(state: State, network: torch.nn.Module, head: torch.nn.Module) -> str | None:
    """Why a state dict does not fit a network with that final layer, in one sentence; None if it fits."""
    expected = network.state_dict()
    # Old checkpoints do not count batches, and nothing reads the count.
    missing = [name for name in expected if name not in state and not name.endswith(".num_batches_tracked")]
    unknown = [name for name in state if name not in expected]
    if missing or unknown:
        lack = f"lack {_first(missing)}" if missing else ""
        have = f"have {_first(unknown)}, which it does not" if unknown else ""
        return f"the weights do not fit the architecture: they {' and '.join(filter(None, [lack, have]))}"
    name = next((name for name in state if state[name].shape != expected[name].shape), "")
    if not name:
        return None
    theirs, ours = state[name].shape, expected[name].shape
    if network.get_submodule(name.rpartition(".")[0]) is head and theirs[1:] == ours[1:]:
        return f"labels has {ours[0]:,} classes, but the weights have {theirs[0]:,} outputs ({name})"
    shapes = [" x ".join(map(str, shape)) for shape in (theirs, ours)]
    return "{} has the shape {} in the weights, and {} in the architecture".format(name, *shapes)


def _first(names: list[str]) -> str:
    others = len(names) - 1
    return names[0] + (f" and {others} other{'s' if others > 1 else ''}" if others else "")
