"""The reference engine: torch in float32. Every export is made from it and proved against it."""

from pathlib import Path
from typing import Any

import torch

from eyespot.errors import WeightsCorrupt
from eyespot.types import Recipe
from eyespot.vision.engines import Answer, Pixels, Threads, Weights
from eyespot.vision.engines.checkpoint import mismatch, read_state
from eyespot.vision.engines.network import Network, build


def load_network(model: str, architecture: str, weights: Path, classes: int, recipe: Recipe) -> Network:
    """The network with its weights, in evaluation mode; raises `EngineUnavailable` or `WeightsCorrupt`."""
    whole = build(architecture, classes)
    network = Network(whole, recipe)
    state = read_state(weights)
    if why := mismatch(state, whole, network.head):
        raise WeightsCorrupt(f"{model}: {why}")
    whole.load_state_dict(state)
    return network


def load(
    weights: Path, threads: Threads, *, model: str, architecture: str, classes: int, recipe: Recipe
) -> "TorchEngine":
    """The engine with the weights of `load_network`."""
    return TorchEngine(load_network(model, architecture, weights, classes, recipe), threads)


def to_program(network: Any, side: int) -> torch.export.ExportedProgram:
    """The network for other libraries' converters. OpenVINO's own tracing warns; this does not."""
    with torch.no_grad():
        return torch.export.export(network, (torch.zeros(1, side, side, 3, dtype=torch.uint8),))


class TorchEngine:
    """torch, eager, float32. `head` needs a `Network`."""

    name = "torch"
    precision = "f32"

    def __init__(self, network: torch.nn.Module, threads: Threads) -> None:
        self._network = network
        self._threads = {False: threads.threads, True: threads.latency_threads}

    @property
    def head(self) -> Weights | None:
        """The final layer's weights, float32 (classes, channels), if the network explains."""
        weight: torch.Tensor = self._network.get_parameter("head.weight")
        return weight.detach().numpy() if self._network.explains else None

    def infer(self, pixels: Pixels, *, features: bool = False, exclusive: bool = False) -> Answer:
        torch.set_num_threads(self._threads[exclusive])  # of the calling thread and of new ones
        with torch.inference_mode():
            logits, feature_map = self._network(torch.tensor(pixels))
        return logits.numpy(), feature_map.numpy() if features else None
