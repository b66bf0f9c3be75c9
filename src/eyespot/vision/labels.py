"""Label files: the names of a model's classes."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from eyespot.errors import BadManifest
from eyespot.types import Label

_FILE = TypeAdapter(tuple[Label, ...])


def load_labels(name: str, folders: Iterable[Path]) -> tuple[Label, ...]:
    """The classes in `<name>.json` from the first folder that has it, in the order of the model's output.

    Raises `BadManifest` if no folder has it, its class ids are not 0, 1, 2, … or its names are not unique.
    """
    tried = [folder / f"{name}.json" for folder in folders]
    path = next(filter(Path.is_file, tried), None)
    if path is None:
        raise BadManifest(f"no label file: looked for {', '.join(map(str, tried))}")
    try:
        labels = _FILE.validate_json(path.read_bytes())
    except ValidationError as error:
        raise BadManifest(f"{path} is not a label file: {error.errors()[0]['msg']}") from error
    if [label.class_id for label in labels] != list(range(len(labels))):
        raise BadManifest(f"{path}: class_id must be 0, 1, 2, … in this order")
    if len({label.label for label in labels}) < len(labels):
        raise BadManifest(f"{path}: the names must be unique")
    return labels
