"""Keeps images on disk without letting a slow or hung disk delay anything else."""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

from eyespot.errors import StorageUnavailable
from eyespot.memory.threads import BoundedThreads, Busy
from eyespot.memory.upload_folder import UploadFolder
from eyespot.telemetry import Metrics, event

T = TypeVar("T")

TIMEOUT_SECONDS = 2  # a stop gives late replies 5 s, of which the audit log has 3
_WRITERS = 4  # several files are synced in little more time than one
_MAX_WRITES = 64  # waiting
_READERS = 8  # for admins, and for images that are sent again
_MAX_READS = 1000  # waiting


class Uploads:
    """The event loop's side of an `UploadFolder`.

    An image that waits for the disk counts among the bodies in memory, because its request waits too. Only those that
    are being written may outlive their requests: one for each writer thread.
    """

    def __init__(
        self,
        folder: UploadFolder,
        metrics: Metrics,
        *,
        timeout: float = TIMEOUT_SECONDS,
        sweep_seconds: float = 3600,
    ) -> None:
        self.folder = folder
        self._metrics = metrics
        self._timeout = timeout
        self._sweep_seconds = sweep_seconds
        self._writers = BoundedThreads("eyespot-uploads-writer", _WRITERS, _MAX_WRITES, timeout)
        self._readers = BoundedThreads("eyespot-uploads-reader", _READERS, _MAX_READS, timeout)
        self._sweeper = BoundedThreads("eyespot-uploads-sweeper", 1, 1)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by sha256
        self._not_kept = 0

    async def keep(self, sha256: str, data: bytes, unless: Callable[[], bool]) -> None:
        """Keep an image as `UploadFolder.keep` does; if the disk is too slow, only log and count that."""
        try:
            async with asyncio.timeout(self._timeout):
                if sha256 in self.folder and await self._readers.run(self.folder.note, sha256):
                    return
                async with self._locks.setdefault(sha256, asyncio.Lock()):  # requests that joined write it once
                    await self._writers.run(self.folder.keep, sha256, data, unless)
        except Busy as busy:
            self._count_not_kept(sha256, f"the disk is {busy}")
        except TimeoutError:
            self._count_not_kept(sha256, f"the disk took longer than {self._timeout:g} s")

    def _count_not_kept(self, sha256: str, reason: str) -> None:
        self._not_kept += 1
        self._metrics.uploads_not_kept.inc()
        event("upload_not_kept", logging.ERROR, sha256=sha256, reason=reason)

    async def get(self, sha256: str) -> bytes | None:
        """As `UploadFolder.get`; raises `StorageUnavailable` if the disk is too slow."""
        return await self._read(self.folder.get, sha256)

    async def remove(self, sha256: str) -> bool:
        """As `UploadFolder.remove`; raises `StorageUnavailable` if the disk is too slow."""
        return await self._read(self.folder.remove, sha256)

    async def _read(self, function: Callable[[str], T], sha256: str) -> T:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._readers.run(function, sha256)
        except (Busy, TimeoutError) as error:
            raise StorageUnavailable(retry_after=1) from error

    async def keep_sweeping(self) -> None:
        """Sweep the folder at intervals, until cancelled."""
        while True:
            await asyncio.sleep(self._sweep_seconds)
            try:
                await self._sweeper.run(self.folder.sweep)
            except OSError as error:
                event("uploads_not_swept", logging.ERROR, reason=str(error))

    def state(self) -> tuple[bool, str]:
        """Whether images can be kept, and details for the operator."""
        late = f", {self._not_kept} not kept in time" if self._not_kept else ""
        return not self._writers.hang, f"{self.folder.state()}{late}"

    def close(self) -> None:
        for threads in (self._writers, self._readers, self._sweeper):
            threads.close()
