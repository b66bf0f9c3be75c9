"""The last layer of a network, trained on features."""

import math
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt
import torch

from eyespot.errors import BadDataset
from eyespot.vision.engines import Logits, Weights
from eyespot.vision.finetune.features import Pooled, Truth
from eyespot.vision.quantize import Progress

Mask = npt.NDArray[np.bool_]

FOLDS = 5
_MAX_EPOCHS = 60
_STEPS = 2  # of L-BFGS in an epoch
_PATIENCE = 5  # epochs without a smaller loss on the images held out


@dataclass(frozen=True, slots=True)
class Head:
    """A linear layer, float32: `weight` (classes, features) and `bias` (classes,); epochs that trained it."""

    weight: Weights
    bias: Weights
    epochs: int

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
    """A head trained on every image, for as long as those that were stopped early."""
    return train(features, truth, np.zeros(len(truth), bool), round(median(head.epochs for head in heads)))


def train(features: Pooled, truth: Truth, held_out: Mask, epochs: int | None = None) -> Head:
    """Logistic regression with L-BFGS on the images that are not held out; classes with fewer images weigh more.

    It stops after `epochs`, by default once the loss on the images held out stops falling: then its lowest counts.
    """
    mean, scale = features[~held_out].mean(0), features[~held_out].std(0) + 1e-6
    inputs, targets = torch.from_numpy((features - mean) / scale), torch.from_numpy(truth)
    seen, unseen = torch.from_numpy(~held_out), torch.from_numpy(held_out)
    classes = int(truth.max()) + 1
    layer = torch.nn.Linear(features.shape[1], classes)
    loss_of = torch.nn.CrossEntropyLoss(class_weights(truth[~held_out], classes))
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe")
    parts = {True: (inputs[seen], targets[seen]), False: (inputs[unseen], targets[unseen])}

    def loss(*, training: bool) -> torch.Tensor:
        found, wanted = parts[training]
        value: torch.Tensor = loss_of(layer(found), wanted)
        return value

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(training=True) + layer.weight.square().sum() / (2 * len(parts[True][1]))
        value.backward()  # type: ignore[no-untyped-call]
        return value

    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    best, lowest = None, math.inf
    for epoch in range(1, (epochs or _MAX_EPOCHS) + 1):
        optimizer.step(closure)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            now = -epoch if epochs else float(loss(training=False))
        if now < lowest:
            weight = layer.weight.detach().numpy() / scale
            best, lowest = Head(weight, layer.bias.detach().numpy() - weight @ mean, epoch), now
        elif best and epoch - best.epochs >= _PATIENCE:
            break
    if best is None:  # NaN
        raise BadDataset("the features of these images cannot be told apart by a linear layer")
    return best


def class_weights(truth: Truth, classes: int) -> torch.Tensor:
    """What an image of each class counts in the loss: less, the more images the class has; float32 (classes,)."""
    counts = np.bincount(truth, minlength=classes).clip(1)
    return torch.from_numpy((len(truth) / classes / counts).astype(np.float32))
