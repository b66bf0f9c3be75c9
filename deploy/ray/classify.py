"""Classify the images of a folder or bucket on a Ray cluster: `python deploy/ray/classify.py INPUT OUTPUT`.

The first run lists the images in OUTPUT/_images.parquet, whose row groups are the partitions. Each partition becomes a
Parquet file that appears when it is complete, so a run after a crash computes those that are missing.
"""

import json
import logging
import os
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pyarrow as pa
import ray
import typer
from pyarrow import parquet
from pyarrow.fs import FileSelector, FileSystem, FileType, SubTreeFileSystem
from ray import data
from ray.exceptions import RayError

from eyespot import assembly, cpus
from eyespot.choices import SUFFIXES, titles
from eyespot.cli.backend import DEFAULT_TOP_K, Backend
from eyespot.cli.formats import JsonLines
from eyespot.cli.options import Language
from eyespot.cli.parquet import record_batch
from eyespot.cli.terminal import err, load_settings, say
from eyespot.client.calls import Options
from eyespot.errors import EyespotError, OutputUnusable, UnknownModel
from eyespot.images import read_file, to_bytes
from eyespot.ordered import in_order
from eyespot.settings import Settings

_IMAGES = "_images.parquet"  # readers of Parquet folders skip names that begin with an underscore
_MAX_LOST_STARTS = 10  # actors in a row
_FACTS = b"eyespot"  # in its metadata: what all runs into one folder must have in common


@dataclass(frozen=True)
class Job:
    """What every process must know."""

    images: FileSystem
    output: FileSystem
    config: Settings
    options: Options
    fingerprint: str


class Partition:
    """Classifies partitions: an actor on one core, with a model of its own."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._backend: Backend | None = None

    def _open(self) -> Backend:
        plan = cpus.plan(cpus=1)
        classifier = assembly.open_classifier(self._job.config, plan)
        if classifier.fingerprint != self._job.fingerprint:
            raise UnknownModel(f"{classifier.info.name} differs; give all nodes the same files and version of eyespot")
        return Backend.of(classifier, self._job.options, plan.workers, self._read)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write the file of a partition, whether or not an earlier attempt did; the counts, or what stops the job."""
        try:
            self._backend = self._backend or self._open()
            return {"error": None, **self._classify(self._backend, row["partition"])}
        except (EyespotError, OSError) as error:  # Ray would bury it in pages of its own
            return {"error": f"on {os.uname().nodename}, {error}", "images": 0, "refused": 0}

    def _classify(self, backend: Backend, partition: int) -> dict[str, int]:
        listing = parquet.ParquetFile(_IMAGES, filesystem=self._job.output)
        paths = listing.read_row_group(partition)["path"].to_pylist()
        with closing(in_order(backend.find, paths, backend.threads)) as found:
            findings = [replace(future.result(), model=backend.model) for _, future in found]
        rows = record_batch(map(JsonLines().line, findings))
        _write(self._job.output, _name(partition), pa.Table.from_batches([rows]))
        return {"images": len(paths), "refused": sum(finding.problem is not None for finding in findings)}

    def _read(self, path: str) -> bytes:
        with self._job.images.open_input_file(path) as file:
            return to_bytes(read_file(file))


def classify(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="Folder or bucket of images: a path, s3://… or gs://…")
    ],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder or bucket for the results.")],
    partition_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images per file.")] = 1000,
    top_k: Annotated[int, typer.Option("--top-k", "-k", metavar="N", min=1, help="Classes per image.")] = DEFAULT_TOP_K,
    lang: Language = "en",
) -> None:
    """Recognise all images in and below INPUT on a Ray cluster.

    It is the one at RAY_ADDRESS, else the one that was last started on this machine, else a new one, which
    RAY_ADDRESS=local always starts.

    OUTPUT receives Parquet files with one row per image. After Ctrl-C or a crash, the same command continues.
    `EYESPOT_MODEL` and the other settings choose the model.
    """
    config, options = load_settings(quiet=True), Options(top_k=top_k, min_confidence=0, lang=lang)
    config, model, fingerprint = _agreed(config, options)
    job = Job(_folder(source, "INPUT"), _folder(output, "OUTPUT"), config, options, fingerprint)
    facts = {
        "INPUT": job.images.base_path,
        "the model": model,
        "--top-k": top_k,
        "--lang": lang,
        "--partition-size": partition_size,
    }
    _run(job, _listing(job, facts, output))


def _agreed(config: Settings, options: Options) -> tuple[Settings, str, str]:
    """The settings as they are meant here, for all nodes; the model in words; its fingerprint.

    `auto` could choose another model, engine or precision on another node. Raises `InvalidParameter` for the options.
    """
    classifier = assembly.open_classifier(config, cpus.plan(cpus=1))
    Backend.of(classifier, options, threads=1)
    info, fingerprint = classifier.info, classifier.fingerprint
    chosen = {"model": info.name, "engine": info.engine, "precision": info.precision}
    paths = {name: path.absolute() for name, path in config if isinstance(path, Path) and path.exists()}
    words = f"{info.name} ({info.engine}, {info.precision}, fingerprint {fingerprint})"
    return config.model_copy(update={**chosen, **paths}), words, fingerprint


