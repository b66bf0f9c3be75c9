"""The manifest of networks, and their weight files: found, verified."""

import hashlib
import importlib.util
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from eyespot.errors import BadManifest, UnknownModel, WeightsCorrupt, WeightsMissing
from eyespot.types import Accuracy, Recipe


class Entry(BaseModel):
    """One network of the manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    folder: Path  # of the manifest
    architecture: str
    file: str
    package: str | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(gt=0)]
    source: str | None = None
    labels: str
    license: str
    accuracy: Accuracy | None = None
    recipe: Recipe

    @property
    def path(self) -> Path:
        """Where the weight file belongs: beside the manifest, or in the package that brings it."""
        if self.package is None:
            return self.folder / self.file
        found = importlib.util.find_spec(self.package)
        where = found.submodule_search_locations if found else None
        return Path(where[0]) / self.file if where else Path(f"(package {self.package}, not installed)") / self.file


def packaged(name: str) -> Path:
    """A file or folder that travels inside the wheel; in a checkout it lies at the top."""
    package = Path(__file__).parents[1]
    return next(root / name for root in (package, package.parents[1]) if (root / name).exists())


def read_manifest(path: Path) -> dict[str, Entry]:
    """The networks of a manifest, in its order. The manifest in the package is used where the default one is missing.

    Raises:
        BadManifest: the file is missing, is no TOML, or an entry lacks something.
    """
    if not path.exists() and path == Path("weights/manifest.toml"):
        path = packaged("weights/manifest.toml")
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
        kind = TypeAdapter(dict[str, Entry])
        entries = kind.validate_python(
            {name: {**table, "name": name, "folder": path.parent} for name, table in tables.items()}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise BadManifest(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (OSError, ValueError, TypeError) as error:
        raise BadManifest(f"the manifest {path} cannot be read: {error}") from error
    if not entries:
        raise BadManifest(f"the manifest {path} names no network")
    return entries


def choose(entries: dict[str, Entry], model: str = "auto") -> Entry:
    """The network that `model` names; `auto` is the first whose weight file is on this machine.

    Raises:
        UnknownModel: the manifest has no such entry.
        WeightsMissing: `auto`, and no weight file is on this machine.
    """
    if model == "auto":
        present = (entry for entry in entries.values() if entry.path.is_file())
        if (entry := next(present, None)) is None:
            raise WeightsMissing(f"no weights on this machine for any of {', '.join(entries)}; {remedy(entries)}")
        return entry
    if model not in entries:
        raise UnknownModel(f"no network is called {model!r}; the manifest has {', '.join(entries)}")
    return entries[model]


def is_stand_in(entry: Entry, entries: dict[str, Entry]) -> bool:
    """Whether the network only stands in for the first of the manifest, whose weights are missing."""
    first = next(iter(entries.values()))
    return entry.name != first.name and not first.path.is_file()


def remedy(entries: dict[str, Entry]) -> str:
    """What to do when the weights of the first network are missing."""
    name = next(iter(entries))
    return f"`eyespot weights fetch {name}` downloads them, and `--from FILE` takes a copy"


def verify(entry: Entry) -> Path:
    """The path of the weight file, once its size and its whole sha256 have been found right.

    Raises:
        WeightsMissing: there is no file.
        WeightsCorrupt: the file is another one.
    """
    path = entry.path
    if not path.is_file():
        raise WeightsMissing(f"the weights of {entry.name} are missing: {path}; {remedy({entry.name: entry})}")
    check(path, entry)
    return path


def check(path: Path, entry: Entry, origin: object = None) -> None:
    """Raise `WeightsCorrupt` unless the file, which came from `origin`, has the size and the sha256 of the entry."""
    size = path.stat().st_size
    if size != entry.bytes:
        raise WeightsCorrupt(f"{origin or path} has {size:,} bytes, the weights of {entry.name} have {entry.bytes:,}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != entry.sha256:
        raise WeightsCorrupt(f"{origin or path} has sha256 {digest}, the weights of {entry.name} have {entry.sha256}")
