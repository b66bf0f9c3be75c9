"""An export: one network in the form of one engine, made once from the torch weights, and proved against them."""

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from eyespot.errors import EngineUnavailable, ExportRefused, EyespotError
from eyespot.telemetry import event
from eyespot.types import Quantization, Recipe
from eyespot.vision import preprocess
from eyespot.vision.engines import Confidences, Engine, Pixels, softmax
from eyespot.vision.weights import Entry

if TYPE_CHECKING:
    from eyespot.vision.engines.torch import Network

SAMPLE = Path(__file__).parents[1] / "sample.jpg"
MAX_LOGIT_DIFFERENCE = 1e-3  # 3e-5 was measured on 200 photographs
_FILES = {"openvino": {"model.xml", "model.bin"}, "onnxruntime": {"model.onnx"}, "torchscript": {"model.pt"}}
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
    precision: Literal["f32", "int8"] = "f32"
    proof: Annotated[Proof, Field(description="Of the float32 network, which an int8 one is calibrated from.")]
    sample: Annotated[str, Field(description="sha256 of the sample image.")]
    golden: Annotated[
        list[tuple[int, float]], Field(min_length=1, description="torch's top 5 for it, as (class, confidence).")
    ]
    files: dict[str, str]
    quantization: Quantization | None = None

    @model_validator(mode="after")
    def _knows_its_classes(self) -> Self:
        if not all(0 <= class_id < self.classes for class_id, _ in self.golden):
            raise ValueError("the sample image is of a class that the model does not have")
        return self

    @property
    def identity(self) -> str:
        """16 hexadecimal digits that no other export has."""
        return hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()[:16]

    def is_of(self, digest: str, classes: int) -> bool:
        """Whether it was made from these weights and classes, and proved on today's sample image."""
        return (self.digest, self.classes, self.sample) == (digest, classes, _sha256(SAMPLE))

    def is_golden(self, confidences: Confidences, precision: str) -> bool:
        """Whether an engine's confidences for the sample image have the likeliest class that torch's have.

        Less precision than f32 may take another class that torch finds at least half as likely: bf16 was seen to move a
        logit by 0.3, so that two of them may change places when they are up to 0.6 (a factor of 1.8) apart.
        """
        best = self.golden[0][1]
        likely = best if precision == "f32" else best / 2
        return int(confidences.argmax()) in {class_id for class_id, confidence in self.golden if confidence >= likely}


def folder_name(entry: Entry, engine: str, precision: str = "f32") -> str:
    """One folder for each (weights, recipe, engine, precision of the weights)."""
    recipe = hashlib.sha256(repr(entry.recipe).encode()).hexdigest()
    int8 = "-int8" if precision == "int8" else ""  # bf16 runs from the float32 export
    return f"{entry.name}-{entry.sha256[:12]}-{recipe[:8]}-{engine}{int8}"


def folders(entry: Entry, data_dir: Path) -> list[Path]:
    """Where exports are looked for: beside the manifest, and in the data folder, where missing ones are made."""
    return [entry.folder / "exports", data_dir / "exports"]


def find(
    entry: Entry, classes: int, engine: str, folders: Iterable[Path], precision: str = "f32"
) -> tuple[Path, Export] | None:
    """The first whole export of this network in `folders`, as (its folder, its record)."""
    for folder in folders:
        place = folder / folder_name(entry, engine, precision)
        if not place.exists():
            continue
        if (export := _read(place)) and export.is_of(entry.sha256, classes):
            return place, export
        event("export_damaged", logging.WARNING, folder=place)
    return None


def _read(place: Path) -> Export | None:
    try:
        export = Export.model_validate_json((place / _RECORD).read_bytes())
        whole = all(_sha256(place / name) == digest for name, digest in export.files.items())
    except (OSError, ValidationError):
        return None
    return export if whole and _FILES.get(export.engine, {_RECORD}) <= export.files.keys() else None


def load(
    engine: str, place: Path, *, precision: str, streams: int, threads: int, latency_threads: int, bf16: bool = False
) -> Engine:
    """The engine with the export at `place` in it. The numbers are those of `Classifier.open`.

    `precision` and `bf16` are those of `OpenVinoEngine`.

    Raises:
        EngineUnavailable: its library is not installed.
        RuntimeError: this processor cannot run it.
    """
    try:
        if engine == "onnxruntime":
            from eyespot.vision.engines.onnx import OnnxEngine

            return OnnxEngine(place, streams=streams, threads=threads, latency_threads=latency_threads)
        if engine == "torchscript":
            from eyespot.vision.engines.torchscript import TorchScriptEngine

            return TorchScriptEngine(place, threads=threads, latency_threads=latency_threads)
    except ModuleNotFoundError as error:
        raise EngineUnavailable(f"the engine {engine} needs `pip install eyespot[{engine}]`: {error}") from error
    from eyespot.vision.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(
        place, precision=precision, streams=streams, threads=threads, latency_threads=latency_threads, bf16=bf16
    )


