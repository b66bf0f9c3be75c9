"""Loads a model into an engine: from its export or its torch weights, in the precision that is best here.

Some processors that have bf16 are slower in it, and on some OpenVINO reports bf16 but cannot compile the model. In f32,
ncnn is faster than OpenVINO on most x86 processors, for networks of mainly 3x3 convolutions. So `auto` measures them.
"""

import contextlib
import logging
import os
import re
import time
import zlib
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from platform import machine
from statistics import median

from pydantic import BaseModel, TypeAdapter, ValidationError

from eyespot.choices import ENGINES
from eyespot.errors import EngineUnavailable, StartError
from eyespot.telemetry import event
from eyespot.vision import engines, export, exporter
from eyespot.vision.engines import Clock, Engine, Threads, Weights, softmax, time_each
from eyespot.vision.export import Export
from eyespot.vision.weights import Entry

Load = Callable[[], Engine]
"""Raises `RuntimeError` if the model does not compile, `StartError` if the engine is unavailable."""

_WORTH = 0.9  # of the time in OpenVINO's f32; a smaller gain may be noise, and does not pay for bf16's rounding
_ROUNDS = 5
_STEADY = 1.3  # median over fastest round; other programs disturb a comparison in which it is larger
_FILE = "precision.json"
# Nearly all their multiplications are in 3x3 convolutions of stride 1, where Winograd's method saves most. ResNet-50,
# MobileNetV3 and EfficientNet gained nothing.
_FASTER_IN_NCNN = {"resnet18", "resnet34"}


class Comparison(BaseModel):
    """The fastest inference in OpenVINO's f32 and in bf16 or ncnn, and whether the latter recognises the golden image.

    The alternative's time is None if the model does not compile.
    """

    f32_ms: float
    bf16_ms: float | None = None
    ncnn_ms: float | None = None
    golden: bool

    @property
    def is_worth_it(self) -> bool:
        """Whether the alternative is right and fast enough."""
        other = self.ncnn_ms if self.bf16_ms is None else self.bf16_ms
        return self.golden and other is not None and other <= _WORTH * self.f32_ms


_COMPARISONS = TypeAdapter(dict[str, Comparison])


def load_model(
    entry: Entry, classes: int, engine: str, precision: str, data_dir: Path, threads: Threads
) -> tuple[Engine, Weights | None, Export | None, Comparison | None]:
    """The engine, the final layer's weights if it explains, its export's record, and the comparison that chose it.

    `engine` and `precision` may be `auto`. Raises `EngineUnavailable` or `ExportRefused`.
    """
    auto = engine == "auto"
    engine = "openvino" if auto else engine
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
    loads: dict[str, Load] = {"f32": partial(load, bf16=False), "bf16": partial(load, bf16=True)}
    if auto and record.precision == "f32" and entry.architecture in _FASTER_IN_NCNN:
        loads["ncnn"] = partial(_load_ncnn, entry, classes, folders, threads)
    loaded, comparison = load_allowed(precision, loads, record, data_dir)
    return loaded, head, record, comparison


def _load_ncnn(entry: Entry, classes: int, folders: list[Path], threads: Threads) -> Engine:
    found = export.find(entry, classes, "ncnn", folders)
    if not found:
        if missing := [library for library in ("ncnn", "torch", "pnnx") if not find_spec(library)]:
            raise EngineUnavailable(f"exporting for ncnn needs `pip install eyespot[models]`: no {missing[0]}")
        found = exporter.make(entry, classes, folders[-1], "ncnn")
    return engines.load("ncnn", found[0], threads)


def load_allowed(
    precision: str, loads: Mapping[str, Load], record: Export, data_dir: Path
) -> tuple[Engine, Comparison | None]:
    """The fastest engine that computes in this precision. Raises `EngineUnavailable` without bf16."""
    bf16 = precision != "f32" and _has_bf16()
    if precision == "bf16" and not bf16:
        raise EngineUnavailable("this processor has no bf16; set EYESPOT_PRECISION to auto, f32 or int8")
    names = ["bf16"] if precision == "bf16" else [name for name in loads if bf16 or name != "bf16"]
    try:
        return load_fastest({name: loads[name] for name in names}, record, platform(), data_dir)
    except RuntimeError as error:
        number = precision if precision == "bf16" else record.precision
        raise EngineUnavailable(f"OpenVINO cannot run this model in {number} on this processor") from error


