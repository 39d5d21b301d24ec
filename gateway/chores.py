"""What the house does by itself, beside requests: watch streams, look for forgotten holds, prove the books.

twice a second    how late the event loop is
every second      each open stream looks at what no event would tell it
                  what became of upstreams is written
every 5 seconds   whose balance fell below its threshold
every minute      sessions of the pages: who was seen, which have ended
                  a sign of life is left
                  a hold that no running request owns is resolved as a crash's would be, and rings: it is our bug
                  usage is rolled up
every hour        audit since the last checkpoint
                  detail past its retention is pruned (by whole days, so mostly nothing)
every day         the whole audit; the roll-ups are compared with usage
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from gateway import metrics
from gateway.desk.desk import Desk
from gateway.desk.ledger import run_audit
from gateway.desk.rollups import RollUp, prove_rollups, prune
from gateway.desk.signin import keep_sessions
from gateway.errors import HouseError
from gateway.ids import render_id
from gateway.metrics import alarm, loop_lag_ms
from gateway.notices import LOOK_EVERY_S, Notifier
from gateway.proxy.walk import Walk
from gateway.storage import recovery
from gateway.storage.ledger import LedgerWriter
from gateway.storage.rows import ResolutionRow

logger = logging.getLogger(__name__)

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
LAG_EVERY_S = 0.5


def start_chores(walk: Walk, desk: Desk, notifier: Notifier, retention_days: Callable[[], int]) -> list[asyncio.Task[None]]:
    """The tasks; the house cancels and awaits them when it closes."""
    rolling = RollUp()

    async def tick() -> None:
        watch_streams(walk)

    async def write_events() -> None:
        await desk.upstream_events.flush()

    async def keep_events() -> None:
        await desk.upstream_events.keep()

    async def watch() -> None:
        await resolve_forgotten_holds(walk, desk)

    async def roll_up() -> None:
        await rolling.run(desk)

    async def keep() -> None:
        await keep_sessions(desk)

    async def prune_detail() -> None:
        await prune(desk, retention_days())

    async def prove() -> None:
        await prove_rollups(desk)

    async def audit_recent() -> None:
        await run_audit(desk, "hourly", since_checkpoint=True)

    async def audit_whole() -> None:
        await run_audit(desk, "daily")

    chores: tuple[tuple[float, Callable[[], Awaitable[None]]], ...] = (
        (1, tick),
        (1, write_events),
        (LOOK_EVERY_S, notifier.look),
        (MINUTE_S, watch),
        (MINUTE_S, keep_events),
        (MINUTE_S, roll_up),
        (MINUTE_S, keep),
        (HOUR_S, audit_recent),
        # Not every day: a server that is restarted every night would never come to it.
        (HOUR_S, prune_detail),
        (DAY_S, audit_whole),
        (DAY_S, prove),
    )
    return [asyncio.create_task(_every(seconds, chore)) for seconds, chore in chores] + [asyncio.create_task(measure_loop_lag())]


async def measure_loop_lag() -> None:
    """How much later than asked for the loop gets here: what any request would have waited."""
    while True:
        asked_ns = time.monotonic_ns()
        await asyncio.sleep(LAG_EVERY_S)
        loop_lag_ms.observe(max(0, time.monotonic_ns() - asked_ns - int(LAG_EVERY_S * 10**9)) // 10**6)


def watch_streams(walk: Walk) -> None:
    now_ms = walk.clock.now_ms()
    for stream in list(walk.streams):
        try:
            stream.tick(now_ms)
        except Exception:
            logger.exception("a stream's tick failed")


async def resolve_forgotten_holds(walk: Walk, desk: Desk) -> None:
    """Within a boot every hold belongs to a running request, whose `finally` resolves it. Any other is our bug."""
    for hold in [hold for hold in walk.book.open_holds() if hold.id not in walk.running]:
        # FIFO: when this answers, whatever the hold still had in the queue is written.
        row = await desk.writer.run(functools.partial(_find, hold.id))
        if hold.resolved or hold.id in walk.running:
            continue
        alarm("forgotten_hold", f"{render_id(hold.id)} was held by no running request")
        if row is None:
            walk.book.disown(hold)
        elif row.served is None:
            desk.writer.submit(replace(row, resolution=walk.book.void(hold), at_ms=desk.clock.at_ms()))
        else:
            resolution = walk.book.settle(hold, min(row.served.cost_nanos, hold.amount_nanos))
            desk.writer.submit(replace(row, resolution=resolution, at_ms=desk.clock.at_ms()))


def _find(hold_id: int, ledger: LedgerWriter) -> ResolutionRow | None:
    return recovery.find_open_hold(ledger.conn, hold_id)


async def _every(seconds: float, chore: Callable[[], Awaitable[None]]) -> None:
    metrics.chores[chore.__name__] = (seconds, None, True)
    while True:
        await asyncio.sleep(seconds)
        try:
            await chore()
        except HouseError as error:
            # A disk in trouble: told once, or a chore of every second would fill the log, which may lie on that disk.
            if metrics.chores[chore.__name__][2]:
                logger.error("a chore failed (%s): %s; it is tried every %d s", chore.__name__, error, seconds)
            metrics.chore_ran(chore.__name__, seconds, well=False)
        except Exception:
            logger.exception("a chore failed; it runs again in %d s", seconds)
            metrics.chore_ran(chore.__name__, seconds, well=False)
        else:
            metrics.chore_ran(chore.__name__, seconds, well=True)
