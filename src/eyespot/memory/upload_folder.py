"""The folder of images: each once, in a file that is named by its sha256."""

import contextlib
import logging
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

from eyespot.errors import StorageFull
from eyespot.memory.clock import SteadyClock
from eyespot.telemetry import event

_UNFINISHED = ".part"
_UNFINISHED_SECONDS = 3600  # after which nobody writes it any more


class UploadFolder:
    """Images that were recognised, for so many days after they were last sent, within so many bytes.

    May be used from several threads at once, and by several servers in the same folder, each of which keeps within the
    bytes what it knows of. No lock is held while a file is written or the folder is searched.
    """

    def __init__(self, folder: Path, days: int, max_bytes: int, fsync: Callable[[int], None] = os.fsync) -> None:
        self._folder = folder
        self._days = days
        self._max_bytes = max_bytes
        self._fsync = fsync
        self._now = SteadyClock()
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()  # by sha256, those that were sent least recently first
        self._bytes = 0
        self._changed: set[str] | None = None  # images that came, went or were sent again since a sweep began
        self.sweep()

    def __contains__(self, sha256: str) -> bool:
        """Whether the image is kept, as far as this server knows; another one may have deleted it."""
        return sha256 in self._sizes

    def keep(self, sha256: str, data: bytes, unless: Callable[[], bool] = lambda: False) -> None:
        """Write an image, or, when it is there, note that it was sent again. Older ones make room.

        It is not kept if `unless()` is true when the file gets its name; no `remove` comes between the two.

        Raises:
            StorageFull: it cannot be written; nothing is left of it.
        """
        if len(data) > self._max_bytes or self.note(sha256):
            return
        try:
            with self._lock:
                self._make_room(len(data))  # before it is written, since the disk may be full
            with self._written(self._path(sha256), data) as unfinished, self._lock:
                if not unless():
                    self._make_room(len(data))
                    unfinished.replace(self._path(sha256))
                    self._change(sha256, len(data))
        except OSError as error:
            raise _failed("kept", sha256, error) from error

    def note(self, sha256: str) -> bool:
        """Note that an image was sent again; whether it is kept.

        Raises:
            StorageFull: that cannot be noted.
        """
        path = self._path(sha256)
        try:
            with self._lock:
                if sha256 not in self._sizes or not path.exists():
                    return False
                os.utime(path)
                self._change(sha256, self._sizes[sha256])
                return True
        except OSError as error:
            raise _failed("kept", sha256, error) from error

    @contextlib.contextmanager
    def _written(self, path: Path, data: bytes) -> Iterator[Path]:
        """A file beside `path`, whole and on the disk; it is deleted unless it is renamed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{secrets.token_hex(4)}{_UNFINISHED}")
        try:
            with unfinished.open("xb") as file:
                file.write(data)
                file.flush()
                self._fsync(file.fileno())
            yield unfinished
        finally:
            unfinished.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        while self._sizes and self._bytes + size > self._max_bytes:
            self._forget(next(iter(self._sizes)))

    def _forget(self, sha256: str) -> None:
        self._path(sha256).unlink(missing_ok=True)
        self._change(sha256, None)

    def _change(self, sha256: str, size: int | None) -> None:
        """Note that an image was kept now, or is no longer."""
        self._bytes -= self._sizes.pop(sha256, 0)
        if size is not None:
            self._sizes[sha256] = size
            self._bytes += size
        if self._changed is not None:
            self._changed.add(sha256)

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
        """Delete what is too old or too much, and what was left unfinished; one sweep at a time.

        What comes or goes while the folder is searched counts as it is, not as it was found.
        """
        with self._lock:
            self._changed = set()
        try:
            found = sorted(self._files())
            self._adopt([(path.name, size) for _, size, path in found if not path.suffix])
            now = self._now()
            deleted = 0
            for modified, _, path in found:
                if path.suffix and modified < now.timestamp() - _UNFINISHED_SECONDS:
                    path.unlink(missing_ok=True)
                elif not path.suffix and modified < (now - timedelta(days=self._days)).timestamp():
                    deleted += self._expire(path.name)
            with self._lock:
                before = len(self._sizes)
                self._make_room(0)
                deleted += before - len(self._sizes)
        finally:
            with self._lock:
                self._changed = None
        if deleted:
            event("uploads_swept", deleted=deleted, kept=len(self._sizes), bytes=self._bytes)

    def _files(self) -> list[tuple[float, int, Path]]:
        """When it was last modified, its size and its path, of each file."""
        found = []
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):  # another server was quicker
                about = path.stat()
                found.append((about.st_mtime, about.st_size, path))
        return found

    def _adopt(self, found: list[tuple[str, int]]) -> None:
        """Take the images that were found for those that there are, but for those that have changed meanwhile."""
        with self._lock:
            changed = self._changed or set()
            sizes = OrderedDict((sha256, size) for sha256, size in found if sha256 not in changed)
            sizes.update((sha256, size) for sha256, size in self._sizes.items() if sha256 in changed)
            self._bytes += sum(sizes.values()) - sum(self._sizes.values())
            self._sizes = sizes

    def _expire(self, sha256: str) -> bool:
        """Delete an image, unless it has changed since it was found; whether it was deleted."""
        with self._lock:
            if self._changed and sha256 in self._changed:
                return False
            self._forget(sha256)
            return True

    def state(self) -> str:
        """How many images are kept."""
        return f"{len(self._sizes)} images, {self._bytes / 2**20:.1f} of {self._max_bytes / 2**20:.1f} MiB"

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256


def _failed(what: str, sha256: str, error: OSError) -> StorageFull:
    reason = os.strerror(error.errno or 0)
    event(f"upload_not_{what}", logging.ERROR, sha256=sha256, reason=reason)
    return StorageFull(f"The image could not be {what}: {reason}.", retry_after=60)
