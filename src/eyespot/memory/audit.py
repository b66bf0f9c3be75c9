"""Who asked for what and what was answered: rows that one thread writes, as many at once as have come."""

import asyncio
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
_PATIENCE_SECONDS = 3  # that a reply waits for its row; longer than the table's own limits
_PAUSE_SECONDS = 1  # for which a database that failed is left alone
_PRUNE_SECONDS = 3600
_READERS = 2  # threads for questions about the log
# When rows come many at a time, a transaction waits for more of them: it costs what five rows do, and the interpreter's
# lock. A row that comes alone does not wait.
_GATHER_SECONDS = 0.005

_Waiting = tuple[AuditRow, "asyncio.Future[str | None]"]  # a row, and why it could not be written


class AuditLog:
    """Writes rows, and deletes those that are older than `days`.

    A database that is gone is looked for every second. Until it is back rows are lost, counted and shown; when the log
    is `required`, they are refused.
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
        self._alone_until = -math.inf  # as time.monotonic() has it
        self._began = math.inf  # when the thread turned to the database, while it waits for it
        self._prune_at = 0.0
        try:
            table.prepare()
        except table.failures as error:
            if required:
                raise table.unusable(error) from error
            self._lose(error)
        self._readers = ThreadPoolExecutor(_READERS, "eyespot-audit-reader")  # so that reading takes no other threads
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
        if self._lost and time.monotonic() < self._alone_until:
            return self._lost
        if self._hangs() or len(self._gathered) >= _MAX_WAITING:
            return "the database does not answer"
        return None

    def _hangs(self) -> bool:
        """Whether the thread has waited for the database for longer than any reply does."""
        return time.monotonic() - self._began > _PATIENCE_SECONDS

    async def _written(self, row: AuditRow) -> str | None:
        loop = asyncio.get_running_loop()
        written = loop.create_future()
        self._gathered.append((row, written))
        if not self._writing:
            self._writing = True
            loop.call_later(self._gather_seconds, self._hand_over)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                reason: str | None = await written
        except TimeoutError:
            self.table.interrupt()
            return "the database does not answer"
        return reason

    async def rows(self, **question: Any) -> list[AuditRow]:
        """Rows as `AuditTable.rows` finds them.

        Raises:
            AuditUnavailable: the database cannot be had, or takes too long.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await loop.run_in_executor(self._readers, partial(self.table.rows, **question))
        except TimeoutError as error:
            self.table.interrupt()
            raise AuditUnavailable("The audit log does not answer.", retry_after=1) from error
        except self.table.failures as error:
            raise AuditUnavailable("The audit log cannot be read now.", retry_after=1) from error

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
        reason = self._lost
        if not reason and self._hangs():
            reason = "it does not answer"
        if reason:
            return False, f"{self.table.kind}, lost: {reason}; {self._rows_lost} rows could not be written"
        return True, self.table.kind

    async def close(self) -> None:
        """End, once everything is written that was to be."""
        while self._gathered:
            self._hand_over()
        self._batches.put(None)
        await asyncio.to_thread(self._thread.join, _PATIENCE_SECONDS)
        self._readers.shutdown(wait=False, cancel_futures=True)
        self.table.interrupt()  # or a database that hangs would keep the process from ending
        await asyncio.to_thread(self._thread.join, _PATIENCE_SECONDS)
        self.table.close()

    def _work(self) -> None:
        """The thread: nobody else writes."""
        while True:
            patience = _PAUSE_SECONDS if self._lost else max(0, self._prune_at - time.monotonic())
            try:
                batch = self._batches.get(timeout=patience)
            except queue.Empty:
                if self._lost:
                    self._try(self.table.prepare)
            else:
                if batch is None:
                    return
                self._write(batch)
            if not self._lost and time.monotonic() >= self._prune_at:
                self._try(self._prune)

    def _write(self, batch: list[_Waiting]) -> None:
        def write() -> None:
            if self._lost:
                self.table.prepare()
            self.table.insert([row for row, _ in batch])

        reason = self._try(write)
        if reason is None:
            child(self._metrics.audit_rows, "written").inc(len(batch))
        batch[0][1].get_loop().call_soon_threadsafe(self._settle, batch, reason)

    def _try(self, action: Callable[[], None]) -> str | None:
        """Do something with the database; why that failed, when it did."""
        self._began = time.monotonic()
        try:
            action()
        except Exception as error:  # a newer program may have changed the table; and this thread must not end
            return self._lose(error)
        finally:
            self._began = math.inf
        if self._lost:
            self._lost = None
            event("audit_found", rows_lost=self._rows_lost)
        return None

    def _lose(self, error: Exception) -> str:
        reason = self.table.reason(error)
        self._alone_until = time.monotonic() + _PAUSE_SECONDS
        if not self._lost:
            event("audit_lost", logging.ERROR, reason=reason)
        self._lost = reason
        return reason

    def _prune(self) -> None:
        pruned = self.table.prune(self._now() - timedelta(days=self._days))
        if pruned:
            event("audit_pruned", rows=pruned, days=self._days)  # and again, since there may be more
        else:
            self._prune_at = time.monotonic() + _PRUNE_SECONDS
