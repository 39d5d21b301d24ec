"""The one writer: a thread that owns the writing connection, a FIFO queue, and group commit.

    loop:    submit(row) ─┐                      ┌─▶ futures of the whole batch, in one call to the loop
                          ├─▶ FIFO ─▶ batch ─▶ commit (fsync)
    loop:    run(job)   ──┘   rare jobs cut the batch and run alone, in order

Hot rows of a batch go into one transaction; while one commit waits for the disk the next batch gathers by itself, and under load
a window of 5 ms lets it grow. What the database refuses although the book admitted it is our bug: the batch is rolled back and
replayed row by row, and the wallet of each refused row is handed to `on_refused` to be frozen. Trouble of the machine (disk
full, I/O) is different: nothing is dropped, the batch is tried again until it goes through, and `accepting` is false meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from gateway import metrics
from gateway.clock import Clock
from gateway.errors import HouseError
from gateway.metrics import alarm, counters
from gateway.storage.ledger import LedgerWriter
from gateway.storage.rows import HoldChangeRow, HoldRow, ProgressRow, Row

logger = logging.getLogger(__name__)

T = TypeVar("T")

COMMIT_WINDOW_S = 0.005
# A batch this large is load: wait for the window. A smaller one is committed at once.
WINDOW_FROM_ROWS = 8
BATCH_ROWS_MAX = 2_000
# Checkpoint after so many rows (some 2 MB of WAL), or when idle.
CHECKPOINT_ROWS = 4_000
IDLE_S = 1.0
RETRY_S = (0.05, 0.1, 0.25, 0.5, 1.0)
# Nothing acknowledged for this long: the walk stops admitting.
STALLED_MS = 5_000

# Trouble of the machine, by SQLite's primary result codes (sqlite.org/rescode.html): anything else is our bug.
_MACHINE_TROUBLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
}


class LedgerRefused(HouseError):
    """The database refused a row that the book had admitted; the wallet is frozen."""

    def __init__(self) -> None:
        super().__init__("unavailable", "The ledger refused this request; nothing was charged.", retry_after_s=2)


@dataclass(slots=True)
class _Hot:
    row: Row
    done: asyncio.Future[None] | None


@dataclass(slots=True)
class _Rare:
    job: Callable[[LedgerWriter], Any]
    done: asyncio.Future[Any]


class Writer:
    """Start it on the loop; `submit` and `run` belong to the loop, the thread does the rest.

    `on_refused(wallet_id)` is called on the loop.
    """

    def __init__(
        self, conn: sqlite3.Connection, boot_id: int, clock: Clock, on_refused: Callable[[int], None] = lambda wallet_id: None
    ) -> None:
        self._conn = conn
        self._ledger = LedgerWriter(conn, boot_id)
        self._clock = clock
        self._on_refused = on_refused
        self._queue: SimpleQueue[_Hot | _Rare | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._pending = 0
        self._moved_ms = clock.now_ms()
        self._trouble: str | None = None
        self._closing = threading.Event()
        self._gave_up = False
        self._closed = False
        self._rows_since_checkpoint = 0
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    # ── on the loop ──────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, row: Row) -> None:
        """Queue a row of which nobody waits to hear."""
        self._put(_Hot(row, None))

    def submit_acknowledged(self, row: Row) -> asyncio.Future[None]:
        """Queue a row; the future is done once it is on disk, or carries LedgerRefused."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._put(_Hot(row, done))
        return done

    async def run(self, job: Callable[[LedgerWriter], T]) -> T:
        """Run `job` alone in a transaction of its own, after everything queued before; its exception is raised here.

        Trouble of the machine is raised as HouseError; the job may or may not be tried again by the caller.
        """
        done: asyncio.Future[T] = self._loop.create_future()
        self._put(_Rare(job, done))
        return await done

    @property
    def accepting(self) -> bool:
        """False while commits fail or none came back for 5 s: nothing new may be admitted then."""
        return self._trouble is None and self.lag_ms <= STALLED_MS

    @property
    def idle(self) -> bool:
        return self._pending == 0

    @property
    def pending(self) -> int:
        """Rows and jobs that were queued and not yet reported back."""
        return self._pending

    @property
    def lag_ms(self) -> int:
        """For how long nothing came back although something is queued."""
        return self._clock.now_ms() - self._moved_ms if self._pending else 0

    async def close(self, *, limit_s: float = 10.0) -> None:
        """Write what is queued and stop. What still fails after `limit_s` is given up with an alarm (recovery will void it)."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, limit_s)
        self._closing.set()
        await asyncio.to_thread(self._thread.join, limit_s)
        if not self._thread.is_alive():
            self._conn.close()

    def _put(self, job: _Hot | _Rare) -> None:
        if self._closed:
            raise HouseError("unavailable", "The gateway is shutting down.", retry_after_s=2)
        if not self._pending:
            self._moved_ms = self._clock.now_ms()
        self._pending += 1
        self._queue.put(job)

    def _finish(self, finished: list[tuple[asyncio.Future[Any], Any, BaseException | None]], count: int) -> None:
        self._pending -= count
        self._moved_ms = self._clock.now_ms()
        for done, result, error in finished:
            if done.cancelled():
                continue
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)
                done.exception()  # mark as seen: whoever waits still gets it, who stopped waiting need not

    # ── in the thread ────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        batch_rows = 0
        while True:
            jobs = self._gather(window=batch_rows >= WINDOW_FROM_ROWS)
            batch_rows = len(jobs)
            hot: list[_Hot] = []
            stop = False
            for job in jobs:
                if job is None:
                    stop = True
                elif type(job) is _Hot:
                    hot.append(job)
                elif type(job) is _Rare:
                    self._write(hot)
                    hot = []
                    self._run_rare(job)
            self._write(hot)
            if stop:
                self._checkpoint("truncate")
                return
            if self._rows_since_checkpoint >= CHECKPOINT_ROWS or (not jobs and self._rows_since_checkpoint):
                self._checkpoint("passive")

    def _gather(self, *, window: bool) -> list[_Hot | _Rare | None]:
        """The next batch: at least one job, or none after an idle second."""
        try:
            jobs = [self._queue.get(timeout=IDLE_S)]
        except Empty:
            return []
        if window:
            time.sleep(COMMIT_WINDOW_S)
        while len(jobs) < BATCH_ROWS_MAX:
            try:
                jobs.append(self._queue.get_nowait())
            except Empty:
                break
        return jobs

    def _write(self, jobs: Sequence[_Hot]) -> None:
        if not jobs:
            return
        if self._gave_up:  # what follows may build on rows that are not there
            self._give_up(jobs)
            return
        try:
            self._commit(jobs)
        except Exception as error:
            if is_machine_trouble(error):
                self._give_up(jobs)
            elif len(jobs) == 1:
                self._refuse(jobs[0], error)
            else:
                logger.error("a batch of %d rows was refused (%s); replaying row by row", len(jobs), error)
                counters["writer_replays"] += 1
                for job in jobs:
                    self._write([job])
            return
        self._rows_since_checkpoint += len(jobs)
        metrics.writer_batch_rows.observe(len(jobs))
        self._report([(job.done, None, None) for job in jobs if job.done is not None], len(jobs))

    def _commit(self, jobs: Sequence[_Hot]) -> None:
        """One transaction; repeated for as long as the machine is in trouble. Raises what is our own bug, or at shutdown."""
        tries = 0
        while True:
            begun_ns = time.perf_counter_ns()
            try:
                self._begin()
                self._ledger.write([job.row for job in jobs])
                self._conn.execute("commit")
                metrics.writer_commit_us.observe((time.perf_counter_ns() - begun_ns) // 1000)
            except BaseException as error:
                self._roll_back()
                if not is_machine_trouble(error):
                    raise
                if self._trouble is None:
                    alarm("writer", f"commits fail ({error}); refusing new requests until they succeed")
                self._trouble = str(error)
                if self._closing.wait(RETRY_S[min(tries, len(RETRY_S) - 1)]):
                    raise
                tries += 1
            else:
                if self._trouble is not None:
                    logger.warning("commits succeed again")
                self._trouble = None
                return

    def _run_rare(self, job: _Rare) -> None:
        result: Any = None
        failure: BaseException | None = None
        changes = self._conn.total_changes
        try:
            self._begin()
            result = job.job(self._ledger)
            self._conn.execute("commit")
            self._rows_since_checkpoint += self._conn.total_changes - changes
        except BaseException as error:
            self._roll_back()
            failure = error
            if is_machine_trouble(error):
                failure = HouseError("unavailable", f"the database cannot be written: {error}; check the disk and try again")
        self._report([(job.done, result, failure)], 1)

    def _begin(self) -> None:
        if self._conn.in_transaction:  # a rollback failed; until it succeeds nothing can begin
            self._conn.execute("rollback")
        self._conn.execute("begin immediate")

    def _roll_back(self) -> None:
        try:
            if self._conn.in_transaction:
                self._conn.execute("rollback")
        except sqlite3.Error as error:
            logger.warning("rollback failed, and is tried again before the next transaction: %s", error)
        self._ledger.forget()

    def _refuse(self, job: _Hot, error: BaseException) -> None:
        row = job.row
        if isinstance(row, ProgressRow):
            alarm("ledger", f"progress of {row.request_id} was refused: {error}")
        else:
            wallet_id = row.wallet_id if isinstance(row, HoldRow | HoldChangeRow) else row.resolution.wallet_id
            alarm("ledger", f"{type(row).__name__} of wallet {wallet_id} was refused: {error}; the wallet is frozen")
            self._loop.call_soon_threadsafe(self._on_refused, wallet_id)
        self._report([(job.done, None, LedgerRefused())] if job.done is not None else [], 1)

    def _give_up(self, jobs: Sequence[_Hot]) -> None:
        """The machine's trouble outlived the shutdown's patience: nobody's wallet is to blame, recovery will void the holds."""
        self._gave_up = True
        alarm("writer", f"giving up {len(jobs)} queued rows at shutdown: {self._trouble}")
        error = HouseError("unavailable", "The ledger could not be written before the shutdown.", retry_after_s=2)
        self._report([(job.done, None, error) for job in jobs if job.done is not None], len(jobs))

    def _report(self, finished: list[tuple[asyncio.Future[Any], Any, BaseException | None]], count: int) -> None:
        self._loop.call_soon_threadsafe(self._finish, finished, count)

    def _checkpoint(self, mode: str) -> None:
        try:
            self._conn.execute(f"pragma wal_checkpoint({mode})")
        except sqlite3.Error as error:
            logger.warning("checkpoint failed: %s", error)
        self._rows_since_checkpoint = 0


def is_machine_trouble(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, sqlite3.Error) and code is not None and code & 0xFF in _MACHINE_TROUBLE
