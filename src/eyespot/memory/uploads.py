"""Keeps images through threads of its own, so that a disk that is slow or hangs holds up nothing else."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from eyespot.errors import StorageUnavailable
from eyespot.memory.upload_folder import UploadFolder
from eyespot.telemetry import Metrics, event

T = TypeVar("T")

SWEEP_SECONDS = 3600
_TIMEOUT_SECONDS = 2  # that a reply waits for its image; a stop gives late replies 5 s, of which the audit log has 3
_WRITERS = 4  # several files are synced in little more time than one
_MAX_WRITING = 64  # images may wait for a writer
_READERS = 8  # for admins, and for images that were sent again
_MAX_READING = 1000  # may wait for a reader


class Uploads:
    """The kept images, for the event loop.

    While an image waits for the disk its request does too, and is counted among the bodies that are held. Only an image
    that is being written may outlive its request: one for each writer.
    """

    def __init__(self, folder: UploadFolder, metrics: Metrics, patience_seconds: float = _TIMEOUT_SECONDS) -> None:
        self.folder = folder
        self._metrics = metrics
        self._patience = patience_seconds
        self._writers = _Threads("eyespot-uploads-writer", _WRITERS, _MAX_WRITING, patience_seconds)
        self._readers = _Threads("eyespot-uploads-reader", _READERS, _MAX_READING, patience_seconds)
        self._sweeper = ThreadPoolExecutor(1, "eyespot-uploads-sweeper")
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by sha256
        self._not_kept = 0  # images, in time

    async def keep(self, sha256: str, data: bytes, unless: Callable[[], bool]) -> None:
        """As `UploadFolder.keep`; what takes too long is logged and counted, and not waited for.

        Raises:
            StorageFull: it cannot be written.
        """
        try:
            async with asyncio.timeout(self._patience):
                if sha256 in self.folder and await self._readers.run(self.folder.note, sha256):
                    return
                async with self._turns.setdefault(sha256, asyncio.Lock()):  # or all who joined would write it
                    await self._writers.run(self.folder.keep, sha256, data, unless)
        except _Busy as busy:
            self._tell(sha256, str(busy))
        except TimeoutError:
            self._tell(sha256, f"it took longer than {self._patience:g} s")

    def _tell(self, sha256: str, reason: str) -> None:
        self._not_kept += 1
        self._metrics.uploads_not_kept.inc()
        event("upload_not_kept", logging.ERROR, sha256=sha256, reason=reason)

    async def get(self, sha256: str) -> bytes | None:
        """The image, when it is kept.

        Raises:
            StorageFull: it cannot be read.
            StorageUnavailable: that takes too long.
        """
        return await self._ask(self.folder.get, sha256)

    async def remove(self, sha256: str) -> bool:
        """Delete an image; whether there was one.

        Raises:
            StorageFull: it cannot be deleted.
            StorageUnavailable: that takes too long.
        """
        return await self._ask(self.folder.remove, sha256)

    async def _ask(self, function: Callable[[str], T], sha256: str) -> T:
        try:
            async with asyncio.timeout(self._patience):
                return await self._readers.run(function, sha256)
        except (_Busy, TimeoutError) as error:
            raise StorageUnavailable(retry_after=1) from error

    async def sweep(self) -> None:
        """As `UploadFolder.sweep`."""
        await asyncio.get_running_loop().run_in_executor(self._sweeper, self.folder.sweep)

    def state(self) -> tuple[bool, str]:
        """Whether images can be kept, and how many are."""
        late = f", {self._not_kept} not kept in time" if self._not_kept else ""
        return not self._writers.hang, f"{self.folder.state()}{late}"

    def close(self) -> None:
        """Begin nothing more; what a thread has begun goes on."""
        for executor in (self._writers.executor, self._readers.executor, self._sweeper):
            executor.shutdown(wait=False, cancel_futures=True)


class _Busy(Exception):
    """It is no use to wait."""


class _Threads:
    """Threads for which a bounded number of calls may wait.

    A thread is free again when its call has ended, not when the caller gives up.
    """

    def __init__(self, name: str, threads: int, max_waiting: int, patience_seconds: float) -> None:
        self.executor = ThreadPoolExecutor(threads, name)
        self._free = asyncio.Semaphore(threads)
        self._waiting = 0
        self._max_waiting = max_waiting
        self._patience = patience_seconds
        self._last_sign_of_life = time.monotonic()  # when a call last began or ended

    @property
    def hang(self) -> bool:
        """Whether every thread has been busy with one call for longer than anybody waits."""
        return self._free.locked() and time.monotonic() - self._last_sign_of_life > self._patience

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """What `function(*args)` returns. When the caller is cancelled, it is not begun, or goes on if it was.

        Raises:
            _Busy: too many wait, or all threads hang.
        """
        if self.hang:
            raise _Busy("the disk does not answer")
        if self._waiting >= self._max_waiting:
            raise _Busy(f"{self._waiting} others wait for the disk")
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        self._last_sign_of_life = time.monotonic()
        call = asyncio.get_running_loop().run_in_executor(self.executor, function, *args)
        call.add_done_callback(self._ended)
        await asyncio.wait({call})
        return call.result()

    def _ended(self, call: asyncio.Future[Any]) -> None:
        self._last_sign_of_life = time.monotonic()
        self._free.release()
        if not call.cancelled():
            call.exception()  # which asyncio reports when nobody looked at it
