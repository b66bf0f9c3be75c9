"""Which calibration a model has: the manifest's, or one fitted on this machine."""

import logging
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from eyespot.telemetry import event
from eyespot.types import Calibration
from eyespot.vision.export import check_writable
from eyespot.vision.weights import Entry

_CALIBRATION = TypeAdapter(Calibration)


def of(entry: Entry, precision: str, data_dir: Path) -> Calibration:
    """The one fitted here, or else the manifest's for this precision, or else the manifest's for float32."""
    file, given = _file(entry.sha256, precision, data_dir), entry.calibration
    try:
        return _CALIBRATION.validate_json(file.read_bytes())
    except FileNotFoundError:
        pass
    except (OSError, ValidationError):
        event("calibration_ignored", logging.WARNING, file=str(file))
    return given.get(precision) or given.get("f32") or Calibration()


def keep(calibration: Calibration, digest: str, precision: str, data_dir: Path) -> Path:
    """Write a calibration to where `of` finds it, and return the file. Raises `DataDirUnwritable` or `OSError`."""
    file = _file(digest, precision, data_dir)
    check_writable(file.parent)
    new = file.with_suffix(".new")
    new.write_bytes(_CALIBRATION.dump_json(calibration))
    return new.replace(file)


def _file(digest: str, precision: str, data_dir: Path) -> Path:
    return data_dir / "calibrations" / f"{digest[:16]}-{precision}.json"
