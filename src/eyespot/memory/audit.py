"""Who asked for what and what was answered: rows that one thread writes, as many at once as have come."""

import asyncio
import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from eyespot.errors import AuditUnavailable
from eyespot.memory.clock import SteadyClock
from eyespot.telemetry import Metrics, child, event
from eyespot.types import AuditRow

if TYPE_CHECKING:
    from eyespot.memory.audit_table import AuditTable

_ROWS_AT_ONCE = 1000  # in one transaction
_MAX_WAITING = 10_000  # rows; more are lost at once
_TIMEOUT_SECONDS = 3  # that a reply waits for its row; longer than the table's own limits
_LOOK_SECONDS = 1  # between two looks at the database
_PRUNE_SECONDS = 3600
_PRUNE_AGAIN_SECONDS = 60  # when it failed
_READERS = 2  # threads for questions about the log
_READERS_WAITING = 10  # for one of the threads; more are refused
# When rows come many at a time, a transaction waits for more of them: it costs what five rows do, and the interpreter's
# lock. A row that comes alone does not wait.
_GATHER_SECONDS = 0.005

_Waiting = tuple[AuditRow, "asyncio.Future[str | None]"]  # a row, and why it could not be written


class AuditLog:
    """Writes rows, and deletes those that are older than `days`.

    A database that is gone is looked for every second. Until it is back rows are lost at once, counted and shown; when
    the log is `required`, they are refused.
    """

    def __init__(
        self,
        table: "AuditTable",
        metrics: Metrics,
        *,
        days: int,
        required: bool = False,
        address: Callable[[str | None], str | None] = lambda address: address,
    ) -> None:
        """`address` makes what is written out of a client's address.

        Raises:
            AuditUnusable: a newer version of this program made the table, or there is none and it is required.
        """
        self.table = table
        self.required = required
        self.address = address
        self._metrics = metrics
        self._days = days
        self._now = SteadyClock()
        self._gathered: list[_Waiting] = []  # for the next batch
        self._gather_seconds = 0.0
        self._writing = False  # whether the thread has one, or will
        self._batches: queue.SimpleQueue[list[_Waiting] | None] = queue.SimpleQueue()
        self._lost: str | None = None  # why
        self._rows_lost = 0
        # Moments of time.monotonic().
        self._began = math.inf  # when the thread turned to the database, while it waits for it
        self._failed_at = -math.inf  # when rows could last not be written
        self._look_at = 0.0
        self._prune_at = 0.0
        try:
            table.prepare()
        except table.failures as error:
            if required:
                raise table.unusable(error) from error
            self._became(table.reason(error))
        self._readers = ThreadPoolExecutor(_READERS, "eyespot-audit-reader")  # so that reading takes no other threads
        self._places = threading.Semaphore(_READERS + _READERS_WAITING)
        self._thread = threading.Thread(target=self._work, name="eyespot-audit", daemon=True)
        self._thread.start()

    async def write(self, row: AuditRow) -> None:
        """Return once the row is written, or, unless it is required, lost.

        Raises:
            AuditUnavailable: it is required and could not be written.
        """
        reason = self._cannot() or await self._written(row)
        if reason is None:
            return
        self._rows_lost += 1
        child(self._metrics.audit_rows, "lost").inc()
        if self.required:
            raise AuditUnavailable(retry_after=1)

    def _cannot(self) -> str | None:
        """Why it is no use to wait for a row now."""
        if self._hangs():
            self.table.interrupt()
        elif not self._lost and len(self._gathered) < _MAX_WAITING:
            return None
        return self._lost or "it does not answer"

    def _hangs(self) -> bool:
        """Whether the thread has waited for the database for longer than any reply does."""
        return time.monotonic() - self._began > _TIMEOUT_SECONDS

    async def _written(self, row: AuditRow) -> str | None:
        loop = asyncio.get_running_loop()
        written = loop.create_future()
        self._gathered.append((row, written))
        if not self._writing:
            self._writing = True
            loop.call_later(self._gather_seconds, self._hand_over)
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                reason: str | None = await written
        except TimeoutError:
            self.table.interrupt()
            return "it does not answer"
        return reason

    async def rows(self, **question: Any) -> list[AuditRow]:
        """Rows as `AuditTable.rows` finds them.

        Raises:
            AuditUnavailable: too many readers wait already, or the database cannot be read, or not in time.
        """
        if not self._places.acquire(blocking=False):
            raise AuditUnavailable("The audit log is busy: too many are reading it.", retry_after=_TIMEOUT_SECONDS)
        reading = self._readers.submit(self.table.rows, **question)
        reading.add_done_callback(lambda _: self._places.release())
        try:
            return await asyncio.wrap_future(reading)
        except self.table.failures as error:
            reason = self.table.reason(error)
            raise AuditUnavailable(f"The audit log cannot be read: {reason}.", retry_after=1) from error

    def _hand_over(self) -> None:
        """Give the thread what has been gathered while it wrote."""
        batch, self._gathered = self._gathered[:_ROWS_AT_ONCE], self._gathered[_ROWS_AT_ONCE:]
        self._writing = bool(batch)
        self._gather_seconds = _GATHER_SECONDS if len(batch) > 1 else 0
        if batch:
            self._batches.put(batch)

    def _settle(self, batch: list[_Waiting], reason: str | None) -> None:
        for _, written in batch:
            if not written.done():
                written.set_result(reason)
        asyncio.get_running_loop().call_later(self._gather_seconds, self._hand_over)

    def state(self) -> tuple[bool, str]:
        """Whether rows are written, and what there is to say of it."""
        lost = f"; {self._rows_lost} rows could not be written" if self._rows_lost else ""
        if self._lost or self._hangs():
            return False, f"{self.table.detail}, lost: {self._lost or 'it does not answer'}{lost}"
        return True, f"{self.table.detail}{lost}"

    async def close(self) -> None:
        """End, once everything is written that was to be."""
        while self._gathered:
            self._hand_over()
        self._batches.put(None)
        await asyncio.to_thread(self._thread.join, _TIMEOUT_SECONDS)
        self._readers.shutdown(wait=False, cancel_futures=True)
        self.table.interrupt()  # or a database that hangs would keep the process from ending
        await asyncio.to_thread(self._thread.join, _TIMEOUT_SECONDS)
        self.table.close()

    def _work(self) -> None:
        """The thread: nobody else writes."""
        while True:
            with contextlib.suppress(queue.Empty):
                batch = self._batches.get(timeout=max(0, self._look_at - time.monotonic()))
                if batch is None:
                    return
                self._write(batch)
            if time.monotonic() >= self._look_at:
                self._look()

    def _write(self, batch: list[_Waiting]) -> None:
        reason = self._lost or self._try(partial(self.table.insert, [row for row, _ in batch]))
        if reason is None:
            child(self._metrics.audit_rows, "written").inc(len(batch))
        elif not self._lost:
            self._fail(len(batch), reason)
        batch[0][1].get_loop().call_soon_threadsafe(self._settle, batch, reason)

    def _fail(self, rows: int, reason: str) -> None:
        """Tell that rows are lost. The log is not, if the database answers and this did not just happen before."""
        event("audit_rows_lost", logging.ERROR, rows=rows, reason=reason)
        again = time.monotonic() - self._failed_at < _LOOK_SECONDS
        self._failed_at = time.monotonic()
        self._became(reason if again else self._try(self.table.recover))

    def _look(self) -> None:
        """See whether the database is still there, or back. Delete old rows when it is time to."""
        self._look_at = time.monotonic() + _LOOK_SECONDS
        if self._lost or self._try(self.table.check):
            self._became(self._try(self.table.recover))
        if not self._lost and time.monotonic() >= self._prune_at and (reason := self._try(self._prune)):
            event("audit_not_pruned", logging.ERROR, reason=reason)
            self._prune_at = time.monotonic() + _PRUNE_AGAIN_SECONDS

    def _try(self, action: Callable[[], None]) -> str | None:
        """Do something with the database; why that failed, when it did."""
        self._began = time.monotonic()
        try:
            action()
        except Exception as error:  # a newer program may have changed the table; and this thread must not end
            return self.table.reason(error)
        finally:
            self._began = math.inf
        return None

    def _became(self, lost: str | None) -> None:
        if lost and not self._lost:
            event("audit_lost", logging.ERROR, reason=lost)
        elif self._lost and not lost:
            event("audit_found", rows_lost=self._rows_lost)
        self._lost = lost

    def _prune(self) -> None:
        pruned = self.table.prune(self._now() - timedelta(days=self._days))
        if pruned:
            event("audit_pruned", rows=pruned, days=self._days)
            self._look_at = 0.0  # and again, since there may be more
        else:
            self._prune_at = time.monotonic() + _PRUNE_SECONDS
