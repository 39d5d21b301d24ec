"""Pruning of detail: attempts, request details and sums by session. Ledger, usage and the other roll-ups stay for ever.

Deleted in slices, each a job of the writer that commits in between. What is not rolled up yet is never pruned: reports still
read it.
"""

from __future__ import annotations

import sqlite3

import orjson

from gateway.ids import lowest_id
from gateway.storage.rollups import mark

# Requests per job of the writer (measured; bench/README.md). The index of the providers' ids, in no order, is most of it.
SLICE_ROWS = 250


def detail_from_ms(conn: sqlite3.Connection) -> int:
    """What was settled from then on has its detail; 0 if none was ever pruned."""
    return int(conn.execute("select detail_from_ms from rollup_mark").fetchone()[0])


def start_pruning(conn: sqlite3.Connection, before_ms: int) -> None:
    """From now on nobody counts on the detail of what was settled before."""
    conn.execute("update rollup_mark set detail_from_ms = max(detail_from_ms, ?)", (before_ms,))


def prune_detail(conn: sqlite3.Connection, before_ms: int, rows: int = SLICE_ROWS) -> bool:
    """Delete attempts and details of at most `rows` requests that were settled before; whether there is more.

    They are looked for by their ids, which tell when they began; one that ran over the limit, or whose clock jumped, stays.
    """
    found = conn.execute(
        """
        select d.request_id from request_details as d left join usage as u on u.request_id = d.request_id
        where d.request_id <= ? and (u.at_ms is null or u.at_ms < ?)
        order by d.request_id
        limit ?
        """,
        (min(lowest_id(before_ms) - 1, mark(conn)), before_ms, rows),
    ).fetchall()
    ids = orjson.dumps([row[0] for row in found]).decode()
    for table in ("attempts", "request_details"):
        conn.execute(f"delete from {table} where request_id in (select value from json_each(?))", (ids,))
    return len(found) == rows


def prune_sessions(conn: sqlite3.Connection, before_ms: int, rows: int = 8 * SLICE_ROWS) -> bool:
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
