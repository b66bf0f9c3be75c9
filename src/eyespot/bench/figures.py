"""What a measuring process is asked, and what it answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from eyespot.pool import Plan
from eyespot.types import Recipe


@dataclass(frozen=True, slots=True)
class Setup:
    """Where the network is, and what every measurement is made with."""

    manifest: Path
    model: str
    labels_dir: Path
    data_dir: Path
    plan: Plan
    seconds: float  # of each measurement
    images: Path | None
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Job:
    """One engine in one precision, to be measured."""

    setup: Setup
    recipe: Recipe
    engine: str
    precision: str
    reference: Path | None = None  # where torch leaves its confidences, and the others find them
    only_bound: bool = False


@dataclass(frozen=True, slots=True)
class Bound:
    """What no server on this machine can exceed: decode, crop and inference in a loop, with a thread a worker."""

    images_per_second: float
    resident_mb: Annotated[float, Field(description="Resident memory of the process at the end of the loop, in MB.")]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the engine answers beside torch, on the same images."""

    same_top1: Annotated[float, Field(ge=0, le=1, description="Share of the images with torch's likeliest class.")]
    worst_difference: Annotated[float, Field(ge=0, description="Largest difference of that class's confidence.")]


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """One engine in one precision; null is what an interrupted or smaller measurement did not look at."""

    engine: str
    precision: str
    bound: Bound
    inferences_per_second: Annotated[float | None, Field(description="Inference alone, all streams busy.")] = None
    one_thread_ms: Annotated[float | None, Field(description="Median of one inference on one thread.")] = None
    all_threads_ms: Annotated[float | None, Field(description="Median of one inference on all threads.")] = None
    agreement: Annotated[Agreement | None, Field(description="With torch, where torch was measured.")] = None
    chosen: Annotated[bool, Field(description="Whether `auto` takes it on this machine.")] = False
