"""A folder of images, each in one file named by its sha256."""

import logging
import math
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

from eyespot.errors import StorageFull
from eyespot.memory.clock import SteadyClock
from eyespot.telemetry import event

_PARTIAL_SECONDS = 3600  # older ones were left by a killed server


class UploadFolder:
    """Images up to `days` after they were last sent; beyond `max_bytes`, the least recently sent are deleted.

    Thread-safe. Several servers may share the folder; each limits the bytes that it knows of. No lock is held while a
    file is written or the folder is scanned.
    """

    def __init__(
        self,
        folder: Path,
        days: int,
        max_bytes: int,
        *,
        fsync: Callable[[int], None] = os.fsync,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._folder = folder
        self._days = days
        self._max_bytes = max_bytes
        self._fsync = fsync
        self._now = now or SteadyClock()
        self._lock = threading.Lock()
        # By sha256: when it was last sent, in seconds since the epoch, and its bytes. Least recently sent first.
        self._images: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._bytes = 0
        self._changed: set[str] | None = None  # by `keep` or `remove` since the current sweep began
        self.sweep()

    def __contains__(self, sha256: str) -> bool:
        """Whether the image is kept, unless another server has deleted it."""
        return sha256 in self._images

    def keep(self, sha256: str, data: bytes, unless: Callable[[], bool] = lambda: False) -> None:
        """Write an image, or note that it was sent again, and delete older ones if that takes too many bytes.

        It is not kept if `unless()`, called right before the file gets its name with no `remove` in between, is true.
        Raises `StorageFull` if it cannot be written; no file is left.
        """
        if len(data) > self._max_bytes or self.note(sha256):
            return
        path = self._path(sha256)
        partial = path.with_suffix(f".{secrets.token_hex(4)}.part")
        with _storage_full("kept", sha256), ExitStack() as stack:
            with self._lock:
                self._make_room(len(data))  # first, because the disk may be full
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.callback(partial.unlink, missing_ok=True)
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                self._fsync(file.fileno())
            with self._lock:
                if not unless():
                    self._make_room(len(data))
                    partial.replace(path)
                    self._record(sha256, len(data))

    def note(self, sha256: str) -> bool:
        """Note that an image was sent again; whether it is kept. Raises `StorageFull` if its time cannot be set."""
        path = self._path(sha256)
        with _storage_full("kept", sha256), self._lock:
            if sha256 not in self._images or not path.exists():
                return False
            os.utime(path)
            self._record(sha256, self._images[sha256][1])
            return True

    def _make_room(self, size: int) -> None:
        while self._images and self._bytes + size > self._max_bytes:
            self._delete(next(iter(self._images)))

    def _delete(self, sha256: str) -> None:
        self._path(sha256).unlink(missing_ok=True)
        self._record(sha256, None)

    def _record(self, sha256: str, size: int | None) -> None:
        """Note that an image was sent now, or deleted."""
        _, before = self._images.pop(sha256, (0, 0))
        if size is not None:
            self._images[sha256] = self._now().timestamp(), size
        self._bytes += (size or 0) - before
        if self._changed is not None:
            self._changed.add(sha256)

    def get(self, sha256: str) -> bytes | None:
        """The image if it is kept; raises `StorageFull` if it cannot be read."""
        with _storage_full("read", sha256), suppress(FileNotFoundError):
            return self._path(sha256).read_bytes()
        return None

    def remove(self, sha256: str) -> bool:
        """Delete an image; whether there was one. Raises `StorageFull` if it cannot be deleted."""
        with _storage_full("deleted", sha256), self._lock:
            existed = self._path(sha256).exists()
            self._delete(sha256)
            return existed

    def sweep(self) -> None:
        """Scan the folder, then delete old partial files and images that are too old or too many bytes.

        One thread at a time. Images that are kept or removed during the scan count as they are, not as it found them.
        """
        now = self._now()
        with self._lock:
            changed = self._changed = set[str]()
        found = OrderedDict[str, tuple[float, int]]()
        for modified, size, path in sorted(self._files()):
            if not path.suffix:
                found[path.name] = modified, size
            elif modified < now.timestamp() - _PARTIAL_SECONDS:
                path.unlink(missing_ok=True)
        with self._lock:
            for sha256 in changed:
                found.pop(sha256, None)
            found.update((sha256, image) for sha256, image in self._images.items() if sha256 in changed)
            self._images, self._bytes, self._changed = found, sum(size for _, size in found.values()), None
        deleted = 0
        while self._delete_surplus((now - timedelta(days=self._days)).timestamp()):
            deleted += 1
        if deleted:
            event("uploads_swept", deleted=deleted, kept=len(self._images), bytes=self._bytes)

    def _files(self) -> list[tuple[float, int, Path]]:
        """Modification time in seconds, size and path of each file."""
        files = []
        for path in self._folder.glob("??/*"):
            with suppress(FileNotFoundError):  # another server deleted it
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        return files

    def _delete_surplus(self, oldest: float) -> bool:
        """Delete the least recently sent image if it is too old or takes too many bytes; whether it was."""
        with self._lock:
            sha256, (sent, _) = next(iter(self._images.items()), ("", (math.inf, 0)))
            surplus = sent < oldest or self._bytes > self._max_bytes
            if surplus:
                self._delete(sha256)
            return surplus

    def state(self) -> str:
        """Details for the operator."""
        return f"{len(self._images)} images, {self._bytes / 2**20:.1f} of {self._max_bytes / 2**20:.1f} MiB"

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256


@contextmanager
def _storage_full(what: str, sha256: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        event(f"upload_not_{what}", logging.ERROR, sha256=sha256, reason=reason)
        raise StorageFull(f"The image could not be {what}: {reason}.", retry_after=60) from error
