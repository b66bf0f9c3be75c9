"""The default engine: OpenVINO on the CPU."""

import mmap
import sys
import threading
from pathlib import Path

import numpy as np

# Without this line, importing openvino forks a child that reports to an analytics host.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino  # noqa: E402

from eyespot.vision.engines import Answer, Features, Pixels, Threads  # noqa: E402


def has_bf16() -> bool:
    """Whether OpenVINO says that this processor computes in bfloat16 natively."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """A model from `convert`, in float32 or, with `bf16`, with its floating point in bf16.

    `precision` is that of the weights, f32 or int8. The model is compiled twice where that makes a difference: for
    throughput, in streams that share nothing, and for latency, in one stream for an exclusive image. Raises
    `RuntimeError` if OpenVINO cannot compile it for this processor.
    """

    name = "openvino"

    def __init__(self, folder: Path, threads: Threads, *, precision: str = "f32", bf16: bool = False) -> None:
        self.precision = "bf16" if bf16 and precision == "f32" else precision
        self._own = threading.local()  # an inference request serves one thread at a time
        with (folder / "model.bin").open("rb") as file:
            # A private mapping, because Tensor takes no read-only memory. The model points into it.
            self._weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        tensor = openvino.Tensor(np.frombuffer(self._weights, np.uint8), shared_memory=True)
        model = openvino.Core().read_model((folder / "model.xml").read_bytes(), tensor)
        shared, latency = (threads.streams, threads.threads), (1, threads.latency_threads)
        self._shared = _compile(model, *shared, bf16)
        self._latency = self._shared if latency == shared else _compile(model, *latency, bf16)
        # The first inference of a process must be the only one: two at once deadlocked in 3 of 49 starts on busy cores.
        black = np.zeros((1, *self._shared.input(0).shape[1:]), np.uint8)
        self.infer(black)
        self.infer(black, exclusive=True)
        # The compiled models have their own copies of the weights. This frees the file's pages, 45 MB for a ResNet-18;
        # any that are still needed are read again.
        self._weights.madvise(mmap.MADV_DONTNEED)

    def infer(self, pixels: Pixels, *, features: bool = False, exclusive: bool = False) -> Answer:
        if not hasattr(self._own, "requests"):
            models = {True: self._latency, False: self._shared}
            self._own.requests = {exclusive: model.create_infer_request() for exclusive, model in models.items()}
        request = self._own.requests[exclusive]
        outputs: list[list[Features]] = [[], []]
        for image in pixels:
            # Passing the image to `infer`, or letting it copy outputs, costs 0.1 ms.
            request.get_input_tensor().data[:] = image
            request.infer(share_outputs=True)
            for index in range(1 + features):  # copies, because the request overwrites its tensors
                outputs[index].append(request.get_output_tensor(index).data.copy())
        return np.concatenate(outputs[0]), np.concatenate(outputs[1]) if features else None


def _compile(model: openvino.Model, streams: int, threads: int, bf16: bool) -> openvino.CompiledModel:
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": streams * threads,
        # Pinned threads of two processes in one container end on the same core.
        "ENABLE_CPU_PINNING": False,
        # Threads are planned by the processors that this process may use; OpenVINO would skip every second one.
        "ENABLE_HYPER_THREADING": True,
    }
    return openvino.compile_model(model, "CPU", options)


def convert(network: object, side: int, folder: Path) -> str:
    """Export a torch network with its weights in float32; the version of OpenVINO."""
    from eyespot.vision.engines.torch import to_program

    model = openvino.convert_model(to_program(network, side), input=[1, side, side, 3])
    for output, name in zip(model.outputs, ("logits", "features"), strict=True):
        output.get_tensor().set_names({name})
    save(model, folder)
    return str(openvino.get_version())


def read(folder: Path) -> openvino.Model:
    """A model from `save`, to be changed."""
    return openvino.Core().read_model(folder / "model.xml")


def save(model: openvino.Model, folder: Path) -> None:
    """Write a model, with its weights in their own precision."""
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)  # the default stores fp16
