"""ONNX Runtime on the CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from eyespot.vision.engines import Features, Logits, Pixels

version: str = onnxruntime.__version__


class OnnxEngine:
    """An ONNX file, as `convert` writes it: one image in, logits and feature map out."""

    name = "onnxruntime"
    precision = "f32"

    def __init__(self, folder: Path, *, streams: int, threads: int, latency_threads: int) -> None:
        def session(threads: int) -> onnxruntime.InferenceSession:
            options = onnxruntime.SessionOptions()
            # Left to itself it takes a thread for each core of the machine and binds it there, which a container may
            # not; and its arena never gives back what the largest moment took.
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.enable_cpu_mem_arena = False
            return onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

        # Each caller's own thread works too, and what a session has beyond one is shared by all callers.
        shared = threads if threads == 1 else streams * threads
        self._shared = session(shared)
        self._latency = self._shared if latency_threads == shared else session(latency_threads)

    def infer(
        self, pixels: Pixels, *, features: bool = False, exclusive: bool = False
    ) -> tuple[Logits, Features | None]:
        session = self._latency if exclusive else self._shared
        wanted = ["logits", "features"] if features else ["logits"]
        answers = [session.run(wanted, {"pixels": image}) for image in np.ascontiguousarray(pixels)[:, None]]
        logits, *maps = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return logits, maps[0] if features else None


def convert(program: Any, folder: Path) -> None:
    """Write a program from `torch.export` as an ONNX file with its weights inside."""
    import torch

    torch.onnx.export(
        program,
        f=folder / "model.onnx",
        input_names=["pixels"],
        output_names=["logits", "features"],
        external_data=False,
        dynamo=True,
        verbose=False,
    )
