"""From features to a trained network, and what it finds in images that it was not trained on."""

from dataclasses import dataclass

import torch

from eyespot.ordered import Progress
from eyespot.vision.engines.network import Network
from eyespot.vision.engines.torch import load_network
from eyespot.vision.finetune import head, layers
from eyespot.vision.finetune.dataset import Dataset
from eyespot.vision.finetune.features import Features
from eyespot.vision.finetune.head import Head
from eyespot.vision.finetune.layers import Images, Unfreeze
from eyespot.vision.samples import Samples
from eyespot.vision.weights import Entry


@dataclass(frozen=True, slots=True)
class Trained:
    """A network, and what it finds in images that it was not trained on."""

    network: Network
    samples: Samples


def train(
    base: Entry,
    classes: int,
    dataset: Dataset,
    features: Features,
    seed: int,
    unfreeze: Unfreeze | None = None,
    progress: Progress = lambda *_: None,
) -> Trained:
    """The base, which has that number of classes, with a final layer for the dataset's.

    The final layer alone is measured by cross-validation, on all images, and then trained on all. With `unfreeze`, a
    fifth of the images is held out.
    """
    network = load_network(base.name, base.architecture, base.path, classes, base.recipe)
    if unfreeze:
        layers.unfreeze(network, unfreeze.layers)  # raises before the work, if there are none
    with torch.no_grad():
        inputs = network.neck(torch.from_numpy(features.pooled)).numpy()
    truth, fold = features.truth, head.folds(features.truth, seed)
    logits, heads = head.cross_validate(inputs, truth, fold, progress)
    if not unfreeze:
        _attach(network, head.train_on_all(inputs, truth, heads))
    else:
        _attach(network, heads[0])
        logits = layers.tune(network, Images(features.paths, truth, fold == 0, base.recipe, unfreeze), progress)
        truth = truth[fold == 0]
    return Trained(network, Samples(dataset.labels, logits, truth))


def _attach(network: Network, trained: Head) -> None:
    """Replace the final layer."""
    classes, features = trained.weight.shape
    network.head = torch.nn.Linear(features, classes)
    network.head.load_state_dict({"weight": torch.from_numpy(trained.weight), "bias": torch.from_numpy(trained.bias)})
