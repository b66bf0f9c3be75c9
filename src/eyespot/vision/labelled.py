"""Labelled images in a folder: one folder for each class, or file names that begin with a wnid."""

from collections.abc import Iterator
from pathlib import Path

from eyespot.choices import SUFFIXES
from eyespot.errors import UnlabelledImages
from eyespot.vision.labels import Labels


def find(folder: Path, labels: Labels) -> list[tuple[Path, int]]:
    """Each image below a folder with the class_id of its class, sorted by path.

    The name of the folder that an image is in may be the class's wnid, or its name in either language. Files that begin
    with a wnid, as ImageNet's own do (`n02123045_1234.JPEG`), need no such folder. Raises `UnlabelledImages`.
    """
    classes = {name.casefold(): class_id for names in labels.names.values() for class_id, name in enumerate(names)}
    classes |= {row.wnid: row.class_id for row in labels.classes}
    found = [(path, _class_of(path, classes)) for path in sorted(_images(folder))]
    if strangers := [path for path, class_id in found if class_id is None]:
        first = strangers[0].relative_to(folder)
        raise UnlabelledImages(
            f"{len(strangers):,} of {len(found):,} images in {folder} have no class of the model, such as {first}; "
            "put each into a folder named after its class, as `eyespot labels` lists them"
        )
    return [(path, class_id) for path, class_id in found if class_id is not None]


def _images(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path


def _class_of(path: Path, classes: dict[str, int]) -> int | None:
    beginning = path.stem.partition("_")[0]
    return next((classes[name] for name in (path.parent.name.casefold(), beginning) if name in classes), None)
