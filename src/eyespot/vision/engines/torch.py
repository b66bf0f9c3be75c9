"""The reference engine: torch in float32. Every export is made from it and proved against it."""

from pathlib import Path
from typing import Any

import torch

from eyespot.errors import EngineUnavailable, WeightsCorrupt
from eyespot.types import Recipe
from eyespot.vision.engines import Answer, Pixels, Threads, Weights


class Network(torch.nn.Module):
    """A network from decoded pixels, uint8 (n, side, side, 3), to its logits and its last feature map.

    The global pooling and the final layer are taken out of the network and applied here, because class-activation
    mapping needs the feature map (Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016).
    """

    def __init__(self, network: torch.nn.Module, recipe: Recipe) -> None:
        super().__init__()
        modules = dict(network.named_modules())
        pooling = [name for name, module in modules.items() if isinstance(module, torch.nn.AdaptiveAvgPool2d)]
        linear = [name for name, module in modules.items() if isinstance(module, torch.nn.Linear)]
        if not pooling or not linear:
            raise EngineUnavailable("the network must end in global average pooling and one linear layer")
        self.head = modules[linear[-1]]
        self._head_name = linear[-1]
        network.set_submodule(pooling[-1], torch.nn.Identity())
        network.set_submodule(linear[-1], torch.nn.Identity())
        self.body = network
        mean, std = torch.tensor(recipe.mean), torch.tensor(recipe.std)
        self.scale = torch.nn.Buffer((1 / (255 * std)).view(1, 3, 1, 1))
        self.shift = torch.nn.Buffer((mean / std).view(1, 3, 1, 1))
        with torch.inference_mode():
            flat = self.body(torch.zeros(1, 3, recipe.crop, recipe.crop))
        side = round((flat.shape[1] / self.head.in_features) ** 0.5)
        self.map_shape = (self.head.in_features, side, side)
        self.eval()

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights under the names of the original network, for a file."""
        head = {f"{self._head_name}.{name}": value for name, value in self.head.state_dict().items()}
        return {**self.body.state_dict(), **head}

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # (x / 255 - mean) / std, as torchvision's ToTensor and Normalize do.
        values = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        flat = self.body(values * self.scale - self.shift)
        features = flat.unflatten(1, self.map_shape)
        return self.head(features.mean((2, 3))), features


def load_network(architecture: str, weights: Path, classes: int, recipe: Recipe) -> Network:
    """The network with its weights, in evaluation mode; raises `EngineUnavailable` or `WeightsCorrupt`."""
    if architecture == "efficientnet_lite0":
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0", num_classes=classes)
    else:
        import torchvision  # not needed by TorchScript

        try:
            network = torchvision.models.get_model(architecture, weights=None, num_classes=classes)
        except ValueError as error:
            raise EngineUnavailable(f"unknown architecture {architecture!r}: {error}") from error
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:
        remedy = "save one with torch.save(model.state_dict(), FILE)"
        raise WeightsCorrupt(f"{weights} is not a state dict; {remedy}") from error
    try:
        network.load_state_dict(state)
    except Exception as error:
        reason = str(error).strip().splitlines()[:2][-1].strip()  # the first line names no parameter
        raise WeightsCorrupt(f"{weights} does not fit {architecture} with {classes} classes: {reason[:200]}") from error
    return Network(network.eval(), recipe)


def load(weights: Path, threads: Threads, *, architecture: str, classes: int, recipe: Recipe) -> "TorchEngine":
    """The engine with the weights of `load_network`."""
    return TorchEngine(load_network(architecture, weights, classes, recipe), threads)


def to_program(network: Any, side: int) -> torch.export.ExportedProgram:
    """The network for other libraries' converters. OpenVINO's own tracing warns; this does not."""
    with torch.no_grad():
        return torch.export.export(network, (torch.zeros(1, side, side, 3, dtype=torch.uint8),))


class TorchEngine:
    """torch, eager, float32. `head` is the final layer's weights, float32 (classes, channels); it needs a `Network`."""

    name = "torch"
    precision = "f32"

    def __init__(self, network: torch.nn.Module, threads: Threads) -> None:
        self._network = network
        self._threads = {False: threads.threads, True: threads.latency_threads}

    @property
    def head(self) -> Weights:
        weight: torch.Tensor = self._network.get_parameter("head.weight")
        return weight.detach().numpy()

    def infer(self, pixels: Pixels, *, features: bool = False, exclusive: bool = False) -> Answer:
        torch.set_num_threads(self._threads[exclusive])  # of the calling thread and of new ones
        with torch.inference_mode():
            logits, feature_map = self._network(torch.tensor(pixels))
        return logits.numpy(), feature_map.numpy() if features else None
