"""The machine that figures were measured on, without which they mean nothing."""

import os
import platform
import resource
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from eyespot import pool

_LIBRARIES = ("eyespot", "openvino", "onnxruntime", "torch", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class Host:
    """A machine, and what is installed on it, at one moment."""

    processor: str
    cpus: Annotated[int, Field(description="Cores that this process may use.")]
    system: str
    load_before: Annotated[float, Field(description="Load average of the minute before; others' work spoils figures.")]
    versions: dict[str, str]
    measured_at: Annotated[str, Field(description="ISO 8601, in UTC.")]

    @classmethod
    def here(cls) -> Self:
        """This machine, now."""
        return cls(
            processor=_processor(),
            cpus=pool.available_cpus(),
            system=f"{platform.system()} {platform.machine()}",
            load_before=round(os.getloadavg()[0], 2),
            versions={"python": platform.python_version(), **_installed()},
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or "unknown processor"


def _installed() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def resident_mb(process: int | None = None) -> float:
    """Resident memory of a process, or of this one, in MB.

    Raises:
        OSError: it has ended, or this system does not tell of other processes.
    """
    try:
        lines = Path(f"/proc/{process or 'self'}/status").read_text().splitlines()
    except OSError:
        if process:
            raise
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    kib = next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), None)
    if kib is None:
        raise ProcessLookupError(process)  # ended, and not waited for yet
    return kib * 1024 / 1e6
