"""How much the database holds, told without counting a large table. SQL only."""

from __future__ import annotations

import sqlite3


def table_sizes(conn: sqlite3.Connection) -> dict[str, int]:
    """Rows by what they are. Ids of transfers and of audit rows have no gaps; charged requests are summed up to the roll-ups'
    mark and counted above it, by one statement, as the mark moves; the others are few."""
    (charged,) = conn.execute(
        """
        select (select coalesce(sum(requests), 0) from usage_days)
          + (select count(*) from usage where request_id > (select request_id from rollup_mark))
        """
    ).fetchone()
    (transfers,) = conn.execute("select coalesce(max(id), 0) from transfers").fetchone()
    (audit_rows,) = conn.execute("select coalesce(max(id), 0) from audit_log").fetchone()
    few = conn.execute(
        "select (select count(*) from users), (select count(*) from keys), (select count(*) from vouchers),"
        " (select count(*) from sessions)"
    ).fetchone()
    return {
        "charged requests": charged,
        "transfers": transfers,
        "audit rows": audit_rows,
        **dict(zip(("users", "keys", "vouchers", "sessions"), few, strict=True)),
    }


def free_bytes(conn: sqlite3.Connection) -> int:
    """Inside the file: pages that are used again before it grows."""
    (pages,), (page_bytes,) = conn.execute("pragma freelist_count").fetchone(), conn.execute("pragma page_size").fetchone()
    return int(pages * page_bytes)


def last_act(conn: sqlite3.Connection, action: str) -> tuple[int, str, str] | None:
    """(when, by whom, of what) this was last done, as the audit log has it."""
    row = conn.execute(
        "select at_ms, actor, subject from audit_log where action = ? order by id desc limit 1", (action,)
    ).fetchone()
    return None if row is None else (row[0], row[1], row[2])
