"""How the house goes, for the operator: what it earned, what failed, who needs attention. Reads only.

    revenue − refunded − upstream cost = margin

Revenue is what wallets paid for requests (`settle`), by the time of the settle; refunded is what went back to them, by the time
of the refund, and is what `pagegrid usage report` does not take off. Upstream cost is what the attempts of those requests cost
at list price. What wallets could not pay (`overrun`) is no revenue; it is told beside.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gateway import metrics
from gateway.ids import lowest_id, render_id
from gateway.storage import operation, reports
from gateway.storage.readonly import snapshot
from gateway.storage.reports import Range
from gateway.storage.rollups import DAY_MS, HOUR_MS

LATEST = 10
NEEDY_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Earned:
    """Of one stretch of time, in nanos. `unknown` requests have no attempt on record, so what they cost is not in `upstream`."""

    requests: int
    revenue_nanos: int
    refunds: int
    refunded_nanos: int
    upstream_nanos: int
    unknown: int
    overrun_nanos: int

    @property
    def margin_nanos(self) -> int:
        return self.revenue_nanos - self.refunded_nanos - self.upstream_nanos


@dataclass(frozen=True, slots=True)
class Books:
    """What the database tells of the house, all of one moment."""

    today: Earned
    month: Earned
    latest: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    requests_24h: int
    uncharged_24h: int
    needy: list[dict[str, Any]]
    needy_total: int
    checkpoint: tuple[int, int] | None


def read_books(conn: sqlite3.Connection, at_ms: int, low_balance_nanos: int) -> Books:
    """`low_balance_nanos` is that of the configuration."""
    day_ms = at_ms - at_ms % DAY_MS
    month_ms = int(datetime.fromtimestamp(at_ms / 1000, UTC).replace(day=1).timestamp() * 1000)
    month_ms -= month_ms % DAY_MS
    day_ago_id = lowest_id(at_ms - DAY_MS)
    with snapshot(conn):
        today, month = earned(conn, day_ms, at_ms), earned(conn, month_ms, at_ms)
        held, void = operation.uncharged(conn, day_ago_id)
        needy, needy_total = operation.wallets_in_need(conn, low_balance_nanos, NEEDY_SHOWN)
        return Books(
            today=today,
            month=month,
            latest=[{**row, "id": render_id(row["request_id"])} for row in operation.latest_requests(conn, LATEST)],
            failures=operation.failures(conn, day_ago_id),
            requests_24h=held,
            uncharged_24h=void,
            needy=needy,
            needy_total=needy_total,
            checkpoint=operation.last_checkpoint(conn),
        )


def earned(conn: sqlite3.Connection, start_ms: int, at_ms: int) -> Earned:
    """From `start_ms`, the beginning of an hour, until now."""
    asked = Range(start_ms, at_ms - at_ms % HOUR_MS + HOUR_MS)
    _, total = reports.sum_usage(conn, asked, ("day",), limit=0, upstream=True)
    count, refunded = operation.refunds(conn, start_ms)
    return Earned(
        requests=total["requests"],
        revenue_nanos=total["paid_nanos"],
        refunds=count,
        refunded_nanos=refunded,
        upstream_nanos=total["upstream_nanos"],
        unknown=total["upstream_unknown"],
        overrun_nanos=total["cost_nanos"] - total["paid_nanos"],
    )


def broken_invariants() -> int:
    """How many the last audit found, that since the last checkpoint or the whole one: a later whole one counts over both."""
    whole, recent = (metrics.audits.get(scope, (0, 0)) for scope in ("whole", "recent"))
    return whole[1] if whole[0] >= recent[0] else max(whole[1], recent[1])
