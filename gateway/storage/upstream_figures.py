"""What came of the requests that were sent to each upstream in a time, from the detail of requests: attempts and their times.

Ids are in order of time, so this reads one stretch of each table and nothing else. Times are put into buckets of two figures, as
they are shown: the percentiles of a hundred thousand need no sorting.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.ids import lowest_id

# How an attempt may end without its provider having failed: well, or by the client's doing or ours.
_NOT_FAILED = "('ok', 'gone', 'client_gone', 'dry', 'too_long', 'shutdown', 'unbilled', 'internal', 'aborted')"


@dataclass(slots=True)
class Figures:
    """`first_byte` and `whole`: milliseconds → how many took about so long; streams, and all requests that were answered."""

    requests: int = 0
    failed: int = 0
    cost_nanos: int = 0
    first_byte: Counter[int] = field(default_factory=Counter)
    whole: Counter[int] = field(default_factory=Counter)

    def add(self, other: Figures) -> None:
        self.requests += other.requests
        self.failed += other.failed
        self.cost_nanos += other.cost_nanos
        self.first_byte.update(other.first_byte)
        self.whole.update(other.whole)


def percentile(counts: Mapping[int, int], share: float) -> int | None:
    """The value that this share of all is at or below; None of nothing."""
    left = share * sum(counts.values())
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return None


def read_figures(conn: sqlite3.Connection, since_ms: int, before_ms: int) -> dict[str, Figures]:
    """By upstream; of requests that began in that time and have ended."""
    found: dict[str, Figures] = {}
    rows: Iterable[tuple[str, int | None, int, int, int | None, int | None, int, int]] = conn.execute(
        f"""
        select upstream, stream, ok, count(*), {_bucket("duration_ms")}, {_bucket("total_ms")}, sum(failed), sum(cost_nanos)
        from (
          select a.upstream, d.stream, a.reason = 'ok' as ok, a.duration_ms, d.total_ms, a.cost_nanos,
            a.reason not in {_NOT_FAILED}
              and not coalesce(a.status in (400, 413, 422) or (a.status = 404 and a.reason <> 'model_not_found'), 0) as failed
          from attempts as a left join request_details as d on d.request_id = a.request_id
          where a.request_id >= ? and a.request_id < ?
        )
        group by upstream, stream, ok, 5, 6
        """,  # noqa: S608 (our own words)
        (lowest_id(since_ms), lowest_id(before_ms)),
    )
    for upstream, stream, ok, count, first_byte, whole, failed, cost in rows:
        figures = found.setdefault(upstream, Figures())
        figures.requests += count
        figures.failed += failed
        figures.cost_nanos += cost
        if ok and stream and first_byte is not None:
            figures.first_byte[first_byte] += count
        if ok and whole is not None:
            figures.whole[whole] += count
    return found


def _bucket(column: str) -> str:
    """Cut to two figures: 1,234 ms is 1,200 ms."""
    steps = " ".join(
        f"when {column} < {bound} then {column} / {bound // 100} * {bound // 100}" for bound in (10**3, 10**4, 10**5)
    )
    return f"case when {column} < 100 then {column} {steps} else {column} / 10000 * 10000 end"
