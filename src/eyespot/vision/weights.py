"""The manifest of models, and their weight files."""

import contextlib
import difflib
import hashlib
import importlib.util
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from eyespot.errors import BadManifest, UnknownModel, WeightsCorrupt, WeightsMissing
from eyespot.types import Accuracy, Calibration, Recipe
from eyespot.values import SHA256, SHA256_PREFIX, complaints

_MIB = 2**20
_ALTERNATIVES = {"sha256": "sha256_prefix", "bytes": "mib"}  # fields of which an entry needs one


class Entry(BaseModel):
    """One model of the manifest. `sha256` and `bytes` may be empty until the weight file is verified."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    folder: Path  # of the manifest
    architecture: str
    file: str
    package: str | None = None
    sha256: Annotated[str, Field(pattern=SHA256)] = ""
    sha256_prefix: Annotated[str, Field(pattern=SHA256_PREFIX)] = ""  # where no more is published
    bytes: Annotated[int, Field(gt=0)] = 0
    mib: Annotated[float, Field(gt=0)] = 0  # the size in MiB to three decimals, where no more is published
    source: str | None = None
    labels: str
    license: str
    accuracy: Accuracy | None = None
    recipe: Recipe
    calibration: dict[str, Calibration] = {}  # by precision

    @property
    def path(self) -> Path:
        """The weight file, whether it exists or not: beside the manifest or in its package."""
        if self.package is None:
            return self.folder / self.file
        found = importlib.util.find_spec(self.package)
        folders = found and found.submodule_search_locations
        return Path(folders[0] if folders else f"(package {self.package}, not installed)", self.file)

    @property
    def trained_on(self) -> Path:
        """The sha256 of each image that a model of the user's own was trained on; there may be no such file."""
        return self.path.with_suffix(".images")

    @property
    def pin(self) -> Path:
        """The file with the full sha256 of weights for which the manifest has only the first digits."""
        return self.path.with_name(f"{self.path.name}.sha256")

    @property
    def sizes(self) -> range:
        """The bytes that the weight file may have."""
        least, most = (round((self.mib + sign * 0.001) * _MIB) for sign in (-1, 1))
        return range(self.bytes, self.bytes + 1) if self.bytes else range(least, most + 1)

    @property
    def size(self) -> str:
        """The size of the weight file, for messages."""
        return f"{self.bytes:,} bytes" if self.bytes else f"{self.mib} MiB"


_MANIFEST = TypeAdapter(dict[str, Entry])


def packaged(name: str) -> Path:
    """A file or folder of the wheel; in a checkout it is at the top."""
    package = Path(__file__).parents[1]
    paths = [root / name for root in (package, package.parents[1])]
    return next((path for path in paths if path.exists()), paths[0])


def own_manifest(data_dir: Path) -> Path:
    """The manifest of the models that `eyespot finetune` made."""
    return data_dir / "models" / "manifest.toml"


def read_manifest(path: Path, data_dir: Path | None = None) -> dict[str, Entry]:
    """The models of a manifest, in order, then the user's own in the data folder, which replace those of equal name.

    The packaged manifest is read if the default one is missing. Raises `BadManifest`.
    """
    if not path.exists() and path == Path("weights/manifest.toml"):
        path = packaged("weights/manifest.toml")
    entries = _read(path, "EYESPOT_MANIFEST")
    if not entries:
        raise BadManifest(f"the manifest {path} has no models")
    if data_dir and (own := own_manifest(data_dir)).exists():
        entries |= _read(own, "EYESPOT_DATA_DIR")
    return entries


def _read(path: Path, setting: str) -> dict[str, Entry]:
    try:
        tables = tomllib.loads(path.read_text("utf-8-sig"))
        for name, table in tables.items():
            if isinstance(table, dict):
                table |= {"name": name, "folder": path.parent}
        entries = _MANIFEST.validate_python(tables)
    except ValidationError as error:
        raise BadManifest(f"{path}: {'; '.join(complaints(error, _MANIFEST.json_schema()))}") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", error)
        raise BadManifest(f"cannot read the manifest {path} ({setting}): {why}") from error
    for name, entry in entries.items():
        for field, other in _ALTERNATIVES.items():
            if not (getattr(entry, field) or getattr(entry, other)):
                raise BadManifest(f"{path}: {name}.{field} is missing")
    return entries


def choose(entries: dict[str, Entry], model: str = "auto") -> Entry:
    """The model of that name; `auto` is the first whose weight file exists.

    Raises `UnknownModel` or `WeightsMissing`.
    """
    if model in entries:
        return entries[model]
    if model != "auto":
        near = ", ".join(difflib.get_close_matches(model.lower(), entries))
        hint = f"did you mean {near}? " if near else ""
        raise UnknownModel(f"unknown model {model!r}; {hint}`eyespot weights list` shows all")
    if found := next((entry for entry in entries.values() if entry.path.is_file()), None):
        return found
    raise WeightsMissing(f"no weights on this machine for any model; {remedy(next(iter(entries)))}")


def remedy(name: str) -> str:
    """How to get the weights of that model."""
    return f"`eyespot weights fetch {name}` downloads them, `--from FILE` copies them"


def verify(entry: Entry) -> Entry:
    """The entry with the whole sha256 and the exact size of its weight file, checked.

    If the manifest has only the first digits of the sha256, the first call pins the whole of it beside the file, and
    later ones require it. Raises `WeightsMissing` or `WeightsCorrupt`.
    """
    if not entry.path.is_file():
        raise WeightsMissing(f"the weights of {entry.name} are missing: {entry.path}; {remedy(entry.name)}")
    checked = check(entry.path, pinned(entry))
    pin(checked)
    return checked


def pinned(entry: Entry) -> Entry:
    """The entry with the sha256 that is pinned beside its file, if there is one and the manifest has none."""
    if entry.sha256 or not entry.pin.exists():
        return entry
    digest = entry.pin.read_text("ascii", "replace")[:64]
    if not re.fullmatch(SHA256, digest) or not digest.startswith(entry.sha256_prefix):
        wanted = f"a sha256 that begins with {entry.sha256_prefix}"
        raise WeightsCorrupt(f"{entry.pin} does not hold {wanted}; delete it to have it written anew")
    return entry.model_copy(update={"sha256": digest})


def pin(checked: Entry) -> None:
    """Write the whole sha256 beside the file, for `sha256sum --check`; nothing is written into a read-only folder."""
    if not checked.sha256_prefix or checked.pin.exists():
        return
    new = checked.pin.with_name(f"{checked.pin.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        try:
            new.write_text(f"{checked.sha256}  {checked.path.name}\n")
            new.replace(checked.pin)
        finally:
            new.unlink(missing_ok=True)


def check(path: Path, entry: Entry, origin: object = None) -> Entry:
    """The entry with sha256 and size of the file, which came from `origin`; raises `WeightsCorrupt` if it differs."""
    size, digest = path.stat().st_size, entry.sha256 or entry.sha256_prefix
    if size not in entry.sizes:
        raise WeightsCorrupt(f"{origin or path} has {size:,} bytes, the weights of {entry.name} have {entry.size}")
    if not (found := sha256(path)).startswith(digest):
        raise WeightsCorrupt(f"{origin or path} has sha256 {found}, the weights of {entry.name} have {digest}")
    return entry.model_copy(update={"sha256": found, "bytes": size})


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
