"""Networks of every family, with random weights: cut at the pooling they give torchvision's own logits."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from eyespot.errors import EngineUnavailable, NotFound
from eyespot.types import Recipe
from eyespot.vision import engines, exporter, weights
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import Threads
from eyespot.vision.engines.network import Network, build
from eyespot.vision.engines.openvino import convert
from eyespot.vision.engines.torch import TorchEngine
from tests import makers
from tests.serving import ROOT

RECIPE = Recipe(64, 64, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WITH_NECK = ("convnext", "mobilenet_v3")
SMALLEST = (
    *("resnet18", "efficientnet_lite0", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny"),
    "regnet_y_400mf",
)
OFFICIAL = [entry.architecture for entry in weights.read_manifest(ROOT / "weights" / "manifest.toml").values()]
FAMILIES = [*SMALLEST, "shufflenet_v2_x0_5", "mnasnet0_5", "densenet121", "swin_t"]
LARGER = [name for name in OFFICIAL if name not in FAMILIES]
SLOW = pytest.mark.needs("make test-all")


def lively(architecture: str) -> torch.nn.Module:
    """The network with logits of about 1; with random weights they fade or grow with each layer."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # several test processes share the cores
    network = build(architecture, 7).eval()
    head = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        spread = network(normalised(pixels())).std()
        for parameter in head.parameters():
            parameter.div_(spread)
    return network


def pixels() -> torch.Tensor:
    return torch.tensor(exporter.proof_images(RECIPE))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    transform = torchvision.transforms.Normalize(RECIPE.mean, RECIPE.std)
    return transform(pixels.permute(0, 3, 1, 2).to(torch.float32) / 255)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "architecture", [*SMALLEST, *(pytest.param(name, marks=SLOW) for name in FAMILIES if name not in SMALLEST)]
)
def test_a_network_gives_the_logits_of_torchvision(architecture: str) -> None:
    whole = lively(architecture)
    network, images = Network(whole, RECIPE), normalised(pixels())
    with torch.no_grad():
        features = network.body(images)
        logits = network.head(network.neck(features.mean((2, 3))))
        expected = whole(images)
    assert expected.std() == pytest.approx(1, rel=0.1)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert [part.shape for part in network(pixels()[:2])] == [logits[:2].shape, features[:2].shape]
    assert network.explains != architecture.startswith(WITH_NECK)
    ours = {id(parameter) for parameter in network.parameters()}
    assert ours == {id(parameter) for parameter in whole.parameters()}


@SLOW
@pytest.mark.parametrize("architecture", LARGER)
def test_a_larger_network_of_a_family_is_cut_at_the_same_place(architecture: str) -> None:
    """Without numbers, which would take minutes."""
    regnet = architecture.startswith("regnet")  # which computes its widths with tensors
    with torch.device("cpu" if regnet else "meta"):
        whole = build(architecture, 7)
        network = Network(whole, RECIPE)
        features = network.body(torch.zeros(1, 3, 64, 64))
        logits = network.head(network.neck(features.mean((2, 3))))
        assert (logits.shape, whole(torch.zeros(1, 3, 64, 64)).shape) == ((1, 7), (1, 7))
    assert network.explains != architecture.startswith(WITH_NECK)
    assert {id(value) for value in network.parameters()} == {id(value) for value in whole.parameters()}


@SLOW
@pytest.mark.parametrize("architecture", FAMILIES)
def test_openvino_gives_the_logits_of_torch(architecture: str, tmp_path: Path) -> None:
    network = Network(lively(architecture), RECIPE)
    convert(network, RECIPE.crop, tmp_path)
    threads = Threads(1, 1, 1)
    candidate = engines.load("openvino", tmp_path, threads)
    images = exporter.proof_images(RECIPE)
    assert exporter.prove(TorchEngine(network, threads), candidate, images) < 1e-3
    _, features = candidate.infer(images[:1], features=True)
    assert features is not None
    assert np.isfinite(features).all()


MANIFEST = """
[mine]
architecture = "mobilenet_v3_small"
file = "mine.pth"
sha256 = "{sha256}"
bytes = {bytes}
labels = "mine"
license = "none"
recipe = {{ resize = 64, crop = 64, interpolation = "bilinear", mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }}
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A user's own model, of a network with layers before the final one."""
    file = tmp_path / "mine.pth"
    torch.save(lively("mobilenet_v3_small").state_dict(), file)
    rows = [{"class_id": number, "wnid": "", "label": f"class {number}"} for number in range(7)]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    path = tmp_path / "manifest.toml"
    path.write_text(MANIFEST.format(sha256=weights.sha256(file), bytes=file.stat().st_size))
    return path


def test_a_network_with_layers_before_the_final_one_answers_but_does_not_explain(manifest: Path) -> None:
    classifier = Classifier.open(manifest, "mine", engine="torch")
    assert len(classifier.classify(makers.jpeg(), top_k=7)) == 7
    assert not classifier.card.explains
    with pytest.raises(NotFound, match=r"^mine cannot be explained: it has layers between"):
        classifier.explain(makers.jpeg())


@pytest.mark.needs("make test-all")
def test_so_does_its_export_when_it_is_made_and_when_it_is_found(manifest: Path) -> None:
    expected = Classifier.open(manifest, "mine", engine="torch").classify(makers.jpeg(), top_k=7)
    for _ in range(2):
        exported = Classifier.open(manifest, "mine", precision="f32", data_dir=manifest.parent)
        assert not exported.card.explains
        found = exported.classify(makers.jpeg(), top_k=7)
        assert [one.class_id for one in found] == [one.class_id for one in expected]
        np.testing.assert_allclose([one.confidence for one in found], [one.confidence for one in expected], atol=1e-4)
        (made,) = (manifest.parent / "exports").iterdir()
        assert {file.name for file in made.iterdir()} == {"export.json", "model.xml", "model.bin"}


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("alexnet", "^AlexNet cannot be used: it has no global average pooling$"),
        ("squeezenet1_1", "^SqueezeNet cannot be used: it does not end in a linear layer$"),
        pytest.param(
            "googlenet",
            "^GoogLeNet cannot be used: it has auxiliary classifiers$",
            marks=pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning"),
        ),
        ("resnet19", "^unknown architecture 'resnet19'; did you mean resnet18"),
        ("fcn_resnet50", "^unknown architecture 'fcn_resnet50'"),
        ("mine", "^unknown architecture 'mine', which must be a torchvision classification model$"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_with_the_reason(architecture: str, message: str) -> None:
    with pytest.raises(EngineUnavailable, match=message):
        Network(build(architecture, 7), RECIPE)
