"""Loads a model into an engine: from its export, which is made if it is missing, or from its torch weights."""

from pathlib import Path
from typing import NamedTuple

from eyespot.choices import ENGINES
from eyespot.errors import EngineUnavailable
from eyespot.vision import engines, export, exporter, precision
from eyespot.vision.engines import Engine, Threads
from eyespot.vision.export import Export
from eyespot.vision.precision import Comparison
from eyespot.vision.weights import Entry


class Loaded(NamedTuple):
    """An engine, the record of its export, and the comparison that chose between f32 and bf16."""

    engine: Engine
    record: Export | None = None
    comparison: Comparison | None = None


def load_model(entry: Entry, classes: int, engine: str, asked: str, data_dir: Path, threads: Threads) -> Loaded:
    """The model in `engine` and in the precision that was asked for; either may be `auto`.

    Raises `EngineUnavailable` if the engine is not installed or lacks the precision, `ExportRefused` if the model
    cannot be exported.
    """
    engine = "openvino" if engine == "auto" else engine
    if engine not in ENGINES:
        raise EngineUnavailable(f"unknown engine {engine!r}; the engines are {', '.join(ENGINES)}")
    choice = ENGINES[engine]
    if asked not in ("auto", *choice.precisions):
        raise EngineUnavailable(f"{engine} computes in {', '.join(choice.precisions)}, not in {asked}")
    if choice.exporter is None:
        network = {"architecture": entry.architecture, "classes": classes, "recipe": entry.recipe}
        return Loaded(engines.load(engine, entry.path, threads, **network))
    folders = export.folders(entry, data_dir)
    if asked == "int8":
        found = export.find(entry, classes, engine, folders[::-1], "int8")  # the user's own before the packaged one
        if not found:
            raise EngineUnavailable(f"{entry.name} has no int8 export; `eyespot quantize --images DIR` makes one")
    else:
        found = export.find(entry, classes, engine, folders) or exporter.make(entry, classes, folders[-1], engine)
    place, record = found
    if engine != "openvino":
        return Loaded(engines.load(engine, place, threads), record)

    def load(bf16: bool) -> Engine:
        return engines.load(engine, place, threads, precision=record.precision, bf16=bf16)

    loaded, comparison = precision.load_engine(asked, load, record, data_dir)
    return Loaded(loaded, record, comparison)
