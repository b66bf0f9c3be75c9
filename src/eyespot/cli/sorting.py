"""Photographs sorted into folders by their answers: animal/dog/hound/beagle."""

import errno
import filecmp
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import typer

from eyespot.cli.formats import FileProblem, Finding, reason

_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|]')  # file systems of Windows refuse the others
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS}


class Sorter:
    """Links or copies files into a folder; replaces nothing, and does nothing twice."""

    def __init__(self, folder: Path, *, copy: bool, dry_run: bool) -> None:
        self.folder, self.dry_run = folder, dry_run
        self._verb = "copy" if copy else "link"
        self._put = self._plan if dry_run else _copy if copy else _link
        self._planned: dict[Path, Path] = {}  # where a dry run would have put which file

    def place(self, finding: Finding) -> Finding:
        """Put the file where it belongs. The finding then has the path, or the problem that prevented it."""
        if not (finding.says and finding.image):
            return finding
        source = Path(finding.path)
        labels = reversed(finding.said or [finding.says.label])
        folders = (_UNSAFE.sub("_", label).strip(" .") or "_" for label in labels)
        wanted = self.folder.joinpath(*folders, source.name)
        try:
            return replace(finding, sorted_to=str(self._place(source, wanted, finding.image.sha256)))
        except OSError as error:
            remedy = "; use --copy" if self._put is _link and error.errno in _NO_LINKS else ""
            detail = f"cannot {self._verb} it to {wanted}: {reason(error)}{remedy}"
            return replace(finding, problem=FileProblem("not-sorted", detail))

    def _place(self, source: Path, wanted: Path, sha256: str) -> Path:
        for target in (wanted, wanted.with_name(f"{wanted.stem} ({sha256[:8]}){wanted.suffix}")):
            with suppress(FileExistsError):  # if a folder is a file, `_same` raises
                if not os.path.lexists(target):  # else a copy would be made in vain
                    self._put(source, target)
                    return target
            if _same(source, self._planned.get(target, target)):
                return target
        raise FileExistsError(errno.EEXIST, "another file has that name")

    def _plan(self, source: Path, target: Path) -> None:
        if self._planned.setdefault(target, source) is not source:
            raise FileExistsError


def passes(paths: Iterable[str], folder: Path) -> bool:
    """Whether a search of the paths passes the folder. Raises `BadParameter` if one of them is in it."""
    real = os.path.realpath(folder)
    found = False
    for path in paths:
        searched = os.path.realpath(path)
        both = os.path.commonpath((real, searched))
        if both == real:
            raise typer.BadParameter(f"{path} is in {folder}; choose another folder for --sort-into")
        found |= both == searched
    return found


def _same(source: Path, there: Path) -> bool:
    with suppress(FileNotFoundError):  # a broken link
        return os.path.samefile(source, there) or filecmp.cmp(source, there, shallow=False)  # links are not read
    return False


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(os.path.realpath(source), target)  # Linux would link a symbolic link itself


def _copy(source: Path, target: Path) -> None:
    """Under another name first, so that no other program finds a part of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        shutil.copyfile(source, part)
        with suppress(PermissionError):  # a file system without permissions
            shutil.copystat(source, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        _publish(part, target)
    finally:
        part.unlink(missing_ok=True)


def _publish(part: Path, target: Path) -> None:
    """Give a finished file its name, which no other file may have: a rename would replace it."""
    try:
        os.link(part, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        target.touch(exist_ok=False)  # a process that is killed here leaves an empty file
        part.replace(target)
