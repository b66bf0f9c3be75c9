"""The trained model as files: weights, labels, export, and an entry in the user's own manifest."""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import safetensors.torch
import tomlkit

from eyespot.errors import BadDataset, DataDirUnwritable
from eyespot.types import Accuracy, Calibration
from eyespot.vision import export, exporter
from eyespot.vision.engines.network import Network
from eyespot.vision.labels import Labels, to_json
from eyespot.vision.weights import Entry, own_manifest, read_manifest

_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"


def check_name(name: str, manifest: Path) -> None:
    """Raise `BadDataset` unless a model of one's own can have this name."""
    if not re.fullmatch(_NAME, name):
        raise BadDataset(f"{name!r} is not a valid model name; use lower-case letters, digits, - _ and .")
    if name == "auto" or name in read_manifest(manifest):
        raise BadDataset(f"{name} is a model of {manifest}; choose another name")


def save(
    network: Network,
    base: Entry,
    labels: Labels,
    images: Sequence[str],
    name: str,
    data_dir: Path,
    calibration: Calibration,
    accuracy: Accuracy,
    make: Callable[[Entry, int, Path], object] = exporter.make,
) -> Entry:
    """Write the model and its proved export, in place of an older one of that name, and return its entry.

    `images` are the sha256 of those that it was trained on, by which `evaluate` and `calibrate` know them.

    The manifest is written last, so an interrupted run leaves the older model as it was. Raises `DataDirUnwritable`,
    `EngineUnavailable` or `ExportRefused`.
    """
    folder = own_manifest(data_dir).parent
    export.check_writable(folder)
    data = safetensors.torch.save({key: value.contiguous() for key, value in network.weights().items()})
    digest = sha256(data).hexdigest()
    stem = f"{name}-{digest[:8]}"
    known = "".join(f"{digest}\n" for digest in sorted(images)).encode()
    contents = {".safetensors": data, ".json": to_json(labels), ".images": known}
    files = {folder / f"{stem}{suffix}": content for suffix, content in contents.items()}
    new = [path for path in files if not path.exists()]
    for path, content in files.items():
        _write(path, content)
    entry = Entry(
        name=name,
        folder=folder,
        architecture=base.architecture,
        file=f"{stem}.safetensors",
        sha256=digest,
        bytes=len(data),
        labels=stem,
        license=base.license,
        accuracy=accuracy,
        recipe=base.recipe,
        calibration={"f32": calibration},
    )
    try:
        make(entry, len(labels), data_dir / "exports")
    except BaseException:
        for path in new:
            path.unlink()
        raise
    _enter(entry, f"Trained by `eyespot finetune` on the features of {base.name}.")
    return entry


def _enter(entry: Entry, origin: str) -> None:
    """Put the entry into the manifest, and delete the files of the one that it replaces."""
    path = entry.folder / "manifest.toml"
    lock = os.open(entry.folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        document = tomlkit.parse(path.read_text("utf-8")) if path.exists() else tomlkit.document()
        before = document.get(entry.name)
        document[entry.name] = _table(entry, origin)
        _write(path, tomlkit.dumps(document).encode())
    finally:
        os.close(lock)
    digest = before.get("sha256", "") if before else ""
    if digest not in ("", entry.sha256):
        for suffix in (".safetensors", ".json", ".images"):
            (entry.folder / f"{entry.name}-{digest[:8]}{suffix}").unlink(missing_ok=True)
        for old in (entry.folder.parent / "exports").glob(f"{entry.name}-{digest[:12]}-*"):
            shutil.rmtree(old, ignore_errors=True)


def _table(entry: Entry, origin: str) -> tomlkit.items.Table:
    table = tomlkit.table()
    table.add(tomlkit.comment(origin))
    for name, value in entry.model_dump(mode="json", exclude={"name", "folder"}, exclude_defaults=True).items():
        inline = tomlkit.inline_table()
        table.add(name, inline.update(value) or inline if isinstance(value, dict) else value)
    return table


def _write(path: Path, data: bytes) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_bytes(data)
        new.replace(path)
    except OSError as error:
        raise DataDirUnwritable(f"cannot write {path}: {error.strerror}; set EYESPOT_DATA_DIR") from error
    finally:
        new.unlink(missing_ok=True)
