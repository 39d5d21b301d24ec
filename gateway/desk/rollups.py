"""The upkeep of reports, as the house does it by itself: roll up, prove, prune. Slices on the writer, with room in between.

A request id is rolled up some minutes after it was given: by then nearly every request has ended, and the few that run longer are
added when they do (`storage.rollups`).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing

from gateway.desk.desk import Desk
from gateway.metrics import alarm
from gateway.storage import database, retention, rollups
from gateway.storage.ledger import LedgerWriter
from gateway.storage.recovery import highest_request_id

logger = logging.getLogger(__name__)

LAG_MS = 5 * 60_000
# A slice keeps the writer for some milliseconds; four times as long it is everybody else's.
REST = 4
PAUSE_S = 0.01


class RollUp:
    """Run it every minute: it remembers how far ids had come, by running time; the wall clock has no say."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int]] = deque()  # (now_ms, highest id then)

    async def run(self, desk: Desk) -> None:
        now_ms = desk.clock.now_ms()
        highest = await desk.writer.run(lambda ledger: highest_request_id(ledger.conn))
        self._seen.append((now_ms, highest))
        until_id = None
        while self._seen and self._seen[0][0] <= now_ms - LAG_MS:
            _, until_id = self._seen.popleft()
        if until_id is not None:
            await in_slices(desk, lambda ledger: ledger.roll_up(until_id))


async def prove_rollups(desk: Desk) -> None:
    """Compare the roll-ups with usage; where they differ it is our bug: it rings, and they are put right."""

    def work() -> list[rollups.Difference]:
        with closing(database.open_reader(desk.database)) as conn:
            return rollups.differences(conn, lambda: time.sleep(PAUSE_S))

    for difference in await asyncio.to_thread(work):
        day = time.strftime("%Y-%m-%d", time.gmtime(difference.day_at_ms // 1000))
        groups = len({*difference.hours, *difference.days})
        alarm("rollups", f"the roll-ups of {day} were not what usage says, in {groups} groups; they are put right")
        await desk.writer.run(functools.partial(_mend, difference))


async def prune(desk: Desk, retention_days: int) -> None:
    """Delete detail that is older than so many whole days; 0 keeps all."""
    if not retention_days:
        return
    today_ms = desk.clock.at_ms() - desk.clock.at_ms() % rollups.DAY_MS
    before_ms = max(0, today_ms - retention_days * rollups.DAY_MS)
    await desk.writer.run(lambda ledger: retention.start_pruning(ledger.conn, before_ms))
    await in_slices(desk, lambda ledger: retention.prune_detail(ledger.conn, before_ms))
    await in_slices(desk, lambda ledger: retention.prune_sessions(ledger.conn, before_ms))


async def in_slices(desk: Desk, job: Callable[[LedgerWriter], bool]) -> None:
    """Run the job on the writer until it says that nothing is left."""
    while True:
        took_s, more = await desk.writer.run(functools.partial(_timed, job))
        if not more:
            return
        await asyncio.sleep(REST * took_s)


def _timed(job: Callable[[LedgerWriter], bool], ledger: LedgerWriter) -> tuple[float, bool]:
    started = time.perf_counter()
    more = job(ledger)
    return time.perf_counter() - started, more


def _mend(difference: rollups.Difference, ledger: LedgerWriter) -> None:
    rollups.mend(ledger.conn, difference)
