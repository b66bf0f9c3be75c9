"""torchvision's networks, cut where the last feature map is."""

import difflib
from collections.abc import Iterable
from typing import cast

import torch
from torch.fx import Graph, GraphModule, Node, symbolic_trace

from eyespot.errors import EngineUnavailable
from eyespot.types import Recipe

Modules = dict[str, torch.nn.Module]

_SHAPING = {"flatten", "view", "dropout"}  # in evaluation mode these change no value


class Network(torch.nn.Module):
    """A network from decoded pixels, uint8 (n, side, side, 3), to its logits and its last feature map.

    Class-activation mapping needs the feature map (Zhou et al., "Learning Deep Features for Discriminative
    Localization", CVPR 2016), so the network is cut into `body` (up to that map), `neck` (from the pooled features,
    (n, channels), to the input of the final layer) and `head` (the final layer). They share its parameters. Raises
    `EngineUnavailable` if it cannot be cut.
    """

    def __init__(self, network: torch.nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.body, self.neck, self._head_name = _cut(network.eval())
        self.head = cast(torch.nn.Linear, network.get_submodule(self._head_name))
        mean, std = torch.tensor(recipe.mean), torch.tensor(recipe.std)
        self.scale = torch.nn.Buffer((1 / (255 * std)).view(1, 3, 1, 1))
        self.shift = torch.nn.Buffer((mean / std).view(1, 3, 1, 1))
        self.eval()

    @property
    def explains(self) -> bool:
        """Whether the final layer directly follows the pooling: only then are class-activation maps exact."""
        return isinstance(self.neck, torch.nn.Identity)

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights under the names of the original network, for a file."""
        head = {f"{self._head_name}.{name}": value for name, value in self.head.state_dict().items()}
        return {**self.body.state_dict(), **self.neck.state_dict(), **head}

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.from_planes(pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format))

    def from_planes(self, planes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same from planar RGB, float32 (n, 3, side, side), 0 to 255."""
        # (x / 255 - mean) / std, as torchvision's ToTensor and Normalize do.
        features = self.body(planes * self.scale - self.shift)
        return self.head(self.neck(features.mean((2, 3)))), features


class FromPlanes(torch.nn.Module):
    """A network that takes planar RGB, for libraries that convert pixels themselves."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, planes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.network.from_planes(planes)


def build(architecture: str, classes: int) -> torch.nn.Module:
    """The network with random weights; raises `EngineUnavailable`."""
    if architecture == "efficientnet_lite0":
        from efficientnet_lite_pytorch import EfficientNet

        return cast(torch.nn.Module, EfficientNet.from_name("efficientnet-lite0", num_classes=classes))
    import torchvision  # not needed by TorchScript

    names = torchvision.models.list_models(torchvision.models)
    if architecture not in names:
        near = difflib.get_close_matches(architecture, names, 1)
        hint = f"; did you mean {near[0]}?" if near else ", which must be a torchvision classification model"
        raise EngineUnavailable(f"unknown architecture {architecture!r}{hint}")
    return cast(torch.nn.Module, torchvision.models.get_model(architecture, weights=None, num_classes=classes))


def _cut(network: torch.nn.Module) -> tuple[torch.nn.Module, torch.nn.Module, str]:
    """The body and the neck of a network in evaluation mode, and the name of its head."""
    modules = dict(network.named_modules())
    nodes = list(symbolic_trace(network).graph.nodes)
    poolings = [node for node in nodes if _pools(node, modules)]
    last = nodes[-1].args[0]  # what the output node returns
    head = str(last.target)
    reasons = {
        "has auxiliary classifiers": getattr(network, "aux_logits", False),
        "has no global average pooling": not poolings,
        "does not end in a linear layer": not isinstance(modules.get(head), torch.nn.Linear),
    }
    if why := next((reason for reason, holds in reasons.items() if holds), None):
        raise EngineUnavailable(f"{type(network).__name__} cannot be used: it {why}")
    pooling = poolings[-1]
    place = nodes.index(pooling)
    between = nodes[place + 1 : nodes.index(last)]
    body = _part(network, nodes[1:place], nodes[0], pooling.args[0])
    if {_kind(node, modules) for node in between} <= _SHAPING:
        return body, torch.nn.Identity(), head
    return body, _part(network, between, pooling, last.args[0], pooled=True), head


def _kind(node: Node, modules: Modules) -> str:
    """The layer, function or method that a node calls, in lower case."""
    if node.op == "call_module":
        return type(modules[str(node.target)]).__name__.lower()
    return str(getattr(node.target, "__name__", node.target))


def _pools(node: Node, modules: Modules) -> bool:
    """Whether it averages each channel over the whole feature map."""
    if (kind := _kind(node, modules)) == "adaptiveavgpool2d":
        return modules[str(node.target)].output_size in (1, (1, 1))
    return (kind, *node.args[1:]) in (("mean", [2, 3]), ("adaptive_avg_pool2d", (1, 1)))


def _part(
    network: torch.nn.Module, nodes: Iterable[Node], start: Node, end: Node, *, pooled: bool = False
) -> GraphModule:
    """The part of a network that leads from one value to another; a `pooled` one takes it as (n, channels)."""
    graph = Graph()
    value = graph.placeholder("x")
    values = {start: graph.call_method("unflatten", (value, 1, (-1, 1, 1))) if pooled else value}
    for node in nodes:
        values[node] = graph.node_copy(node, values.__getitem__)
    graph.output(values[end])
    return GraphModule(network, graph)