def make(entry: Entry, classes: int, folder: Path, engine: str = "openvino") -> tuple[Path, Export]:
    """Make an export below `folder`, in a process of its own: torch's 680 MB go away with it.

    Raises:
        EngineUnavailable: torch, or what the engine needs, is not installed.
        ExportRefused: the export cannot be made, or does not answer as torch does.
    """
    event("export_started", model=entry.name, engine=engine, folder=folder)
    started = time.monotonic()
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-m", "eyespot.vision.export", engine, str(classes), str(folder)],
        input=entry.model_dump_json().encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        last_line = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        if "ModuleNotFoundError" in last_line:
            extras = "models" if engine == "openvino" else f"models,{engine}"
            raise EngineUnavailable(f"to export {entry.name}, `pip install eyespot[{extras}]` is needed: {last_line}")
        raise ExportRefused(f"the export of {entry.name} could not be made: {last_line}")
    found = find(entry, classes, engine, [folder])
    if found is None:
        raise ExportRefused(f"the export of {entry.name} in {folder} is not whole")
    difference = found[1].proof.max_logit_difference
    event(
        "export_made", model=entry.name, seconds=round(time.monotonic() - started, 1), max_logit_difference=difference
    )
    return found


def golden_pixels(recipe: Recipe) -> Pixels:
    """The sample image as the network takes it, uint8 (1, crop, crop, 3)."""
    return preprocess.preprocess(SAMPLE.read_bytes(), recipe).pixels[None]


def proof_images(recipe: Recipe) -> Pixels:
    """The fixed images of the proof, uint8 (8, crop, crop, 3): the sample image four ways, gradients and soft noise."""
    sample = golden_pixels(recipe)[0]
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


def _make_here(entry: Entry, classes: int, folder: Path, engine: str) -> None:
    """Convert, save, prove, and only then give the export its name."""
    import torch

    from eyespot.vision.engines import torch as reference

    network = reference.load_network(entry.architecture, entry.path, classes, entry.recipe)
    threads = torch.get_num_threads()

    def write(unfinished: Path) -> Export:
        version = _convert(engine, network, entry.recipe.crop, unfinished)
        np.savez(unfinished / "head.npz", **{k: v.numpy() for k, v in network.head.state_dict().items()})
        images = proof_images(entry.recipe)
        expected = reference.TorchEngine(network, threads=threads, latency_threads=threads)
        candidate = load(engine, unfinished, precision="f32", streams=1, threads=threads, latency_threads=threads)
        confidences = softmax(expected.infer(images[:1])[0][0])
        return Export(
            digest=entry.sha256,
            recipe=entry.recipe,
            classes=classes,
            engine=engine,
            engine_version=version,
            proof=prove(expected, candidate, images),
            sample=_sha256(SAMPLE),
            golden=[(int(i), float(confidences[i])) for i in np.argsort(-confidences, kind="stable")[:5]],
            files={},
        )

    publish(folder, folder_name(entry, engine), write)


def _convert(engine: str, network: "Network", side: int, folder: Path) -> str:
    """Write the network in the form of that engine; the version of the engine's library."""
    if engine == "torchscript":
        from eyespot.vision.engines import torchscript

        torchscript.convert(network, side, folder)
        return torchscript.version
    import torch

    with torch.no_grad():  # torch.export, since the tracing path of OpenVINO's converter warns
        program = torch.export.export(network, (torch.zeros(1, side, side, 3, dtype=torch.uint8),))
    if engine == "onnxruntime":
        from eyespot.vision.engines import onnx

        onnx.convert(program, folder)
        return onnx.version
    from eyespot.vision.engines import openvino

    openvino.convert(program, side, folder)
    return openvino.version


def publish(folder: Path, name: str, write: Callable[[Path], Export], *, replace: bool = False) -> Path:
    """Give an export its name below `folder`, once `write` has put it into a folder of its own without an error.

    Where another process, which may be in use of it, was quicker, its export stays, unless `replace` says otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))
    try:
        record = write(unfinished)
        files = {path.name: _sha256(path) for path in sorted(unfinished.iterdir())}
        (unfinished / _RECORD).write_text(record.model_copy(update={"files": files}).model_dump_json(indent=1))
        unfinished.chmod(0o755)  # mkdtemp makes it for one user
        _rename(unfinished, folder / name, record, replace)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder / name


def _rename(finished: Path, place: Path, record: Export, replace: bool) -> None:
    def is_there() -> bool:
        other = _read(place)
        return not replace and other is not None and other.is_of(record.digest, record.classes)

    if is_there():
        return
    shutil.rmtree(place, ignore_errors=True)
    try:
        finished.rename(place)
    except OSError:
        if not is_there():
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
        _make_here(Entry.model_validate_json(sys.stdin.read()), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[1])
    except EyespotError as error:
        sys.exit(str(error))
