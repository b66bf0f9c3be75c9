"""Makes an export from the torch weights and proves it against torch: `make`, in a process of its own."""

import ctypes
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

import numpy as np

from eyespot.choices import ENGINES
from eyespot.errors import EngineUnavailable, ExportRefused, EyespotError
from eyespot.telemetry import event
from eyespot.types import Recipe
from eyespot.vision import engines, export
from eyespot.vision.engines import Engine, Pixels, Threads, softmax
from eyespot.vision.export import Export
from eyespot.vision.weights import Entry, sha256

MAX_LOGIT_DIFFERENCE = 1e-3  # 3e-5 was measured on 200 photographs


def make(entry: Entry, classes: int, folder: Path, engine: str = "openvino") -> tuple[Path, Export]:
    """Make an export, in its own process because torch takes 680 MB.

    Raises `DataDirUnwritable`, `EngineUnavailable` or `ExportRefused`.
    """
    export.check_writable(folder)
    event("export_started", model=entry.name, engine=engine, folder=folder)
    started = time.monotonic()
    done = subprocess.run(  # noqa: S603 - this module
        [sys.executable, "-m", __name__, engine, str(classes), str(folder)],
        input=entry.model_dump_json(exclude_defaults=True).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        last_line = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        if "ModuleNotFoundError" in last_line:
            extras = ",".join(filter(None, ["models", ENGINES[engine].extra]))
            raise EngineUnavailable(f"exporting {entry.name} needs `pip install eyespot[{extras}]`: {last_line}")
        if "basic_ios::clear" in last_line or "[Errno 28]" in last_line:  # OpenVINO, and Python
            last_line = f"no space left in {folder.absolute()}; set EYESPOT_DATA_DIR"
        raise ExportRefused(f"{entry.name} could not be exported: {last_line.removeprefix(f'{entry.name}: ')}")
    found = export.find(entry, classes, engine, [folder])
    assert found, "the new export cannot be read"
    seconds, difference = round(time.monotonic() - started, 1), found[1].max_logit_difference
    event("export_made", model=entry.name, seconds=seconds, max_logit_difference=difference)
    return found


def proof_images(recipe: Recipe) -> Pixels:
    """The images of the proof, uint8 (8, crop, crop, 3): the sample image in four forms, gradients and soft noise."""
    sample = export.golden_pixels(recipe)[0]
    side = recipe.crop
    ramp = np.linspace(0, 255, side, dtype=np.uint8)
    across = np.broadcast_to(ramp[None, :, None], sample.shape)
    down = np.broadcast_to(ramp[:, None, None], sample.shape)
    coarse = np.random.default_rng(0).integers(0, 256, (2, side // 8 + 1, side // 8 + 1, 3), dtype=np.uint8)
    noise = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :side, :side]
    return np.stack([sample, sample[:, ::-1], sample[::-1], 255 - sample, across, down, *noise])


def prove(reference: Engine, candidate: Engine, images: Pixels) -> float:
    """The largest difference of a logit; `ExportRefused` if it exceeds the tolerance, or a top-1 differs."""
    expected, _ = reference.infer(images)
    actual, _ = candidate.infer(images)
    difference = float(np.abs(expected - actual).max())
    if not difference <= MAX_LOGIT_DIFFERENCE:  # NaN included
        raise ExportRefused(f"{candidate.name} and {reference.name} differ by {difference} in a logit")
    if (expected.argmax(1) != actual.argmax(1)).any():
        raise ExportRefused(f"{candidate.name} and {reference.name} recognise a test image differently")
    return difference


def _write(entry: Entry, classes: int, engine: str, folder: Path) -> Export:
    import torch

    from eyespot.vision.engines.torch import TorchEngine, load_network

    network = load_network(entry.name, entry.architecture, entry.path, classes, entry.recipe)
    threads = Threads(1, torch.get_num_threads(), torch.get_num_threads())
    version = resolve_name(ENGINES[engine].exporter or "")(network, entry.recipe.crop, folder)
    if network.explains:
        np.savez(folder / export.HEAD, **{k: v.numpy() for k, v in network.head.state_dict().items()})
    images = proof_images(entry.recipe)
    reference = TorchEngine(network, threads)
    confidences = softmax(reference.infer(images[:1])[0][0])
    return Export(
        digest=entry.sha256,
        architecture=entry.architecture,
        recipe=entry.recipe,
        classes=classes,
        engine=engine,
        engine_version=version,
        max_logit_difference=prove(reference, engines.load(engine, folder, threads), images),
        sample=sha256(export.SAMPLE),
        golden=[(int(i), float(confidences[i])) for i in np.argsort(-confidences, kind="stable")[:5]],
        files={},
        explains=network.explains,
    )


if __name__ == "__main__":
    if sys.platform == "linux":  # end with the parent, which may be killed: see prctl(2), PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    engine, classes, folder = sys.argv[1:]
    entry = Entry.model_validate_json(sys.stdin.read())
    try:
        name = export.folder_name(entry, engine)
        export.publish(Path(folder), name, partial(_write, entry, int(classes), engine))
    except EyespotError as error:
        sys.exit(str(error))
