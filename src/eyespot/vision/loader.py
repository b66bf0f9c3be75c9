"""Loads a model into an engine: from its export or its torch weights, in the precision that is best here.

Some processors that have bf16 are slower in it, and on some OpenVINO reports bf16 but cannot compile the model. So f32
and bf16 are chosen between by measuring both.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from eyespot.choices import ENGINES
from eyespot.errors import EngineUnavailable
from eyespot.telemetry import event
from eyespot.vision import engines, export, exporter
from eyespot.vision.engines import Clock, Engine, Threads, Weights, softmax, time_each
from eyespot.vision.export import Export
from eyespot.vision.weights import Entry

Load = Callable[..., Engine]
"""Loads an export with `bf16=True` or False (f32). Raises `RuntimeError` if it does not compile."""

_WORTH = 0.9  # of the time in f32; a smaller gain may be noise, and does not pay for the rounding
_ROUNDS = 3


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


def load_model(
    entry: Entry, classes: int, engine: str, precision: str, data_dir: Path, threads: Threads
) -> tuple[Engine, Weights | None, Export | None, Comparison | None]:
    """The engine, the final layer's weights if it explains, its export's record, and the comparison of f32 and bf16.

    `engine` and `precision` may be `auto`. Raises `EngineUnavailable` or `ExportRefused`.
    """
    engine = "openvino" if engine == "auto" else engine
    if engine not in ENGINES:
        raise EngineUnavailable(f"unknown engine {engine!r}; the engines are {', '.join(ENGINES)}")
    choice = ENGINES[engine]
    if precision not in ("auto", *choice.precisions):
        raise EngineUnavailable(
            f"{engine} computes in {', '.join(choice.precisions)}, not in {precision}; set the precision to auto"
        )
    if choice.exporter is None:
        network = {"architecture": entry.architecture, "classes": classes, "recipe": entry.recipe}
        loaded = engines.load(engine, entry.path, threads, model=entry.name, **network)
        return loaded, loaded.head, None, None  # type: ignore[attr-defined]
    folders = export.folders(entry, data_dir)
    if precision == "int8":
        found = export.find(entry, classes, engine, folders[::-1], "int8")  # the user's own before the packaged one
        if not found:
            raise EngineUnavailable(f"{entry.name} has no int8 export; `eyespot quantize --images DIR` makes one")
    else:
        found = export.find(entry, classes, engine, folders) or exporter.make(entry, classes, folders[-1], engine)
    place, record = found
    head = export.read_head(place) if record.explains else None
    if engine != "openvino":
        return engines.load(engine, place, threads), head, record, None

    load = partial(engines.load, engine, place, threads, precision=record.precision)
    loaded, comparison = load_openvino(precision, load, record, data_dir)
    return loaded, head, record, comparison


def load_openvino(precision: str, load: Load, record: Export, data_dir: Path) -> tuple[Engine, Comparison | None]:
    """The engine; with `auto` and `int8`, in bf16 or f32 by comparison. Raises `EngineUnavailable` without bf16."""
    from eyespot.vision.engines.openvino import has_bf16, platform

    if precision == "bf16" and not has_bf16():
        raise EngineUnavailable("this processor has no bf16; set EYESPOT_PRECISION to auto, f32 or int8")
    if precision in ("f32", "bf16") or not has_bf16():
        try:
            return load(bf16=precision == "bf16"), None
        except RuntimeError as error:
            raise EngineUnavailable(f"OpenVINO cannot run this model in {precision} on this processor") from error
    return load_fastest(load, record, platform(), data_dir)


def load_fastest(
    load: Load, record: Export, platform: str, data_dir: Path, clock: Clock = time.perf_counter
) -> tuple[Engine, Comparison]:
    """The engine in bf16 where that is right and worth it, else in f32; compared once for each platform and export."""
    file, key = data_dir / "precision.json", f"{platform}, {record.identity}"
    if comparison := _read(file).get(key):
        with contextlib.suppress(RuntimeError):  # it no longer compiles: compare again
            return load(bf16=comparison.bf16), comparison
    engine, comparison = _compare(load, record, clock)
    new = file.with_name(f"{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # then the next start compares again
        new.write_bytes(_COMPARISONS.dump_json({**_read(file), key: comparison}, indent=1))
        new.replace(file)
    event("precision_compared", precision=engine.precision, **comparison.model_dump())
    return engine, comparison


def _compare(load: Load, record: Export, clock: Clock) -> tuple[Engine, Comparison]:
    pixels = export.golden_pixels(record.recipe)

    def fastest_ms(*engines: Engine) -> list[float]:
        return [round(min(seconds) * 1000, 1) for seconds in time_each(engines, pixels, _ROUNDS, False, clock)]

    f32 = load(bf16=False)
    try:
        bf16 = load(bf16=True)
    except RuntimeError as error:
        event("bf16_unavailable", logging.WARNING, reason=" ".join(str(error).split()))
        return f32, Comparison(f32_ms=fastest_ms(f32)[0], bf16_ms=None, golden=False)
    f32_ms, bf16_ms = fastest_ms(f32, bf16)
    golden = record.is_golden(softmax(bf16.infer(pixels)[0][0]), "bf16")
    comparison = Comparison(f32_ms=f32_ms, bf16_ms=bf16_ms, golden=golden)
    return (bf16 if comparison.bf16 else f32), comparison


def _read(file: Path) -> dict[str, Comparison]:
    try:
        return _COMPARISONS.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return {}
