"""An export: one network in the form of one engine, made once from the torch weights, and proved against them."""

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eyespot.errors import EngineUnavailable, ExportRefused, EyespotError
from eyespot.telemetry import event
from eyespot.types import Recipe
from eyespot.vision import imaging
from eyespot.vision.engines import Engine, Pixels
from eyespot.vision.weights import Entry

SAMPLE = Path(__file__).parents[1] / "sample.jpg"
MAX_LOGIT_DIFFERENCE = 1e-3  # 3e-5 was measured on 200 photographs
_RECORD = "export.json"
_UNFINISHED = ".unfinished-"


class Proof(BaseModel):
    """How the export answered, beside torch, on the fixed images."""

    images: int
    max_logit_difference: float


class Export(BaseModel):
    """What an export is of, how it was proved, and the sha256 of each of its files."""

    model_config = ConfigDict(frozen=True)

    digest: str
    recipe: Recipe
    classes: int
    engine: str
    engine_version: str
    proof: Proof
    golden_class: Annotated[int, Field(description="What torch says is in the sample image.")]
    files: dict[str, str]


def folder_name(entry: Entry, engine: str) -> str:
    """One folder for each (weights, recipe, engine)."""
    recipe = hashlib.sha256(repr(entry.recipe).encode()).hexdigest()
    return f"{entry.name}-{entry.sha256[:12]}-{recipe[:8]}-{engine}"


def find(entry: Entry, classes: int, engine: str, folders: Iterable[Path]) -> tuple[Path, Export] | None:
    """The first whole export of this network in `folders`, as (its folder, its record)."""
    for folder in folders:
        place = folder / folder_name(entry, engine)
        if not place.exists():
            continue
        if (export := _read(place)) and (export.digest, export.classes) == (entry.sha256, classes):
            return place, export
        event("export_damaged", logging.WARNING, folder=place)
    return None


def _read(place: Path) -> Export | None:
    try:
        export = Export.model_validate_json((place / _RECORD).read_bytes())
        whole = all(_sha256(place / name) == digest for name, digest in export.files.items())
    except (OSError, ValidationError):
        return None
    return export if whole and {"model.xml", "model.bin"} <= export.files.keys() else None


def make(entry: Entry, classes: int, folder: Path) -> tuple[Path, Export]:
    """Make the OpenVINO export below `folder`, in a process of its own: torch's 680 MB go away with it.

    Raises:
        EngineUnavailable: torch is not installed.
        ExportRefused: the export cannot be made, or does not answer as torch does.
    """
    event("export_started", model=entry.name, folder=folder)
    started = time.monotonic()
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-m", "eyespot.vision.export", str(classes), str(folder)],
        input=entry.model_dump_json().encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        last_line = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        if "ModuleNotFoundError" in last_line:
            raise EngineUnavailable(f"to export {entry.name}, `pip install eyespot[models]` is needed: {last_line}")
        raise ExportRefused(f"the export of {entry.name} could not be made: {last_line}")
    found = find(entry, classes, "openvino", [folder])
    if found is None:
        raise ExportRefused(f"the export of {entry.name} in {folder} is not whole")
    difference = found[1].proof.max_logit_difference
    event(
        "export_made", model=entry.name, seconds=round(time.monotonic() - started, 1), max_logit_difference=difference
    )
    return found


def proof_images(recipe: Recipe) -> Pixels:
    """The fixed images of the proof, uint8 (8, crop, crop, 3): the sample image four ways, gradients and soft noise."""
    sample = imaging.see(SAMPLE.read_bytes(), recipe).pixels
    side = recipe.crop
    ramp = np.linspace(0, 255, side, dtype=np.uint8)
    across = np.broadcast_to(ramp[None, :, None], sample.shape)
    down = np.broadcast_to(ramp[:, None, None], sample.shape)
    coarse = np.random.default_rng(0).integers(0, 256, (2, side // 8 + 1, side // 8 + 1, 3), dtype=np.uint8)
    noise = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :side, :side]
    ways = [sample, sample[:, ::-1], sample[::-1], 255 - sample, across, down, *noise]
    return np.ascontiguousarray(np.stack(ways))


def prove(reference: Engine, candidate: Engine, images: Pixels) -> Proof:
    """That two engines answer alike: the same top-1 on every image, and no logit further apart than the tolerance.

    Raises:
        ExportRefused: they do not.
    """
    expected, _ = reference.infer(images)
    actual, _ = candidate.infer(images)
    difference = float(np.abs(expected - actual).max())
    if not difference <= MAX_LOGIT_DIFFERENCE:  # also when it is not a number
        raise ExportRefused(f"{candidate.name} and {reference.name} differ by {difference} in a logit")
    if (expected.argmax(1) != actual.argmax(1)).any():
        raise ExportRefused(f"{candidate.name} and {reference.name} differ in a top-1")
    return Proof(images=len(images), max_logit_difference=difference)


def _make_here(entry: Entry, classes: int, folder: Path) -> None:
    """Convert, save, prove, and only then give the export its name."""
    import torch

    from eyespot.vision.engines import openvino as ov
    from eyespot.vision.engines import torch as reference

    network = reference.load_network(entry.architecture, entry.path, classes, entry.recipe)
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    place = folder / folder_name(entry, "openvino")
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))
    try:
        side = entry.recipe.crop
        with torch.no_grad():  # torch.export, since the tracing path of OpenVINO's converter warns
            program = torch.export.export(network, (torch.zeros(1, side, side, 3, dtype=torch.uint8),))
        ov.convert(program, side, unfinished / "model.xml")
        np.savez(unfinished / "head.npz", **{k: v.numpy() for k, v in network.head.state_dict().items()})
        images = proof_images(entry.recipe)
        engine = reference.TorchEngine(network, threads=torch.get_num_threads())
        candidate = ov.OpenVinoEngine(unfinished / "model.xml", workers=1, threads=torch.get_num_threads())
        record = Export(
            digest=entry.sha256,
            recipe=entry.recipe,
            classes=classes,
            engine="openvino",
            engine_version=ov.version,
            proof=prove(engine, candidate, images),
            golden_class=int(engine.infer(images[:1])[0].argmax()),
            files={path.name: _sha256(path) for path in sorted(unfinished.iterdir())},
        )
        (unfinished / _RECORD).write_text(record.model_dump_json(indent=1))
        unfinished.chmod(0o755)  # mkdtemp makes it for one user
        _settle(unfinished, place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _settle(finished: Path, place: Path) -> None:
    """Give the export its name, unless another process, which may be in use of it, was quicker."""
    if _read(place):
        return
    shutil.rmtree(place, ignore_errors=True)
    try:
        finished.rename(place)
    except OSError:
        if not _read(place):
            raise


def _sweep(folder: Path) -> None:
    """Remove what an interrupted export left behind."""
    for left in folder.glob(f"{_UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > 3600:
            shutil.rmtree(left, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    try:
        _make_here(Entry.model_validate_json(sys.stdin.read()), int(sys.argv[1]), Path(sys.argv[2]))
    except EyespotError as error:
        sys.exit(str(error))
