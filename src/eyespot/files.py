"""The images in files and folders."""

import os
from collections.abc import Iterable, Iterator

from eyespot.choices import SUFFIXES


def find(paths: Iterable[str], excluded: str = "") -> Iterator[str | OSError]:
    """The named files, and the images in and below the named folders, each once.

    They come in the order of the paths; in a folder by name, files before folders. Names that begin with a dot are left
    out, and so are links to folders, which may form a loop, and the folder `excluded`. A folder that cannot be opened
    is its `OSError`.
    """
    named: set[str] = {os.path.realpath(excluded)} if excluded else set()
    folders: list[str] = []
    for path in paths:
        real = os.path.realpath(path)
        if real in named or any(_contains(folder, real) for folder in folders):
            continue
        if os.path.isdir(path):
            yield from _below(path, real, named)
            folders.append(real)
        else:
            yield path
        named.add(real)


def _contains(folder: str, file: str) -> bool:
    """Whether a search of `folder` finds `file`, or passes it if it is a folder."""
    if os.path.commonpath((folder, file)) != folder:
        return False
    parts = os.path.relpath(file, folder).split(os.sep)
    return not any(part.startswith(".") for part in parts) and (os.path.isdir(file) or _is_image(file))


def _below(path: str, real: str, named: set[str]) -> Iterator[str | OSError]:
    waiting = [(path, real)]  # recursion ends at a thousand folders
    while waiting:
        path, real = waiting.pop()
        files, folders = [], []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or os.path.join(real, entry.name) in named:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                    elif _is_image(entry.name) and entry.is_file():
                        files.append(entry.name)
        except OSError as error:
            yield error
            continue
        for name in sorted(files):
            yield os.path.join(path, name)
        waiting += [(os.path.join(path, name), os.path.join(real, name)) for name in sorted(folders, reverse=True)]


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)
