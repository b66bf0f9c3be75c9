"""Training of more than the last layer, on the images themselves: `--unfreeze`."""

import hashlib
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from eyespot.errors import BadDataset
from eyespot.ordered import Progress, in_order
from eyespot.types import Recipe
from eyespot.vision import preprocess
from eyespot.vision.engines import Logits
from eyespot.vision.engines.network import Network
from eyespot.vision.finetune.features import Truth
from eyespot.vision.finetune.head import Mask, class_weights

_BATCH = 16
_LEARNING_RATE = 1e-4
_PATIENCE = 2  # epochs without a smaller loss on the images held out
_MIN_SCALE = 0.5  # of the area that a random crop has

Parameters: TypeAlias = dict[str, torch.nn.Parameter]


@dataclass(frozen=True, slots=True)
class Unfreeze:
    """Which layers are trained, for how many epochs at most, and how images are decoded."""

    layers: str
    epochs: int
    seed: int
    checkpoint: Path
    max_pixels: int
    threads: int


@dataclass(frozen=True, slots=True)
class Images:
    """Image files, their classes, int (images,), and which are held out, bool (images,)."""

    paths: Sequence[Path]
    truth: Truth
    held_out: Mask
    recipe: Recipe
    plan: Unfreeze

    def decoded(self, numbers: Sequence[int], recipe: Recipe) -> Iterator[torch.Tensor]:
        """The images of these numbers, uint8 (crop, crop, 3)."""

        def decode(number: int) -> torch.Tensor:
            data = self.paths[number].read_bytes()
            return torch.tensor(preprocess.preprocess(data, recipe, max_pixels=self.plan.max_pixels).pixels)

        return (future.result() for _, future in in_order(decode, numbers, self.plan.threads, 2 * _BATCH))

    def loss(self, logits: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
        """The mean loss of these images; those of classes with fewer images weigh more."""
        weights = class_weights(self.truth[~self.held_out], int(self.truth.max()) + 1)
        targets = torch.from_numpy(self.truth[list(numbers)])
        return torch.nn.functional.cross_entropy(logits, targets, weights)


def unfreeze(network: Network, layers: str) -> Parameters:
    """Let only the head and the body's layers of that name learn, and return their parameters.

    Raises `BadDataset` if there are no such layers.
    """
    network.requires_grad_(requires_grad=False)
    chosen = {name: value for name, value in network.named_parameters() if f".{name}.".startswith(f".body.{layers}.")}
    if not chosen:
        raise BadDataset(f"the network has no layers {layers!r}; it has {', '.join(_layers(network.body))}")
    chosen |= dict(network.head.named_parameters(prefix="head"))
    for value in chosen.values():
        value.requires_grad_()
    return chosen


def _layers(body: torch.nn.Module) -> list[str]:
    """The layer names of the outermost level that has more than one, such as layer4 or features.7."""
    names: list[str] = []
    for depth in (1, 2, 3):
        names = list(dict.fromkeys(".".join(name.split(".")[:depth]) for name, _ in body.named_parameters()))
        if len(names) > 1:
            break
    return names


def tune(network: Network, images: Images, progress: Progress = lambda *_: None) -> Logits:
    """Train the head and the plan's layers further, keep the best epoch, and return the logits of the images held out.

    Batch normalisation keeps its statistics, since batches are small. Every epoch is kept in the checkpoint, from which
    the same run goes on after an interruption. Raises `BadDataset` as `unfreeze` does.
    """
    plan, epochs, checkpoint = images.plan, images.plan.epochs, images.plan.checkpoint
    learning, identity = unfreeze(network, plan.layers), _identity(network, images)
    torch.set_num_threads(plan.threads)
    optimizer = torch.optim.AdamW(learning.values(), _LEARNING_RATE)
    seen, unseen = np.flatnonzero(~images.held_out).tolist(), np.flatnonzero(images.held_out).tolist()
    if state := _resume(checkpoint, identity):
        _restore(learning, state["last"])
        optimizer.load_state_dict(state["optimizer"])
    else:
        loss = float(images.loss(_logits(network, images, unseen), unseen))
        state = {"identity": identity, "epoch": 0, "best": 0, "loss": loss, "parameters": _copy(learning)}
    while state["epoch"] < epochs and state["epoch"] - state["best"] < _PATIENCE:
        epoch = state["epoch"]
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * (1 + math.cos(math.pi * epoch / epochs)) / 2
        _train(network, optimizer, images, seen, plan.seed + epoch, partial(progress, f"epoch {epoch + 1} of {epochs}"))
        state |= {"epoch": epoch + 1, "last": _copy(learning), "optimizer": optimizer.state_dict()}
        if (loss := float(images.loss(_logits(network, images, unseen), unseen))) < state["loss"]:
            state |= {"best": epoch + 1, "loss": loss, "parameters": state["last"]}
        _keep(checkpoint, state)
    _restore(learning, state["parameters"])
    return _logits(network, images, unseen).numpy()


def _train(
    network: Network,
    optimizer: torch.optim.Optimizer,
    images: Images,
    seen: Sequence[int],
    seed: int,
    progress: Callable[[int, int], None],
) -> None:
    """One epoch over the images `seen`, in random order, each cropped and mirrored at random."""
    from torchvision.transforms import v2

    torch.manual_seed(seed)  # of the order, and of the crops
    order = [seen[number] for number in torch.randperm(len(seen)).tolist()]
    vary = v2.Compose([v2.RandomResizedCrop(images.recipe.crop, (_MIN_SCALE, 1)), v2.RandomHorizontalFlip()])
    decoded = images.decoded(order, replace(images.recipe, crop=images.recipe.resize))
    for done in range(0, len(order), _BATCH):
        progress(done, len(order))
        batch = [vary(image.permute(2, 0, 1)).permute(1, 2, 0) for image in islice(decoded, _BATCH)]
        optimizer.zero_grad()
        loss = images.loss(network(torch.stack(batch))[0], order[done : done + _BATCH])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _logits(network: Network, images: Images, numbers: Sequence[int]) -> torch.Tensor:
    decoded = images.decoded(numbers, images.recipe)
    with torch.inference_mode():
        return torch.cat([network(torch.stack(batch))[0] for batch in iter(lambda: list(islice(decoded, _BATCH)), [])])


def _identity(network: Network, images: Images) -> str:
    """What a run depends on, as 64 hexadecimal digits; the head stands for the images, from which it was trained."""
    parts = [network.head.weight.detach().numpy().tobytes(), images.held_out.tobytes(), repr(images.plan).encode()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _copy(learning: Parameters) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in learning.items()}


@torch.no_grad()
def _restore(learning: Parameters, kept: dict[str, torch.Tensor]) -> None:
    for name, value in learning.items():
        value.copy_(kept[name])


def _keep(checkpoint: Path, state: dict[str, Any]) -> None:
    new = checkpoint.with_suffix(".new")
    torch.save(state, new)
    new.replace(checkpoint)


def _resume(checkpoint: Path, identity: str) -> dict[str, Any]:
    """The state of an interrupted run with this identity; empty if there is none."""
    try:
        state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError):
        return {}
    return state if state.get("identity") == identity else {}
