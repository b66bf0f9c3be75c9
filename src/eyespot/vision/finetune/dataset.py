"""Training images: a folder for each class, and more about the classes in `labels.csv`."""

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eyespot.errors import BadDataset
from eyespot.vision import labelled
from eyespot.vision.labels import Labels, read_labels

OTHER = {"other", "_"}
"""Names of the folder of images that show none of the classes."""

_COLUMNS = ("folder", "label", "zh", "group", "group_zh")


@dataclass(frozen=True, slots=True)
class Dataset:
    """The classes, each image with its class_id, and images that lie in no class's folder."""

    labels: Labels
    images: list[tuple[Path, int]]
    strays: list[Path]


def read(folder: Path) -> Dataset:
    """The dataset in a folder: each subfolder with images, at any depth, is a class, named after the subfolder.

    `labels.csv` in the folder may give classes other names, Chinese names and groups. Raises `BadDataset`, or
    `BadManifest` if names or groups do not fit together.
    """
    found: dict[str, list[Path]] = {}
    strays = []
    for path in sorted(labelled.images(folder)):
        first, *rest = path.relative_to(folder).parts
        if rest:
            found.setdefault(first, []).append(path)
        else:
            strays.append(path)
    others = [name for name in found if name.casefold() in OTHER]
    if len(others) > 1:
        raise BadDataset(f"{folder} has both {others[0]} and {others[1]}; put what is none of the classes into one")
    names = sorted(found.keys() - others) + others
    if len(names) < 2:
        raise BadDataset(f"{folder} needs at least two folders of images, one for each class; it has {len(names)}")
    if strange := [name for name in names if not name.isprintable()]:
        raise BadDataset(f"{strange[0]!r} cannot be the name of a class; rename the folder")
    rows = _rows(folder / "labels.csv", names)
    content = {"classes": [_class(number, name, rows.get(name, {})) for number, name in enumerate(names)]}
    origin = folder / "labels.csv" if rows else folder
    labels = read_labels({**content, "groups": _groups(rows.values())}, origin)
    return Dataset(labels, [(path, number) for number, name in enumerate(names) for path in found[name]], strays)


def _class(number: int, name: str, row: dict[str, str]) -> dict[str, object]:
    """A class of a label file."""
    other = name.casefold() in OTHER
    label, zh = ("other", "其他") if other else (name, None)
    return {
        "class_id": number,
        "wnid": "",
        "label": row.get("label") or label,
        "zh": row.get("zh") or zh,
        "group": row.get("group") or None,
        "synonyms": [] if other or row.get("label", name) == name else [name],  # by which `evaluate` knows the folder
        "other": other,
    }


def _groups(rows: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """The groups of a label file: `flower/shrub` is two, `flower` and `shrub` below it."""
    groups: dict[str, dict[str, str]] = {}
    for row in rows:
        names, zh = (row.get(column, "").split("/") for column in ("group", "group_zh"))
        for depth, name in enumerate(names if names != [""] else [], 1):
            group = groups.setdefault("/".join(names[:depth]), {"id": "/".join(names[:depth]), "label": name})
            if zh[depth - 1 : depth] > [""]:
                group["zh"] = zh[depth - 1]
    return list(groups.values())


def _rows(table: Path, names: list[str]) -> dict[str, dict[str, str]]:
    """The rows of `labels.csv`, if there is one, by folder."""
    if not table.is_file():
        return {}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", strict=True)
            columns = reader.fieldnames = [name.strip().casefold() for name in reader.fieldnames or ()]
            rows = [{name: value.strip() if name else value for name, value in row.items()} for row in reader]
    except UnicodeDecodeError as error:
        raise BadDataset(f"{table} cannot be read: it is not UTF-8") from error
    except (OSError, csv.Error) as error:
        raise BadDataset(f"{table} cannot be read: {error}") from error
    if "folder" not in columns or set(columns) - {*_COLUMNS}:
        wanted = f"must begin with the line {','.join(_COLUMNS)}, of which all but folder are optional"
        raise BadDataset(f"{table} {wanted}; it begins with {','.join(columns)!r}")
    if unknown := next((row["folder"] for row in rows if row["folder"] not in names), None):
        raise BadDataset(f"{table} names the folder {unknown!r}, which has no images")
    if doubled := [name for name, times in Counter(row["folder"] for row in rows).items() if times > 1]:
        raise BadDataset(f"{table} has several rows for the folder {doubled[0]!r}")
    if wrong := [
        row["folder"] for row in rows if row.get("label", "").casefold() in OTHER - {row["folder"].casefold()}
    ]:
        raise BadDataset(f"{table}: {wrong[0]!r} cannot be called other; name the folder so")
    if long := next((row["folder"] for row in rows if None in row), None):
        raise BadDataset(f"{table}: the row of {long!r} has more cells than the first line")
    return {row["folder"]: row for row in rows}
