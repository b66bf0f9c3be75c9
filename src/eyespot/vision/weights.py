"""The manifest of models, and their weight files."""

import hashlib
import importlib.util
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from eyespot.errors import BadManifest, UnknownModel, WeightsCorrupt, WeightsMissing
from eyespot.types import Accuracy, Calibration, Recipe
from eyespot.values import SHA256, complaints


class Entry(BaseModel):
    """One model of the manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    folder: Path  # of the manifest
    architecture: str
    file: str
    package: str | None = None
    sha256: Annotated[str, Field(pattern=SHA256)]
    bytes: Annotated[int, Field(gt=0)]
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
    if data_dir and (own := own_manifest(data_dir)).exists():
        entries |= _read(own, "EYESPOT_DATA_DIR")
    return entries


def _read(path: Path, setting: str) -> dict[str, Entry]:
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
        for name, table in tables.items():
            if isinstance(table, dict):
                table |= {"name": name, "folder": path.parent}
        entries = _MANIFEST.validate_python(tables)
    except ValidationError as error:
        raise BadManifest(f"{path}: {'; '.join(complaints(error, _MANIFEST.json_schema()))}") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", error)
        raise BadManifest(f"cannot read the manifest {path} ({setting}): {why}") from error
    if not entries:
        raise BadManifest(f"the manifest {path} has no models")
    return entries


def choose(entries: dict[str, Entry], model: str = "auto") -> Entry:
    """The model of that name; `auto` is the first whose weight file exists.

    Raises `UnknownModel` or `WeightsMissing`.
    """
    if model in entries:
        return entries[model]
    if model != "auto":
        raise UnknownModel(f"unknown model {model!r}; the models are {', '.join(entries)}")
    if found := next((entry for entry in entries.values() if entry.path.is_file()), None):
        return found
    raise WeightsMissing(f"no weights on this machine for any of {', '.join(entries)}; {remedy(next(iter(entries)))}")


def remedy(name: str) -> str:
    """How to get the weights of that model."""
    return f"`eyespot weights fetch {name}` downloads them, `--from FILE` copies them"


def verify(entry: Entry) -> Path:
    """The path of the weight file, checked; raises `WeightsMissing` or `WeightsCorrupt`."""
    if not entry.path.is_file():
        raise WeightsMissing(f"the weights of {entry.name} are missing: {entry.path}; {remedy(entry.name)}")
    check(entry.path, entry)
    return entry.path


def check(path: Path, entry: Entry, origin: object = None) -> None:
    """Raise `WeightsCorrupt` unless the file, which came from `origin`, has the entry's size and sha256."""
    if (size := path.stat().st_size) != entry.bytes:
        raise WeightsCorrupt(f"{origin or path} has {size:,} bytes, the weights of {entry.name} have {entry.bytes:,}")
    if (digest := sha256(path)) != entry.sha256:
        raise WeightsCorrupt(f"{origin or path} has sha256 {digest}, the weights of {entry.name} have {entry.sha256}")


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
