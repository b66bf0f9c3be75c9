"""The last layer of a network, trained on features."""

import math
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt
import torch

from eyespot.errors import BadDataset
from eyespot.ordered import Progress
from eyespot.vision.engines import Logits, Weights
from eyespot.vision.finetune.features import Pooled, Truth

Mask = npt.NDArray[np.bool_]

FOLDS = 5
_PENALTIES = np.geomspace(1000, 1, 13).tolist()  # as if the loss were a sum over all images
_ITERATIONS = 30  # of L-BFGS in a step
_PATIENCE = 2  # steps without a smaller loss on the images held out


@dataclass(frozen=True, slots=True)
class Head:
    """A linear layer, float32: `weight` (classes, features) and `bias` (classes,); steps that trained it."""

    weight: Weights
    bias: Weights
    steps: int

    def logits(self, features: Pooled) -> Logits:
        """float32 (images, classes), from features (images, features)."""
        return features @ self.weight.T + self.bias


def folds(truth: Truth, seed: int) -> Truth:
    """The fold of each image, from 0 to 4: every class is spread evenly over all of them."""
    random = np.random.default_rng(seed)
    found = np.empty_like(truth)
    start = 0
    for class_id in np.unique(truth):
        members = random.permutation(np.flatnonzero(truth == class_id))
        found[members] = (start + np.arange(len(members))) % FOLDS
        start += len(members)  # or small classes would make the first fold the largest
    return found


def cross_validate(
    features: Pooled, truth: Truth, fold: Truth, progress: Progress = lambda *_: None
) -> tuple[Logits, list[Head]]:
    """The logits of each image by a head that never saw it, and those heads, one for each fold held out."""
    heads = []
    logits = np.empty((len(truth), truth.max() + 1), np.float32)
    for number in range(FOLDS):
        progress("training the last layer", number, FOLDS + 1)
        held_out = fold == number
        heads.append(train(features, truth, held_out))
        logits[held_out] = heads[-1].logits(features[held_out])
    return logits, heads


def train_on_all(features: Pooled, truth: Truth, heads: list[Head]) -> Head:
    """A head trained on every image, for as many steps as those that were stopped early."""
    return train(features, truth, np.zeros(len(truth), bool), round(median(head.steps for head in heads)))


def train(features: Pooled, truth: Truth, held_out: Mask, steps: int | None = None) -> Head:
    """Logistic regression on the images that are not held out; classes with fewer images weigh more.

    Each step lowers the penalty on the weights, and goes on from the one before (Friedman et al., "Regularization Paths
    for Generalized Linear Models", 2010). It stops after `steps`, by default once the loss on the images held out stops
    falling: then the step with the lowest counts.
    """
    center, classes = features[~held_out].mean(0), int(truth.max()) + 1
    scale = (features[~held_out] - center).std() + np.float32(1e-6)
    inputs, targets = torch.from_numpy((features - center) / scale), torch.from_numpy(truth)
    seen, unseen = ((inputs[part], targets[part]) for part in (~held_out, held_out))
    torch.set_num_threads(1)  # several took ten times as long beside other processes, and round in another order
    layer = torch.nn.Linear(features.shape[1], classes)
    loss_of = torch.nn.CrossEntropyLoss(class_weights(truth[~held_out], classes))
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    best, lowest = None, math.inf
    for step, penalty in enumerate(_PENALTIES[:steps], 1):
        _minimise(layer, loss_of, *seen, penalty / len(seen[1]))
        with torch.no_grad():
            loss = -step if steps else float(loss_of(layer(unseen[0]), unseen[1]))
        if loss < lowest:
            weight = layer.weight.detach().numpy() / scale
            best, lowest = Head(weight, layer.bias.detach().numpy() - weight @ center, step), loss
        elif best and step - best.steps >= _PATIENCE:
            break
    if best is None:  # NaN
        raise BadDataset("the network's features of these images are not numbers")
    return best


def _minimise(
    layer: torch.nn.Linear, loss_of: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor, penalty: float
) -> None:
    """Train the layer until the mean loss, with a penalty on squared weights, is as good as minimal."""
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = loss_of(layer(inputs), targets) + penalty / 2 * layer.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]


def class_weights(truth: Truth, classes: int) -> torch.Tensor:
    """What an image of each class counts in the loss: less, the more images the class has; float32 (classes,)."""
    counts = np.bincount(truth, minlength=classes).clip(1)
    return torch.from_numpy((len(truth) / classes / counts).astype(np.float32))
