"""The figures of this machine: every engine and precision that is installed, and decode and crop by image size."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from eyespot.bench import decoding, samples
from eyespot.bench.decoding import DecodeFigures
from eyespot.bench.figures import EngineFigures, Job, Setup
from eyespot.bench.host import Host
from eyespot.errors import EngineUnavailable, UnknownModel
from eyespot.pool import Plan
from eyespot.types import ModelInfo
from eyespot.vision import weights

# torch first: the others are compared with what it leaves.
ENGINES = (
    ("torch", "f32"),
    ("openvino", "f32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("onnxruntime", "f32"),
    ("torchscript", "f32"),
)

# The heap of `eyespot serve`: see eyespot/__main__.py.
_HEAP = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "2097152", "MALLOC_TRIM_THRESHOLD_": "16777216"}

Run = Callable[[Job], EngineFigures]
Progress = Callable[[str, int, int], None]
"""Told what is measured now, how many measurements are done, and how many there will be."""


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """An engine and precision that this machine cannot run, and why."""

    engine: str
    precision: str
    reason: str


@dataclass(slots=True)
class MachineReport:
    """What was measured in processes of this machine, without a server."""

    host: Host
    model: str
    digest: str
    images: Annotated[int, Field(description="Different images that were measured with.")]
    plan: Plan
    seconds: Annotated[float, Field(description="Of each measurement.")]
    engines: list[EngineFigures] = field(default_factory=list)
    not_measured: list[NotMeasured] = field(default_factory=list)
    decoding: list[DecodeFigures] = field(default_factory=list)
    interrupted: bool = False

    @property
    def measured(self) -> bool:
        """Whether any engine could be measured."""
        return bool(self.engines)


def run(job: Job) -> EngineFigures:
    """The figures that a process of its own finds, so that memory is the engine's and no other's.

    Raises:
        EngineUnavailable: the engine cannot be had here; the last words of the process say why.
    """
    done = subprocess.run(
        [sys.executable, "-m", "eyespot.bench.engine"],
        env={**os.environ, **_HEAP},
        input=TypeAdapter(Job).dump_json(job),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise EngineUnavailable(words[-1] if words else f"the process ended with {done.returncode}")
    return TypeAdapter(EngineFigures).validate_json(done.stdout)


def measure(
    setup: Setup, engines: Collection[str] = (), *, run: Run = run, progress: Progress = lambda *_: None
) -> MachineReport:
    """Every engine, or those that are named, and decode and crop; after Ctrl-C, what had been measured by then.

    Raises:
        StartError: there is no such network or engine, or no image to measure with.
    """
    wanted = _wanted(engines)
    entry = weights.choose(weights.read_manifest(setup.manifest), setup.model)
    weights.verify(entry)
    setup = replace(setup, model=entry.name)
    images = samples.load(setup.images, setup.max_bytes)
    report = MachineReport(Host.here(), entry.name, entry.sha256, len(images), setup.plan, setup.seconds)
    steps = len(decoding.SIZES) + len(wanted)
    try:
        for done, (kind, width, height) in enumerate(decoding.SIZES):
            progress(f"decode and crop, {kind} {width} x {height}", done, steps)
            row = decoding.measure(images[0], kind, width, height, entry.recipe, setup.seconds)
            report.decoding.append(row)
        with tempfile.TemporaryDirectory() as folder:
            for done, (engine, precision) in enumerate(wanted, len(decoding.SIZES)):
                progress(f"{engine} {precision}", done, steps)
                _add(report, Job(setup, entry.recipe, engine, precision, Path(folder) / "torch.npz"), run)
        progress("done", steps, steps)
    except KeyboardInterrupt:
        report.interrupted = True
    return report


def _wanted(engines: Collection[str]) -> list[tuple[str, str]]:
    known = {engine: None for engine, _ in ENGINES}
    if unknown := [engine for engine in engines if engine not in known]:
        raise EngineUnavailable(f"no engine is called {unknown[0]!r}; there are {', '.join(known)}")
    return [(engine, precision) for engine, precision in ENGINES if not engines or engine in engines]


def _add(report: MachineReport, job: Job, run: Run) -> None:
    try:
        report.engines.append(run(job))
    except EngineUnavailable as error:
        report.not_measured.append(NotMeasured(job.engine, job.precision, str(error)))


def bound(setup: Setup, model: ModelInfo, *, run: Run = run) -> Callable[[], float]:
    """What finds the bound of this machine, each time anew, for the network that a server says it answers with.

    Raises:
        StartError: the network is not here, or the engine cannot be had.
    """
    entries = weights.read_manifest(setup.manifest)
    entry = next((entry for entry in entries.values() if entry.sha256 == model.digest), None)
    if entry is None:
        raise UnknownModel(f"{setup.manifest} has no network with the server's digest {model.digest[:12]}…")
    weights.verify(entry)
    job = Job(replace(setup, model=entry.name), entry.recipe, model.engine, model.precision, only_bound=True)
    run(replace(job, setup=replace(job.setup, seconds=0.1)))  # an engine that cannot be had says so here
    return lambda: run(job).bound.images_per_second