def _has_bf16() -> bool:
    from eyespot.vision.engines.openvino import has_bf16

    return has_bf16()


def platform() -> str:
    """What a model's speed depends on: the processor, its instructions, the version of OpenVINO.

    Read without OpenVINO, which takes 25 MB that a server with ncnn can save.
    """
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*: (.*)", cpuinfo, re.MULTILINE)
    # Virtual machines give different processors one name, and oneDNN can be told to leave instructions out.
    flags = re.search("^(flags|Features).*", cpuinfo, re.MULTILINE)
    limits = [os.environ.get(name, "") for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")]
    instructions = " ".join(filter(None, [f"{zlib.crc32(flags[0].encode() if flags else b''):08x}", *limits]))
    return f"{model[1] if model else machine()} {instructions}, openvino {metadata.version('openvino')}"


def load_fastest(
    loads: Mapping[str, Load], record: Export, platform: str, data_dir: Path, clock: Clock = time.perf_counter
) -> tuple[Engine, Comparison | None]:
    """The first alternative that is right and worth it, else what `loads` begins with."""
    (_, first), *others = ((name, cache(load)) for name, load in loads.items())
    comparison = None
    for name, load in others:
        library = f", ncnn {metadata.version('ncnn')}" if name == "ncnn" and find_spec("ncnn") else ""
        key = f"{platform}{library}, {record.identity}"
        try:
            comparison = _kept(data_dir, key, load) or _compare(name, first, load, record, data_dir, key, clock)
            if comparison.is_worth_it:
                return load(), comparison
        except StartError as error:  # no library, or no export: the next start tries again
            event(f"{name}_unavailable", reason=str(error))
    return first(), comparison


def _kept(data_dir: Path, key: str, load: Load) -> Comparison | None:
    """The comparison of an earlier start, unless its winner no longer compiles."""
    comparison = _read(data_dir).get(key)
    with contextlib.suppress(RuntimeError):
        if comparison and comparison.is_worth_it:
            load()
        return comparison
    return None


def _compare(name: str, f32: Load, load: Load, record: Export, data_dir: Path, key: str, clock: Clock) -> Comparison:
    """Time both, keep the result for later starts, and log it. Raises `StartError` if the other cannot be had."""
    pixels = export.golden_pixels(record.recipe)
    golden, engines = False, []
    try:
        other = load()
        golden = record.is_golden(softmax(other.infer(pixels)[0][0]), other.precision)
        engines = [other]
    except RuntimeError as error:
        event(f"{name}_unavailable", logging.WARNING, reason=" ".join(str(error).split()))
    seconds = time_each([f32(), *engines], pixels, _ROUNDS, False, clock)
    times = {f"{n}_ms": round(min(each) * 1000, 1) for n, each in zip(("f32", name), seconds, strict=False)}
    comparison = Comparison(golden=golden, **times)
    if all(median(each) <= _STEADY * min(each) for each in seconds):  # otherwise the next start compares again
        _keep(data_dir, key, comparison)
    chosen = load() if comparison.is_worth_it else f32()
    facts = comparison.model_dump(exclude_none=True)
    event("precision_compared", engine=chosen.name, precision=chosen.precision, **facts)
    return comparison


def _keep(data_dir: Path, key: str, comparison: Comparison) -> None:
    file = data_dir / _FILE
    new = file.with_name(f"{_FILE}.{os.getpid()}")
    with contextlib.suppress(OSError):  # then the next start compares again
        new.write_bytes(_COMPARISONS.dump_json({**_read(data_dir), key: comparison}, indent=1, exclude_none=True))
        new.replace(file)


def _read(data_dir: Path) -> dict[str, Comparison]:
    try:
        return _COMPARISONS.validate_json((data_dir / _FILE).read_bytes())
    except (OSError, ValidationError):
        return {}
