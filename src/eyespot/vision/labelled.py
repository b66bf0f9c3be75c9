"""Labelled images: in a folder for each class, with names that begin with a wnid, or listed in a CSV file."""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from eyespot import files
from eyespot.errors import UnlabelledImages
from eyespot.vision.labels import Labels

# The columns of a CSV file that has a header; the first of a tuple that is there counts.
_PATHS, _LABELS = ("path", "file", "image", "filename"), ("label", "class", "wnid", "class_id")


def find(source: Path, labels: Labels) -> list[tuple[Path, int]]:
    """Each image with the class_id of its class, from a folder or a CSV file. Raises `UnlabelledImages` or `OSError`.

    A class is named by its wnid, or by its name in either language, whose case matters only where two classes differ in
    nothing else; `_` is the class that is none of the others. In a folder, the nearest subfolder that is named so
    counts. Files that begin with a wnid, as ImageNet's own do (`n02123045_1234.JPEG`), need no such subfolder.

    A CSV file has paths, which are relative to it, and labels, which may also be class_ids: in columns called `path`
    and `label`, or else in the first two.
    """
    return _in_folder(source, labels) if source.is_dir() else _in_csv(source, labels)


def images(folder: Path) -> Iterator[Path]:
    """Each image in and below a folder. Raises `OSError`: a class that cannot be read would be missing unnoticed."""
    for found in files.find([str(folder)]):
        if isinstance(found, OSError):
            raise found
        yield Path(found)


def _in_folder(folder: Path, labels: Labels) -> list[tuple[Path, int]]:
    named, wnids = _classes(labels), {row.wnid: row.class_id for row in labels.classes if row.wnid}

    def class_of(path: Path) -> int | None:
        by_folder = (named(parent.name) for parent in path.relative_to(folder).parents)
        by_name = wnids.get(path.stem.partition("_")[0])
        return next((class_id for class_id in by_folder if class_id is not None), by_name)

    found = [(path, class_of(path)) for path in images(folder)]
    if strangers := [path for path, class_id in found if class_id is None]:
        raise UnlabelledImages(
            f"{len(strangers):,} of {len(found):,} images in {folder} match no class of the model (first: "
            f"{strangers[0].relative_to(folder)}); put each in a folder named after its class, as `eyespot labels` "
            "lists them"
        )
    return [(path, class_id) for path, class_id in found if class_id is not None]


def _in_csv(file: Path, labels: Labels) -> list[tuple[Path, int]]:
    named, ids = _classes(labels), {str(row.class_id): row.class_id for row in labels.classes}

    def class_of(name: str) -> int | None:
        by_name = named(name)
        return ids.get(name) if by_name is None else by_name

    found = [(path, name, class_of(name)) for path, name in _rows(file)]
    if strangers := [f"{name!r} of {path}" for path, name, class_id in found if class_id is None]:
        raise UnlabelledImages(
            f"{len(strangers):,} of {len(found):,} labels in {file} match no class of the model (first: "
            f"{strangers[0]}); name each class as `eyespot labels` lists them"
        )
    return [(file.parent / path, class_id) for path, _, class_id in found if class_id is not None]


def _rows(file: Path) -> Iterator[tuple[str, str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnlabelledImages(f"{file} is neither a folder nor a CSV file in UTF-8") from error
    head = [cell.casefold() for cell in rows[0]] if rows else []
    path, label = (next((head.index(name) for name in names if name in head), None) for names in (_PATHS, _LABELS))
    if path is None or label is None:
        path, label = 0, 1
    else:
        del rows[0]
    for row in rows:
        if len(row) <= max(path, label):
            raise UnlabelledImages(f"{file}: expected a path and a label in each row, found {', '.join(row)!r}")
        yield row[path], row[label]


def _classes(labels: Labels) -> Callable[[str], int | None]:
    """The class_id of a class by its name."""
    exact = {name: class_id for names in labels.names.values() for class_id, name in enumerate(names)}
    exact |= {row.wnid: row.class_id for row in labels.classes if row.wnid}
    if labels.other is not None:
        exact["_"] = labels.other
    folded = defaultdict(set)
    for name, class_id in exact.items():
        folded[name.casefold()].add(class_id)
    for row in labels.classes:
        for synonym in row.synonyms:
            folded[synonym.casefold()].add(row.class_id)
    clear = {name: min(ids) for name, ids in folded.items() if len(ids) == 1}
    return lambda name: exact.get(name, clear.get(name.casefold()))
