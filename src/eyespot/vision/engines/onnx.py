"""ONNX Runtime on the CPU."""

from pathlib import Path

import numpy as np
import onnxruntime

from eyespot.vision.engines import Answer, Pixels, Threads


class OnnxEngine:
    """An ONNX file from `convert`."""

    name = "onnxruntime"
    precision = "f32"

    def __init__(self, folder: Path, threads: Threads) -> None:
        def session(threads: int) -> onnxruntime.InferenceSession:
            options = onnxruntime.SessionOptions()
            # By default it binds a thread to each core of the machine, which a container may forbid, and its arena
            # never shrinks after a peak.
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            options.enable_cpu_mem_arena = False
            return onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

        # Each caller's own thread works too; the other threads of a session serve all callers.
        shared = 1 if threads.threads == 1 else threads.streams * threads.threads
        self._shared = session(shared)
        self._latency = self._shared if threads.latency_threads == shared else session(threads.latency_threads)

    def infer(self, pixels: Pixels, *, features: bool = False, exclusive: bool = False) -> Answer:
        session = self._latency if exclusive else self._shared
        wanted = ["logits", "features"] if features else ["logits"]
        answers = [session.run(wanted, {"pixels": image}) for image in np.ascontiguousarray(pixels)[:, None]]
        logits, *maps = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return logits, maps[0] if features else None


def convert(network: object, side: int, folder: Path) -> str:
    """Export a torch network with its weights in one ONNX file; the version of ONNX Runtime."""
    import torch

    from eyespot.vision.engines.torch import to_program

    torch.onnx.export(
        to_program(network, side),
        f=folder / "model.onnx",
        input_names=["pixels"],
        output_names=["logits", "features"],
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    return str(onnxruntime.__version__)
