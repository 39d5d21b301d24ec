"""Pruning of detail: attempts, request details and sums by session. Ledger, usage and the other roll-ups stay for ever.

Deleted in slices, each a job of the writer that commits in between. What is not rolled up yet is never pruned: reports still
read it.
"""

from __future__ import annotations

import sqlite3

from gateway.ids import lowest_id
from gateway.storage.rollups import DAY_MS, mark

# Requests per job of the writer (measured; bench/README.md). The index of the providers' ids, in no order, is most of it.
SLICE_ROWS = 500


def detail_from_ms(conn: sqlite3.Connection) -> int:
    """What was settled from then on has its detail; 0 if none was ever pruned."""
    return int(conn.execute("select detail_from_ms from rollup_mark").fetchone()[0])


def start_pruning(conn: sqlite3.Connection, before_ms: int) -> None:
    """From now on nobody counts on the detail of what was settled before."""
    conn.execute("update rollup_mark set detail_from_ms = max(detail_from_ms, ?)", (before_ms,))


def prune_detail(conn: sqlite3.Connection, before_ms: int, rows: int = SLICE_ROWS) -> bool:
    """Delete attempts and details of at most `rows` requests that were settled before; whether there is more.

    An id tells when a request began; none runs for more than a day.
    """
    end = min(lowest_id(max(0, before_ms - DAY_MS)) - 1, mark(conn))
    last = conn.execute(
        """
        select min(id) from (
          select * from (select request_id as id from request_details where request_id <= :end order by 1 limit 1 offset :rows)
          union all
          select * from (select request_id from attempts where request_id <= :end order by 1 limit 1 offset :rows * 3)
        )
        """,
        {"end": end, "rows": rows - 1},
    ).fetchone()[0]
    high = end if last is None else last
    for table in ("attempts", "request_details"):
        conn.execute(f"delete from {table} where request_id <= ?", (high,))
    return high < end


def prune_sessions(conn: sqlite3.Connection, before_ms: int, rows: int = 4 * SLICE_ROWS) -> bool:
    """Delete at most `rows` sums by session of hours before; whether there is more."""
    key = "hour_at_ms, wallet_id, key_id, model, session, agent"
    last = conn.execute(
        f"select {key} from usage_sessions where hour_at_ms < ? order by {key} limit 1 offset ?", (before_ms, rows - 1)
    ).fetchone()
    if last is None:
        conn.execute("delete from usage_sessions where hour_at_ms < ?", (before_ms,))
        return False
    conn.execute(f"delete from usage_sessions where ({key}) <= (?, ?, ?, ?, ?, ?)", last)
    return True
