"""The default engine: OpenVINO on the CPU."""

import mmap
import os
import sys
import threading
import zlib
from pathlib import Path

import numpy as np

# Importing openvino reports to an analytics host from a forked child, unless this stands before it.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino  # noqa: E402

from eyespot.vision.engines import Features, Logits, Pixels  # noqa: E402

version: str = openvino.get_version()


def has_bf16() -> bool:
    """Whether OpenVINO says that this processor computes in bfloat16 natively."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def platform() -> str:
    """What the speed of a model depends on besides the model: the processor, its instructions, OpenVINO's version."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    # Virtual machines give one name to processors that differ, and oneDNN can be told to leave instructions out.
    limits = [os.environ.get(name, "") for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")]
    instructions = " ".join(filter(None, [f"{zlib.crc32(flags.encode()):08x}", *limits]))
    return f"{openvino.Core().get_property('CPU', 'FULL_DEVICE_NAME')} {instructions}, openvino {version}"


class OpenVinoEngine:
    """A model in OpenVINO's own form, as `convert` writes it: one image in, logits and feature map out.

    It is compiled twice where that makes a difference: in `streams` that share nothing, for many callers, and in one
    that has `latency_threads` threads, for a caller who is exclusive.

    `precision` is that of the weights, f32 or int8. With `bf16`, what is floating point is computed in bf16.

    Raises:
        RuntimeError: OpenVINO cannot compile the model so on this processor.
    """

    name = "openvino"

    def __init__(
        self, folder: Path, *, precision: str, streams: int, threads: int, latency_threads: int, bf16: bool = False
    ) -> None:
        self.precision = "bf16" if bf16 and precision == "f32" else precision
        self._own = threading.local()  # an inference request serves one thread at a time
        core = openvino.Core()
        with (folder / "model.bin").open("rb") as file:
            # A private mapping, since Tensor takes no read-only memory. Nobody writes to it; the model points into it.
            self._weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        tensor = openvino.Tensor(np.frombuffer(self._weights, np.uint8), shared_memory=True)
        model = core.read_model((folder / "model.xml").read_bytes(), tensor)

        def compiled(streams: int, threads: int) -> openvino.CompiledModel:
            options = {
                "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": streams * threads,
                # Pinned threads of two processes in one container end on the same core.
                "ENABLE_CPU_PINNING": False,
                # The plan counts the processors that this process may use; OpenVINO would leave out every second one.
                "ENABLE_HYPER_THREADING": True,
            }
            return core.compile_model(model, "CPU", options)

        self._shared = compiled(streams, threads)
        self._latency = compiled(1, latency_threads) if (1, latency_threads) != (streams, threads) else self._shared
        # The first inference of a process must run alone: two threads in it at once were seen to wait for each other
        # for ever, in 3 of 49 starts on busy cores.
        black = np.zeros((1, *self._shared.input(0).shape[1:]), np.uint8)
        self.infer(black)
        self.infer(black, exclusive=True)
        # Both forms hold the weights as the processor wants them; the file's own pages, 45 MB for a ResNet-18, are not
        # needed any more. Where they are, they come back from the file.
        self._weights.madvise(mmap.MADV_DONTNEED)

    def infer(
        self, pixels: Pixels, *, features: bool = False, exclusive: bool = False
    ) -> tuple[Logits, Features | None]:
        request = self._request(exclusive)
        logits, feature_maps = [], []
        for image in np.ascontiguousarray(pixels)[:, None]:
            request.infer({0: image}, share_inputs=True)
            # The tensors belong to the request, which writes into them again.
            logits.append(request.get_output_tensor(0).data.copy())
            if features:
                feature_maps.append(request.get_output_tensor(1).data.copy())
        return np.concatenate(logits), np.concatenate(feature_maps) if features else None

    def _request(self, exclusive: bool) -> openvino.InferRequest:
        if not hasattr(self._own, "requests"):
            self._own.requests = {
                True: self._latency.create_infer_request(),
                False: self._shared.create_infer_request(),
            }
        return self._own.requests[exclusive]


def convert(program: object, side: int, folder: Path) -> None:
    """Write a program from `torch.export` in OpenVINO's form, weights in float32."""
    model = openvino.convert_model(program, input=[1, side, side, 3])
    for output, name in zip(model.outputs, ("logits", "features"), strict=True):
        output.get_tensor().set_names({name})
    save(model, folder)


def read(folder: Path) -> openvino.Model:
    """A model that `save` wrote, to be made into another one."""
    return openvino.Core().read_model(folder / "model.xml")


def save(model: openvino.Model, folder: Path) -> None:
    """Write a model, with its weights in the precision that they have."""
    openvino.save_model(
        model, folder / "model.xml", compress_to_fp16=False
    )  # fp16 is what it stores unless told not to
