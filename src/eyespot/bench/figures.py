"""What a benchmark is given and what it reports."""

import math
import os
import platform
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from eyespot import cpus

_LIBRARIES = {"eyespot", "openvino", "ncnn", "onnxruntime", "torch", "numpy", "pillow"}


@dataclass(frozen=True, slots=True)
class Task:
    """What to measure and for how long; where it says None, the settings decide."""

    seconds: float  # per measurement
    images: Path | None = None  # folder; None is the sample image
    model: str | None = None
    engine: str | None = None
    precision: str | None = None
    reference: Path | None = None  # file of torch's confidences: torch writes it, the other engines read it
    only_bound: bool = False


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """One engine in one precision; None was not measured."""

    engine: str
    precision: str
    bound: float  # images/s of decode, crop and inference in a loop, one thread per worker: no server exceeds it
    memory_mb: float  # resident, of the process in that loop
    one_thread_ms: float | None = None  # inference of one image
    all_threads_ms: float | None = None
    same_top1: float | None = None  # share of the images with torch's top class
    max_difference: float | None = None  # of that class's confidence
    auto: bool = False  # what `auto` takes on this machine


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """A server under load from a number of connections; NaN, null in JSON, is what could not be measured."""

    connections: int
    images_per_s: float
    p50_ms: float  # of answers with 200
    p99_ms: float
    failures: dict[str, int]  # number of each outcome other than 200
    of_bound: float = math.nan  # the rate over the bound of this machine, measured just before


def this_machine() -> dict[str, Any]:
    """The machine and its libraries, now."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    installed = ((found.name.lower(), found.version) for found in metadata.distributions())
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": cpus.available_cpus(),
        "load": round(os.getloadavg()[0], 2),  # average of the minute before: other work spoils the figures
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{name: version for name, version in installed if name in _LIBRARIES},
    }


@dataclass(slots=True)
class Report:
    """What was measured, of this machine or of the server at `url`."""

    seconds: float  # per measurement
    url: str | None = None
    rounds: int = 1  # the figures of a server are medians over these
    host: dict[str, Any] = field(default_factory=this_machine)
    model: str = ""
    digest: str = ""
    images: int = 0
    engines: list[EngineFigures] = field(default_factory=list)
    decode_ms: dict[str, float] = field(default_factory=dict)  # decode and crop, on one core, by format and size
    loads: list[LoadFigures] = field(default_factory=list)
    bound: float | None = None  # of this machine, in images/s
    skipped: dict[str, str] = field(default_factory=dict)  # what could not be measured, and why
    interrupted: bool = False
