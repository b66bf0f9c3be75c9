"""ncnn on the CPU: its Winograd convolutions save a quarter of a ResNet-18's time in float32."""

import os
import queue
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

# Read when ncnn's OpenMP is loaded, whose threads otherwise spin at every layer: where other programs use the cores, an
# image on two threads took 0.9 s instead of 0.05.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import ncnn

from eyespot.errors import EngineUnavailable, ExportRefused
from eyespot.vision.engines import Answer, Logits, Pixels, Threads

if TYPE_CHECKING:
    from eyespot.vision.engines.network import Network

# These would use fp16 where possible, or keep two more copies of the weights (78 MB) for a gain of 2 %.
_OFF = [f"use_{name}" for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic")]
_OFF += [f"use_winograd{name}_convolution" for name in ("43", "63")]


class NcnnEngine:
    """A model from `convert`."""

    name = "ncnn"
    precision = "f32"

    def __init__(self, folder: Path, threads: Threads) -> None:
        # One pool per concurrent image, 23 MB each; ncnn's shared pool grew by 90 MB under load.
        self._pools: queue.LifoQueue[ncnn.Allocator] = queue.LifoQueue()
        for _ in range(threads.streams):
            pool = ncnn.PoolAllocator()
            pool.set_size_compare_ratio(0.5)  # reuse a block only for at least half its size
            self._pools.put(pool)
        self._shared = _load(folder, threads.threads)
        # Weights are laid out for a fixed number of threads.
        same = threads.latency_threads == threads.threads
        self._latency = self._shared if same else _load(folder, threads.latency_threads)

    def infer(self, pixels: Pixels, *, features: bool = False, exclusive: bool = False) -> Answer:
        net, pool = self._latency if exclusive else self._shared, self._pools.get()
        try:
            answers = [_run(net, pool, image, features) for image in np.ascontiguousarray(pixels)]
        finally:
            self._pools.put(pool)
        logits, *maps = (np.stack(parts) for parts in zip(*answers, strict=True))
        return logits, maps[0] if features else None


def _load(folder: Path, threads: int) -> ncnn.Net:
    net = ncnn.Net()
    for option in _OFF:
        setattr(net.opt, option, False)
    net.opt.num_threads = threads
    if net.load_param(str(folder / "model.param")) or net.load_model(str(folder / "model.bin")):
        raise EngineUnavailable("ncnn cannot load this model; set EYESPOT_ENGINE=openvino")
    return net


def _run(net: ncnn.Net, pool: ncnn.Allocator, image: Pixels, features: bool) -> list[Logits]:
    """The logits of one image, (classes,), and its feature map if asked for. A net serves several threads at once."""
    height, width, _ = image.shape
    extractor = net.create_extractor()
    extractor.set_blob_allocator(pool)
    extractor.set_workspace_allocator(pool)
    extractor.input("in0", ncnn.Mat.from_pixels(image, ncnn.Mat.PixelType.PIXEL_RGB, width, height))
    outputs = []
    for name in ("out1", "out0") if features else ("out0",):  # extracting the logits first would free the features
        status, values = extractor.extract(name)
        if status:
            raise RuntimeError(f"ncnn could not compute {name}: status {status}")
        outputs.append(np.array(values))
    return outputs[::-1]


def convert(network: "Network", side: int, folder: Path) -> str:
    """Convert a torch network in float32; the version of ncnn. Raises `ExportRefused`."""
    import pnnx
    import torch

    from eyespot.vision.engines.network import FromPlanes
    from eyespot.vision.engines.torchscript import save_traced

    save_traced(FromPlanes(network), torch.zeros(1, 3, side, side), folder / "traced.pt")
    names = {"ncnnparam": "model.param", "ncnnbin": "model.bin"}
    names |= dict.fromkeys(("pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx", "ncnnpy"), os.devnull)
    options = [f"inputshape=[1,3,{side},{side}]", "fp16=0", *(f"{option}={name}" for option, name in names.items())]
    done = subprocess.run([pnnx.EXEC_PATH, "traced.pt", *options], cwd=folder, capture_output=True)  # noqa: S603
    (folder / "traced.pt").unlink()
    if done.returncode:
        raise ExportRefused(f"pnnx cannot convert this model: exit status {done.returncode}")
    return str(ncnn.__version__)
