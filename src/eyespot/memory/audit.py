"""The audit log: one thread writes rows in batches, a few others read them."""

import asyncio
import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from eyespot.errors import AuditUnavailable
from eyespot.memory.clock import SteadyClock
from eyespot.memory.threads import BoundedThreads, Busy
from eyespot.telemetry import Metrics, child, event
from eyespot.types import AuditRow

if TYPE_CHECKING:
    from eyespot.memory.audit_table import AuditTable

TIMEOUT_SECONDS = 3  # that a reply waits for its row; longer than the table's own limits
_MAX_BATCH = 1000  # rows in one transaction
_MAX_PENDING = 10_000  # rows
_CHECK_SECONDS = 1
_PRUNE_SECONDS = 3600
_READERS = 2
_MAX_READS = 10  # waiting
# After a batch, more rows may gather: a transaction costs as much as five rows do, and the interpreter's lock. A row
# that comes alone does not wait. The wait per row is about the time of a cached answer; a fixed 5 ms cut the rate of
# such answers to a third with two clients, and to three quarters with eight.
_GATHER_SECONDS = 0.0003
_MAX_GATHER_SECONDS = 0.005

_Pending = tuple[AuditRow, "asyncio.Future[bool]"]  # the future: whether the row was written


class AuditLog:
    """Writes rows, and prunes those older than `days`.

    If the database fails, it is tried again every `check_seconds`. Until then rows are lost, counted and reported in
    `state`; if the log is `required`, `write` raises instead.
    """

    def __init__(
        self,
        table: "AuditTable",
        metrics: Metrics,
        *,
        days: int,
        required: bool = False,
        address: Callable[[str | None], str | None] = lambda address: address,
        timeout: float = TIMEOUT_SECONDS,
        check_seconds: float = _CHECK_SECONDS,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        """`address` maps a client's address to what is recorded. Raises `AuditUnusable` if the log cannot be used."""
        self.table = table
        self.required = required
        self.address = address
        self._metrics = metrics
        self._days = days
        self._timeout = timeout
        self._check_seconds = check_seconds
        self._now = now or SteadyClock()
        self._pending: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()  # None ends the thread
        self._failure: str | None = None
        self._rows_lost = 0
        # Moments of time.monotonic().
        self._busy_since = math.inf
        self._failed_at = -math.inf
        self._check_at = 0.0
        self._prune_at = 0.0
        try:
            table.prepare()
        except table.failures as error:
            if required:
                raise table.unusable(error) from error
            self._set_failure(table.reason(error))
        self._readers = BoundedThreads("eyespot-audit-reader", _READERS, _MAX_READS)
        self._thread = threading.Thread(target=self._work, name="eyespot-audit", daemon=True)
        self._thread.start()

    async def write(self, row: AuditRow) -> None:
        """Return once the row is written or lost; raises `AuditUnavailable` if it is lost and the log is required."""
        if self._hangs():
            self.table.store.interrupt()
        elif not self._failure and self._pending.qsize() < _MAX_PENDING and await self._written(row):
            return
        self._rows_lost += 1
        child(self._metrics.audit_rows, "lost").inc()
        if self.required:
            raise AuditUnavailable(retry_after=1)

    async def _written(self, row: AuditRow) -> bool:
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pending.put((row, written))
        try:
            async with asyncio.timeout(self._timeout):
                return await written
        except TimeoutError:
            self.table.store.interrupt()
            return False

    def _hangs(self) -> bool:
        return time.monotonic() - self._busy_since > self._timeout

    async def rows(self, **query: Any) -> list[AuditRow]:
        """As `AuditTable.rows`; raises `AuditUnavailable` if too many readers wait or the database fails or is slow."""
        try:
            return await self._readers.run(partial(self.table.rows, **query))
        except (Busy, *self.table.failures) as error:
            raise AuditUnavailable(
                f"The audit log cannot be read: {self.table.reason(error)}.", retry_after=1
            ) from error

    def state(self) -> tuple[bool, str]:
        """Whether rows are written, and details for the operator."""
        failure = self._failure or ("it does not answer" if self._hangs() else None)
        lost = f", lost: {failure}" if failure else ""
        rows = f"; {self._rows_lost} rows could not be written" if self._rows_lost else ""
        return not failure, f"{self.table.store.detail}{lost}{rows}"

    async def close(self) -> None:
        """Write the pending rows and end the threads."""
        self._pending.put(None)
        await asyncio.to_thread(self._thread.join, self._timeout)
        self._readers.close()
        self.table.store.interrupt()  # a database that hangs must not keep the process from ending
        await asyncio.to_thread(self._thread.join, self._timeout)
        self.table.close()

    def _work(self) -> None:
        while True:
            batch: list[_Pending | None] = []
            with contextlib.suppress(queue.Empty):
                batch.append(self._pending.get(timeout=max(0, self._check_at - time.monotonic())))
                while len(batch) < _MAX_BATCH:
                    batch.append(self._pending.get_nowait())
            if rows := [pending for pending in batch if pending]:
                self._write(rows)
            if None in batch:
                return
            if time.monotonic() >= self._check_at:
                self._check()

    def _write(self, batch: list[_Pending]) -> None:
        failure = self._failure or self._try(partial(self.table.insert, [row for row, _ in batch]))
        if failure is None:
            child(self._metrics.audit_rows, "written").inc(len(batch))
        elif not self._failure:
            event("audit_rows_lost", logging.ERROR, rows=len(batch), reason=failure)
            # The database may be fine and refuse just these rows; not if that happened just before.
            again = time.monotonic() - self._failed_at < self._check_seconds
            self._failed_at = time.monotonic()
            self._set_failure(failure if again else self._try(self.table.recover))
        batch[0][1].get_loop().call_soon_threadsafe(_settle, batch, failure is None)
        if len(batch) > 1:
            time.sleep(min(len(batch) * _GATHER_SECONDS, _MAX_GATHER_SECONDS))

    def _check(self) -> None:
        self._check_at = time.monotonic() + self._check_seconds
        if self._failure or self._try(self.table.store.check):
            self._set_failure(self._try(self.table.recover))
        if not self._failure and time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + _PRUNE_SECONDS
            if reason := self._try(self._prune):
                event("audit_not_pruned", logging.ERROR, reason=reason)

    def _prune(self) -> None:
        if pruned := self.table.prune(self._now() - timedelta(days=self._days)):
            event("audit_pruned", rows=pruned, days=self._days)
            self._check_at = self._prune_at = 0.0  # there may be more

    def _try(self, action: Callable[[], None]) -> str | None:
        """Why the action failed; None if it did not."""
        self._busy_since = time.monotonic()
        try:
            action()
        except Exception as error:  # whatever it is, the thread must go on
            return self.table.reason(error)
        finally:
            self._busy_since = math.inf
        return None

    def _set_failure(self, failure: str | None) -> None:
        if failure and not self._failure:
            event("audit_lost", logging.ERROR, reason=failure)
        elif self._failure and not failure:
            event("audit_found", rows_lost=self._rows_lost)
        self._failure = failure


def _settle(batch: list[_Pending], written: bool) -> None:
    for _, future in batch:
        if not future.done():
            future.set_result(written)
