"""Labelled images in a folder: one folder for each class, or file names that begin with a wnid."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from eyespot.choices import SUFFIXES
from eyespot.errors import UnlabelledImages
from eyespot.vision.labels import Labels


def find(folder: Path, labels: Labels) -> list[tuple[Path, int]]:
    """Each image below a folder with the class_id of its class, sorted by path.

    The folder that an image is in may be named by the class's wnid, or by its name in either language, whose case
    matters only where two classes differ in nothing else. Files that begin with a wnid, as ImageNet's own do
    (`n02123045_1234.JPEG`), need no such folder. The folder `_` is of the class that is none of the others. Names that
    begin with a dot are skipped. Raises `UnlabelledImages`.
    """
    wnids = {row.wnid: row.class_id for row in labels.classes if row.wnid}
    exact = {name: class_id for names in labels.names.values() for class_id, name in enumerate(names)} | wnids
    if labels.other is not None:
        exact["_"] = labels.other
    folded = _without_case(exact)

    def class_of(path: Path) -> int | None:
        name = path.parent.name if path.parent != folder else ""
        by_folder = exact.get(name, folded.get(name.casefold()))
        return wnids.get(path.stem.partition("_")[0]) if by_folder is None else by_folder

    found = [(path, class_of(path)) for path in sorted(images(folder))]
    if strangers := [path for path, class_id in found if class_id is None]:
        first = strangers[0].relative_to(folder)
        raise UnlabelledImages(
            f"{len(strangers):,} of {len(found):,} images in {folder} match no class of the model (first: {first}); "
            "put each in a folder named after its class, as `eyespot labels` lists them"
        )
    return [(path, class_id) for path, class_id in found if class_id is not None]


def _without_case(exact: dict[str, int]) -> dict[str, int]:
    """The names in lower case, of those that only one class then has."""
    folded = defaultdict(set)
    for name, class_id in exact.items():
        folded[name.casefold()].add(class_id)
    return {name: min(ids) for name, ids in folded.items() if len(ids) == 1}


def images(folder: Path) -> Iterator[Path]:
    """Each image below a folder, in no order; names that begin with a dot are skipped."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path
