"""TorchScript: the network as torch's own frozen program, which needs torch and not torchvision to run."""

import warnings
from pathlib import Path

import torch

from eyespot.vision.engines.torch import TorchEngine

version: str = torch.__version__

# torch says of every use of TorchScript that it is deprecated; whoever asks for this engine knows it.
_DEPRECATED = r"`torch\.jit\..*is deprecated"


class TorchScriptEngine(TorchEngine):
    """A program that `convert` wrote, optimised for this processor: one image in, logits and feature map out."""

    name = "torchscript"

    def __init__(self, folder: Path, *, threads: int, latency_threads: int) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _DEPRECATED)
            program = torch.jit.load(  # type: ignore[no-untyped-call]
                str(folder / "model.pt"), map_location="cpu"
            )
            optimized = torch.jit.optimize_for_inference(program)
        super().__init__(optimized, threads=threads, latency_threads=latency_threads)


def convert(network: torch.nn.Module, side: int, folder: Path) -> None:
    """Write a network as a traced and frozen program."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", _DEPRECATED)
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            network, torch.zeros(1, side, side, 3, dtype=torch.uint8)
        )
        torch.jit.save(torch.jit.freeze(traced), str(folder / "model.pt"))
