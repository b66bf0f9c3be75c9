"""The default engine: OpenVINO on the CPU."""

import sys
import threading
from pathlib import Path

import numpy as np

# Importing openvino reports to an analytics host from a forked child, unless this stands before it.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino  # noqa: E402

from eyespot.vision.engines import Features, Logits, Pixels  # noqa: E402

version: str = openvino.get_version()


class OpenVinoEngine:
    """A model in OpenVINO's own form, as `vision.export` writes it: one image in, logits and feature map out."""

    name = "openvino"
    precision = "f32"

    def __init__(self, model: Path, *, workers: int, threads: int) -> None:
        self._compiled = openvino.Core().compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32",
                "NUM_STREAMS": workers,
                "INFERENCE_NUM_THREADS": workers * threads,
                # Pinned threads of two processes in one container end on the same core.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._own = threading.local()  # an inference request serves one thread at a time
        # The first inference of a process must be alone: two threads in it at once were seen to wait for each other for
        # ever, in 3 of 49 starts on busy cores.
        self.infer(np.zeros((1, *self._compiled.input(0).shape[1:]), np.uint8))

    def infer(self, pixels: Pixels, *, features: bool = False) -> tuple[Logits, Features | None]:
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        request = self._own.request
        logits, feature_maps = [], []
        for image in np.ascontiguousarray(pixels)[:, None]:
            request.infer({0: image}, share_inputs=True)
            # The tensors belong to the request, which writes into them again.
            logits.append(request.get_output_tensor(0).data.copy())
            if features:
                feature_maps.append(request.get_output_tensor(1).data.copy())
        return np.concatenate(logits), np.concatenate(feature_maps) if features else None


def convert(program: object, side: int, path: Path) -> None:
    """Write a program from `torch.export` in OpenVINO's form, weights in float32, as `path` and its `.bin`."""
    model = openvino.convert_model(program, input=[1, side, side, 3])
    for output, name in zip(model.outputs, ("logits", "features"), strict=True):
        output.get_tensor().set_names({name})
    openvino.save_model(model, path, compress_to_fp16=False)  # fp16 is what it stores unless told not to
