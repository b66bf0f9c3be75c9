"""The images themselves, each once, in files that are named by their sha256."""

import contextlib
import logging
import os
import secrets
import threading
from collections import OrderedDict
from datetime import timedelta
from pathlib import Path

from eyespot.errors import StorageFull
from eyespot.memory.clock import SteadyClock
from eyespot.telemetry import event

SWEEP_SECONDS = 3600
_UNFINISHED = ".part"
_UNFINISHED_SECONDS = 3600  # after which nobody writes it any more


class Uploads:
    """Images that were recognised, for so many days after they were last sent, within so many bytes.

    May be used from several threads at once, and by several servers in the same folder, each of which keeps within the
    bytes what it knows of.
    """

    def __init__(self, folder: Path, days: int, max_bytes: int) -> None:
        self._folder = folder
        self._days = days
        self._max_bytes = max_bytes
        self._now = SteadyClock()
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()  # by sha256, those that were sent least recently first
        self._bytes = 0
        self.sweep()

    def keep(self, sha256: str, data: bytes) -> None:
        """Write an image, or, when it is there, note that it was sent again. Older ones make room.

        Raises:
            StorageFull: it cannot be written; nothing is left of it.
        """
        if len(data) > self._max_bytes:
            return
        path = self._path(sha256)
        try:
            with self._lock:
                if sha256 in self._sizes and path.exists():
                    os.utime(path)
                    self._sizes.move_to_end(sha256)
                    return
                self._make_room(len(data))
                _write(path, data)
                self._sizes[sha256] = len(data)
                self._bytes += len(data)
        except OSError as error:
            raise _failed("kept", sha256, error) from error

    def _make_room(self, size: int) -> None:
        while self._sizes and self._bytes + size > self._max_bytes:
            self._forget(next(iter(self._sizes)))

    def _forget(self, sha256: str) -> None:
        self._path(sha256).unlink(missing_ok=True)
        self._bytes -= self._sizes.pop(sha256, 0)

    def get(self, sha256: str) -> bytes | None:
        """The image, when it is kept.

        Raises:
            StorageFull: it cannot be read.
        """
        try:
            return self._path(sha256).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed("read", sha256, error) from error

    def remove(self, sha256: str) -> bool:
        """Delete an image; whether there was one.

        Raises:
            StorageFull: it cannot be deleted.
        """
        try:
            with self._lock:
                there = self._path(sha256).exists()
                self._forget(sha256)
        except OSError as error:
            raise _failed("deleted", sha256, error) from error
        return there

    def sweep(self) -> None:
        """Delete what is too old or too much, and what was left unfinished."""
        with self._lock:
            oldest = (self._now() - timedelta(days=self._days)).timestamp()
            found = sorted(_files(self._folder))
            self._sizes = OrderedDict((path.name, size) for _, size, path in found if not path.suffix)
            self._bytes = sum(self._sizes.values())
            before = len(self._sizes)
            for modified, _, path in found:
                if path.suffix and modified < self._now().timestamp() - _UNFINISHED_SECONDS:
                    path.unlink(missing_ok=True)
                elif not path.suffix and modified < oldest:
                    self._forget(path.name)
            self._make_room(0)
            if before > len(self._sizes):
                event("uploads_swept", deleted=before - len(self._sizes), kept=len(self._sizes), bytes=self._bytes)

    def state(self) -> tuple[bool, str]:
        """Whether images are kept, and how many."""
        return True, f"{len(self._sizes)} images, {self._bytes / 2**20:.1f} of {self._max_bytes / 2**20:.1f} MiB"

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256


def _failed(what: str, sha256: str, error: OSError) -> StorageFull:
    reason = os.strerror(error.errno or 0)
    event(f"upload_not_{what}", logging.ERROR, sha256=sha256, reason=reason)
    return StorageFull(f"The image could not be {what}: {reason}.", retry_after=60)


def _files(folder: Path) -> list[tuple[float, int, Path]]:
    """When it was last modified, its size and its path, of each file."""
    found = []
    for path in folder.glob("??/*"):
        with contextlib.suppress(FileNotFoundError):  # another server was quicker
            about = path.stat()
            found.append((about.st_mtime, about.st_size, path))
    return found


def _write(path: Path, data: bytes) -> None:
    """A whole file or none, and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{secrets.token_hex(4)}{_UNFINISHED}")
    try:
        with unfinished.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
