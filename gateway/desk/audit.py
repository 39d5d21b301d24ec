"""The audit log as people read it: who did what, about whom, and what changed. It is append-only; nothing here writes to it.

(Whether the books balance is `statements.audit_house` and `audit_file`.)
"""

from __future__ import annotations

import sqlite3
from typing import Any

from gateway.desk.checks import check_count, parse_day_ms, parse_time_ms, refused
from gateway.storage import audit_log
from gateway.storage.readonly import snapshot
from gateway.storage.rollups import DAY_MS

ENTRIES_DEFAULT = 50
ENTRIES_MAX = 1000
# SQLite's integers end here.
_ID_MAX = 2**63 - 1


def list_audit(
    conn: sqlite3.Connection,
    *,
    actor: str | None = None,
    action: str | None = None,
    subject: str | None = None,
    since: str | None = None,
    day: str | None = None,
    before: int | None = None,
    limit: int = ENTRIES_DEFAULT,
) -> dict[str, Any]:
    """Entries from the newest on. `next_before`, given as `before`, leads to older ones; None if there are none.

    `actor` is whole or its first word ("admin-key:3"), `action` whole or its noun ("wallets"), `subject` whole ("user:ada");
    `since` is a day (UTC) or a time, `day` one day (UTC) alone.
    """
    check_count(limit, "limit", ENTRIES_MAX)
    if before is not None and not 1 <= before <= _ID_MAX:
        raise refused("before: it is the next_before of an earlier answer", "before")
    since_ms = None if since is None else parse_time_ms(since, "since")
    until_ms = None
    if day is not None:
        day_ms = parse_day_ms(day, "day")
        since_ms, until_ms = max(since_ms or day_ms, day_ms), day_ms + DAY_MS
    with snapshot(conn):
        # One more than asked for tells whether there are older ones.
        entries = audit_log.list_entries(
            conn,
            before_id=before or _ID_MAX,
            since_ms=since_ms,
            until_ms=until_ms,
            actor=actor,
            action=action,
            subject=subject,
            limit=limit + 1,
        )
    more = len(entries) > limit
    return {"entries": entries[:limit], "next_before": entries[limit - 1]["id"] if more else None}
