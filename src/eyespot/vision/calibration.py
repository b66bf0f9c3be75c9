"""Which calibration a model has: the manifest's, or one fitted on this machine."""

import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from eyespot.types import Calibration
from eyespot.vision.export import check_writable
from eyespot.vision.weights import Entry

_CALIBRATIONS = TypeAdapter(dict[str, Calibration])


def of(entry: Entry, precision: str, data_dir: Path) -> Calibration:
    """The one fitted here, or else the manifest's for this precision, or else the manifest's for float32."""
    fitted = _read(_file(data_dir)).get(_key(entry.sha256, precision))
    given = entry.calibration
    return fitted or given.get(precision) or given.get("f32") or Calibration()


def keep(calibration: Calibration, digest: str, precision: str, data_dir: Path) -> Path:
    """Write a calibration to where `of` finds it, and return the file. Raises `DataDirUnwritable`."""
    file = _file(data_dir)
    check_writable(data_dir)
    new = file.with_name(f"{file.name}.{os.getpid()}")
    new.write_bytes(_CALIBRATIONS.dump_json({**_read(file), _key(digest, precision): calibration}, indent=1))
    return new.replace(file)


def _file(data_dir: Path) -> Path:
    return data_dir / "calibration.json"


def _key(digest: str, precision: str) -> str:
    return f"{digest} {precision}"


def _read(file: Path) -> dict[str, Calibration]:
    try:
        return _CALIBRATIONS.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return {}
