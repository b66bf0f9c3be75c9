"""TorchScript: a model as torch's own frozen program, which runs without torchvision."""

import warnings
from pathlib import Path

import torch

from eyespot.vision.engines import Threads
from eyespot.vision.engines.torch import TorchEngine

_DEPRECATED = r"`torch\.jit\..*is deprecated"  # every use of TorchScript warns


class TorchScriptEngine(TorchEngine):
    """A program from `convert`, optimised for this processor."""

    name = "torchscript"

    def __init__(self, folder: Path, threads: Threads) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _DEPRECATED)
            program = torch.jit.load(folder / "model.pt", map_location="cpu")  # type: ignore[no-untyped-call]
            super().__init__(torch.jit.optimize_for_inference(program), threads)


def convert(network: torch.nn.Module, side: int, folder: Path) -> str:
    """Trace and freeze a torch network; the version of torch."""
    save_traced(network, torch.zeros(1, side, side, 3, dtype=torch.uint8), folder / "model.pt")
    return torch.__version__


def save_traced(network: torch.nn.Module, image: torch.Tensor, path: Path) -> None:
    """Trace a network with this image, freeze it and save it."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", _DEPRECATED)
        traced = torch.jit.trace(network, image)  # type: ignore[no-untyped-call]
        torch.jit.save(torch.jit.freeze(traced), path)
