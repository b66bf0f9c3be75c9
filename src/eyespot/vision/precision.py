"""f32 or bf16: chosen by measuring both on this processor.

Some processors that have bf16 are slower in it, and on some OpenVINO reports bf16 but cannot compile the model.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from eyespot.errors import EngineUnavailable
from eyespot.telemetry import event
from eyespot.vision import export
from eyespot.vision.engines import Clock, Engine, softmax, time_each
from eyespot.vision.export import Export

Load = Callable[[bool], Engine]
"""Loads an export with its floating point in bf16, or else in f32. Raises `RuntimeError` if it does not compile."""

_WORTH = 0.9  # of the time in f32; a smaller gain may be noise, and does not pay for the rounding
_ROUNDS = 3
_FILE = "precision.json"


class Comparison(BaseModel):
    """The fastest inference in f32 and bf16, None if it does not compile, and whether bf16 passes the golden image."""

    f32_ms: float
    bf16_ms: float | None
    golden: bool

    @property
    def bf16(self) -> bool:
        """Whether bf16 is right and worth it."""
        return self.golden and self.bf16_ms is not None and self.bf16_ms <= _WORTH * self.f32_ms


_COMPARISONS = TypeAdapter(dict[str, Comparison])


def load_engine(asked: str, load: Load, record: Export, data_dir: Path) -> tuple[Engine, Comparison | None]:
    """The engine in the precision that was asked for; with `auto` and `int8`, bf16 or f32 by comparison.

    Raises `EngineUnavailable` if bf16 was asked for and does not work on this processor.
    """
    from eyespot.vision.engines.openvino import has_bf16, platform

    if asked == "f32" or (asked != "bf16" and not has_bf16()):
        return load(False), None
    if asked != "bf16":
        return load_fastest(load, record, platform(), data_dir)
    if not has_bf16():
        raise EngineUnavailable("this processor does not compute in bf16 natively; use f32 or int8")
    return _load_bf16(load), None


def load_fastest(
    load: Load, record: Export, platform: str, data_dir: Path, clock: Clock = time.perf_counter
) -> tuple[Engine, Comparison]:
    """The engine in bf16 where that is right and worth it, else in f32.

    They are compared once for each platform and export; the result is kept in `data_dir`.
    """
    file, key = data_dir / _FILE, f"{platform}, {record.identity}"
    if comparison := _read(file).get(key):
        with contextlib.suppress(RuntimeError):  # it no longer compiles: compare again
            return load(comparison.bf16), comparison
    engine, comparison = _compare(load, record, clock)
    _write(file, key, comparison)
    event("precision_compared", precision=engine.precision, **comparison.model_dump())
    return engine, comparison


def _compare(load: Load, record: Export, clock: Clock) -> tuple[Engine, Comparison]:
    """The better engine, and the comparison."""
    pixels = export.golden_pixels(record.recipe)

    def fastest_ms(*engines: Engine) -> list[float]:
        return [round(min(seconds) * 1000, 1) for seconds in time_each(engines, pixels, _ROUNDS, False, clock)]

    f32 = load(False)
    try:
        bf16 = _load_bf16(load)
    except EngineUnavailable as error:
        event("bf16_unavailable", logging.WARNING, reason=str(error), cause=" ".join(str(error.__cause__).split()))
        return f32, Comparison(f32_ms=fastest_ms(f32)[0], bf16_ms=None, golden=False)
    f32_ms, bf16_ms = fastest_ms(f32, bf16)
    golden = record.is_golden(softmax(bf16.infer(pixels)[0][0]), "bf16")
    comparison = Comparison(f32_ms=f32_ms, bf16_ms=bf16_ms, golden=golden)
    return (bf16 if comparison.bf16 else f32), comparison


def _load_bf16(load: Load) -> Engine:
    try:
        return load(True)
    except RuntimeError as error:
        raise EngineUnavailable("OpenVINO cannot run this model in bf16 on this processor") from error


def _read(file: Path) -> dict[str, Comparison]:
    try:
        return _COMPARISONS.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return {}


def _write(file: Path, key: str, comparison: Comparison) -> None:
    """Add it to the file. If that fails, the next start compares again."""
    new = file.with_name(f"{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        new.write_bytes(_COMPARISONS.dump_json({**_read(file), key: comparison}, indent=1))
        new.replace(file)
