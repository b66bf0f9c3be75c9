"""Engines: a Protocol over numpy, one module for each library, which is imported nowhere else."""

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from eyespot.choices import ENGINES
from eyespot.errors import EngineUnavailable

Pixels = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
Confidences = npt.NDArray[np.float32]
Features = npt.NDArray[np.float32]
Embedding = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float32]
Answer = tuple[Logits, Features | None]
Clock = Callable[[], float]  # seconds


@dataclass(frozen=True, slots=True)
class Threads:
    """`streams` images are computed at once with `threads` threads each, an exclusive one with `latency_threads`."""

    streams: int = 1
    threads: int = 1
    latency_threads: int = 1


class Engine(Protocol):
    """One loaded model.

    `infer` may be called from several threads at once. It takes decoded pixels, uint8 RGB of shape (n, side, side, 3),
    and returns float32 logits of shape (n, classes) and, with `features`, the last feature map, float32 of shape
    (n, channels, height, width). An `exclusive` call may use every core of the process; others share them.
    """

    name: str
    precision: str

    def infer(self, pixels: Pixels, *, features: bool = False, exclusive: bool = False) -> Answer: ...


def load(name: str, folder: Path, threads: Threads, **options: Any) -> Engine:
    """The engine with the export in `folder`; raises `EngineUnavailable`, or `RuntimeError` if it does not compile."""
    choice = ENGINES[name]
    try:
        return cast(Engine, pkgutil.resolve_name(choice.engine)(folder, threads, **options))
    except ImportError as error:
        what = f"eyespot[{choice.extra}]" if choice.extra else "eyespot"
        raise EngineUnavailable(f"the engine {name} needs `pip install {what}`: {error}") from error


def softmax(logits: Logits, temperature: float = 1) -> Confidences:
    """Confidences, float32 of the same shape (classes,); the logits are divided by the temperature."""
    powers = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    return cast(Confidences, (powers / powers.sum()).astype(np.float32))


def pool(features: Features) -> Embedding:
    """The mean of each channel of a feature map, float32 (channels,)."""
    return cast(Embedding, features.mean((1, 2)))


def embedding(features: Features) -> Embedding:
    """The pooled features scaled to length 1: the dot product of two is their cosine similarity."""
    pooled = pool(features)
    return cast(Embedding, pooled / max(float(np.linalg.norm(pooled)), 1e-12))


def time_each(
    engines: Sequence[Engine], pixels: Pixels, rounds: int, exclusive: bool, clock: Clock
) -> list[list[float]]:
    """Seconds of each inference, for each engine; they take turns because machines are noisy."""
    seconds: list[list[float]] = [[] for _ in engines]
    for _ in range(rounds):
        for engine, taken in zip(engines, seconds, strict=True):
            started = clock()
            engine.infer(pixels, exclusive=exclusive)
            taken.append(clock() - started)
    return seconds
