"""Exports: models in an engine's own format, made once from the torch weights, then loaded at every start."""

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eyespot.choices import ENGINES
from eyespot.errors import DataDirUnwritable
from eyespot.telemetry import event
from eyespot.types import Quantization, Recipe
from eyespot.vision import preprocess
from eyespot.vision.engines import Confidences, Pixels, Weights
from eyespot.vision.weights import Entry, sha256

SAMPLE = Path(__file__).parents[1] / "sample.jpg"
HEAD = "head.npz"  # the final layer, `weight` and `bias`, of an export that explains
_RECORD = "export.json"
_UNFINISHED = ".unfinished-"


class Export(BaseModel):
    """The record of an export: its model, its proof, and the sha256 of each file.

    `max_logit_difference` is that of the float32 export from torch on the proof images. `sample` is the sha256 of the
    sample image, `golden` torch's top 5 for it as (class, confidence). It `explains` if it has class-activation maps.
    """

    model_config = ConfigDict(frozen=True)

    digest: str
    architecture: str = ""  # of older exports
    recipe: Recipe
    classes: int
    engine: str
    engine_version: str
    precision: Literal["f32", "int8"] = "f32"
    max_logit_difference: float
    sample: str
    golden: Annotated[list[tuple[int, float]], Field(min_length=1)]
    files: dict[str, str]
    quantization: Quantization | None = None
    explains: bool = True

    @property
    def identity(self) -> str:
        """16 hexadecimal digits, unique to these files."""
        return hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()[:16]

    def is_of(self, digest: str, architecture: str, classes: int) -> bool:
        """Whether it has these weights, network and classes, and was proved on the present sample image."""
        same = (self.digest, self.classes, self.sample) == (digest, classes, sha256(SAMPLE))
        same &= self.architecture in ("", architecture)
        return same and all(0 <= class_id < classes for class_id, _ in self.golden)

    def is_golden(self, confidences: Confidences, precision: str) -> bool:
        """Whether confidences for the sample image have torch's top-1.

        Below f32, any class is accepted that torch finds at least half as likely: bf16 was seen to move a logit by 0.3,
        so classes may change places whose logits are up to 0.6 apart (a factor of 1.8).
        """
        best = self.golden[0][1]
        likely = best if precision == "f32" else best / 2
        return int(confidences.argmax()) in {class_id for class_id, confidence in self.golden if confidence >= likely}


def golden_pixels(recipe: Recipe) -> Pixels:
    """The sample image as model input, uint8 (1, crop, crop, 3)."""
    return preprocess.preprocess(SAMPLE.read_bytes(), recipe).pixels[None]


def folder_name(entry: Entry, engine: str, precision: str = "f32") -> str:
    """Unique to weights, recipe, engine and precision of the weights."""
    recipe = hashlib.sha256(repr(entry.recipe).encode()).hexdigest()
    int8 = "-int8" if precision == "int8" else ""  # bf16 runs from the float32 export
    return f"{entry.name}-{entry.sha256[:12]}-{recipe[:8]}-{engine}{int8}"


def folders(entry: Entry, data_dir: Path) -> list[Path]:
    """Where exports are looked for: beside the manifest, then in the data folder, where missing ones are made."""
    return [entry.folder / "exports", data_dir / "exports"]


def check_writable(folder: Path) -> None:
    """Create the data folder, or a folder in it, and a file there. Raises `DataDirUnwritable`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise DataDirUnwritable(
            f"the data folder {folder.absolute()} is not writable: {reason}; set EYESPOT_DATA_DIR"
        ) from error


def find(
    entry: Entry, classes: int, engine: str, folders: Iterable[Path], precision: str = "f32"
) -> tuple[Path, Export] | None:
    """The first intact export of the model in `folders`: its folder and its record."""
    for folder in folders:
        place = folder / folder_name(entry, engine, precision)
        if not place.exists():
            continue
        if (record := read(place)) and record.is_of(entry.sha256, entry.architecture, classes):
            return place, record
        event("export_damaged", logging.WARNING, folder=place)
    return None


def read(place: Path) -> Export | None:
    """The record of the export in `place`; None if it or any file of the export is missing or damaged."""
    try:
        record = Export.model_validate_json((place / _RECORD).read_bytes())
        intact = all(sha256(place / name) == digest for name, digest in record.files.items())
    except (OSError, ValidationError):
        return None
    known = ENGINES.get(record.engine)
    if not (intact and known):
        return None
    return record if known.files | ({HEAD} if record.explains else set()) <= record.files.keys() else None


def read_head(place: Path) -> Weights:
    """The weights of the final layer of the export in `place`, float32 (classes, channels)."""
    with np.load(place / HEAD) as head:
        weights: Weights = head["weight"]
    return weights


def publish(folder: Path, name: str, write: Callable[[Path], Export], *, replace: bool = False) -> Path:
    """Have `write` make an export in a temporary folder, and rename it to `name` in `folder` when it is complete.

    An intact export with that name, which another process may have open, stays unless `replace` is set.
    """
    place = folder / name

    def kept(record: Export) -> bool:
        other = None if replace else read(place)
        return other is not None and other.is_of(record.digest, record.architecture, record.classes)

    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(FileNotFoundError):  # another process has just finished it
            if time.time() - left.stat().st_mtime > 3600:  # interrupted
                shutil.rmtree(left, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))
    try:
        record = write(unfinished)
        files = {path.name: sha256(path) for path in sorted(unfinished.iterdir())}
        (unfinished / _RECORD).write_text(record.model_copy(update={"files": files}).model_dump_json(indent=1))
        unfinished.chmod(0o755)  # mkdtemp gives access to one user
        if not kept(record):
            shutil.rmtree(place, ignore_errors=True)
            try:
                unfinished.rename(place)
            except OSError:  # another process made it at the same time
                if not kept(record):
                    raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return place
