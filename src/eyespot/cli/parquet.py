"""A Parquet file of findings, made at the end of a run from the JSON lines that it writes beside it."""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from eyespot.cli.formats import OLDER, FileProblem, Finding, JsonLines, Record, reason, to_utf8
from eyespot.cli.replacing import replacing
from eyespot.cli.results import Results
from eyespot.errors import OutputUnusable
from eyespot.types import GroupScore, ImageInfo, ModelInfo, Prediction, Says

_GROUP = 10_000  # rows in memory at once, and in a row group of the file
_SAYS = {"says": pa.string(), "kind": pa.string(), "id": pa.string(), "confidence": pa.float64()}
_GROUPS = {"id": pa.string(), "label": pa.string(), "confidence": pa.float64()}
_CLASS = {"class_id": pa.int32(), "wnid": pa.string(), "label": pa.string(), "confidence": pa.float64()}
_IMAGE = {"sha256": pa.string(), "format": pa.string(), "width": pa.int32(), "height": pa.int32()}
_MODEL = dict.fromkeys(("model", "digest", "engine", "precision"), pa.string())
_PROBLEM = dict.fromkeys(("code", "detail"), pa.string())
_LISTS = {"groups": pa.list_(pa.struct(_GROUPS.items())), "predictions": pa.list_(pa.struct(_CLASS.items()))}
_SCHEMA = pa.schema({"path": pa.string(), **_SAYS, **_LISTS, **_IMAGE, **_MODEL, **_PROBLEM})


class Parquet(Results):
    """One row per file: the answer, and lists of the groups and the likeliest classes.

    During a run, rows go to `found.parquet.part`, from which `--resume` continues after a crash.
    """

    def __init__(self, path: Path) -> None:
        self._parquet = path
        super().__init__(path.with_name(f"{path.name}.part"), JsonLines())

    def begin(self) -> None:
        super().begin()
        if _has_content(self._parquet):
            self._path.unlink()  # it is empty
            raise OutputUnusable(f"{self._parquet} is not empty; --resume continues it")

    def resume(self, model: ModelInfo, again: Callable[[Record], bool]) -> None:
        if _has_content(self._parquet) and not self._path.stat().st_size:
            try:
                self.replace(map(self._form.line, _read(self._parquet)))
            except OutputUnusable:
                self._path.unlink()
                raise
        super().resume(model, again)

    def close(self) -> None:
        """Raises `OutputUnusable` if the file cannot be written; the JSON lines are then kept."""
        try:
            with (
                self._path.open("rb") as lines,
                replacing(self._parquet, self._parquet.name) as file,
                parquet.ParquetWriter(file, _SCHEMA) as writer,
            ):
                while group := list(islice(lines, _GROUP)):
                    writer.write_batch(record_batch(group))
        except OSError as error:
            raise OutputUnusable(f"cannot write {self._parquet}: {reason(error)}; --resume tries again") from error
        self._path.unlink()
        super().close()


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def record_batch(lines: Iterable[bytes]) -> pa.RecordBatch:
    """The rows of these JSON lines."""
    return pa.RecordBatch.from_pylist([_row(json.loads(line)) for line in lines], _SCHEMA)


def _row(line: dict[str, Any]) -> dict[str, Any]:
    says, model, problem = line.get("says", {}), line.get("model", {}), line.get("problem", {})
    texts = {name: to_utf8(text).decode() for name, text in {"path": line["path"], **problem}.items()}
    named = {**says, "says": says.get("label"), **line.get("image", {}), **model, "model": model.get("name")}
    return {**named, **{name: line.get(name) for name in _LISTS}, **texts}


def _read(path: Path) -> Iterator[Finding]:
    try:
        with parquet.ParquetFile(path) as file:
            if {"predictions", "says"} & set(file.schema_arrow.names) == {"predictions"}:
                raise OutputUnusable(f"{path} {OLDER}")
            if not file.schema_arrow.equals(_SCHEMA):
                raise OutputUnusable(f"{path} is not a results file: its columns differ")
            for batch in file.iter_batches(_GROUP):
                yield from map(_finding, batch.to_pylist())
    except pa.ArrowInvalid as error:
        raise OutputUnusable(f"{path} is not a Parquet file") from error


def _finding(row: dict[str, Any]) -> Finding:
    said = row["kind"] is not None
    return Finding(
        row["path"],
        says=Says(row["kind"], row["id"], row["says"], row["confidence"]) if said else None,
        groups=[GroupScore(**group) for group in row["groups"]] if said else None,
        predictions=[Prediction(**found) for found in row["predictions"]] if said else None,
        image=ImageInfo(**{name: row[name] for name in _IMAGE}) if row["sha256"] else None,
        model=ModelInfo(row["model"], row["digest"], row["engine"], row["precision"]) if row["digest"] else None,
        problem=FileProblem(row["code"], row["detail"]) if row["code"] else None,
    )