def _folder(name: str, which: str) -> FileSystem:
    """The folder or bucket, as the root of a file system; OUTPUT is made if it does not exist."""
    try:
        system, root = FileSystem.from_uri(name if "://" in name else os.path.abspath(name))
    except ValueError as error:
        raise OutputUnusable(f"cannot open {name}: {error}") from error
    if which == "OUTPUT":
        system.create_dir(root, recursive=True)
    elif system.get_file_info(root).type != FileType.Directory:
        raise OutputUnusable(f"there is no folder or bucket {name}")
    return SubTreeFileSystem(root, system)


def _files(folder: FileSystem, **options: bool) -> list[str]:
    """Paths of the files in a folder, sorted, without those whose name, or a folder's on the way, begins with a dot."""
    found = folder.get_file_info(FileSelector("", **options))
    return sorted(info.path for info in found if info.type == FileType.File and "/." not in f"/{info.path}")


def _write(folder: FileSystem, path: str, table: pa.Table, **options: Any) -> None:
    """Write a Parquet file that appears when it is complete."""
    buffer = pa.BufferOutputStream()
    parquet.write_table(table, buffer, **options)
    part = f".{path}.{uuid4().hex}"
    with folder.open_output_stream(part) as file:
        file.write(buffer.getvalue())
    folder.move(part, path)


def _listing(job: Job, facts: dict[str, Any], output: str) -> parquet.ParquetFile:
    """The images of this job, as its first run found them. Raises `OutputUnusable` if OUTPUT is another job's."""
    there = _files(job.output)
    if there and _IMAGES not in there:
        raise OutputUnusable(f"{output} is not empty; choose another OUTPUT")
    if not there:
        paths = [path for path in _files(job.images, recursive=True) if path.lower().endswith(SUFFIXES)]
        if not paths:
            raise OutputUnusable(f"no {titles()} images in {facts['INPUT']}")
        schema = pa.schema({"path": pa.string()}, {_FACTS: json.dumps(facts)})
        _write(job.output, _IMAGES, pa.table([paths], schema=schema), row_group_size=facts["--partition-size"])
    listing = parquet.ParquetFile(_IMAGES, filesystem=job.output)
    for name, begun_with in json.loads(listing.schema_arrow.metadata[_FACTS]).items():
        if facts[name] != begun_with:
            raise OutputUnusable(
                f"{output} was begun with {name} {begun_with}, not {facts[name]}; choose another OUTPUT"
            )
    return listing


def _run(job: Job, listing: parquet.ParquetFile) -> None:
    """Compute what is missing. Raises `OutputUnusable` for what went wrong on a node."""
    sizes = {_name(number): listing.metadata.row_group(number).num_rows for number in range(listing.num_row_groups)}
    there = sizes.keys() & _files(job.output)
    missing = [{"partition": number} for number, name in enumerate(sizes) if name not in there]
    before, total = sum(sizes[name] for name in there), sum(sizes.values())
    if before:
        say(f"{before:,} of {total:,} images were done before")
    if not missing:
        return
    started = time.monotonic()
    say("starting Ray, and waiting for processors")
    ray.init(logging_level="error", log_to_driver=False)
    # Ray's own default, 0, ends the job when a node dies while an actor starts on it.
    data.DataContext.get_current().max_consecutive_actor_init_deaths = _MAX_LOST_STARTS
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    pool = data.ActorPoolStrategy(min_size=1, initial_size=int(ray.cluster_resources()["CPU"]))
    begun = time.monotonic()
    partitions = data.from_items(missing, override_num_blocks=len(missing))
    counts = partitions.map(Partition, fn_constructor_args=(job,), compute=pool, num_cpus=1)
    done, refused = 0, 0
    try:
        for row in counts.iter_rows():
            if row["error"]:
                raise OutputUnusable(f"{row['error']}; the same command continues")
            done, refused = done + row["images"], refused + row["refused"]
            rate = f"{done / (time.monotonic() - begun):,.0f} images/s"
            say(f"{before + done:,} of {total:,} images; {refused:,} refused now; {rate}")
    except KeyboardInterrupt:
        say(f"stopped after {before + done:,} of {total:,} images; the same command continues")
        sys.exit(130)
    except RayError as error:
        raise OutputUnusable(f"Ray stopped: {str(error).splitlines()[0]}; the same command continues") from error
    say(f"{done:,} images in {time.monotonic() - started:,.1f} s")


def _name(partition: int) -> str:
    return f"part-{partition:05}.parquet"


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        app = typer.Typer(pretty_exceptions_enable=False)
        app.command()(classify)
        app()
    except (EyespotError, OSError) as error:
        say(f"classify.py: {error}", err)
        sys.exit(2)
