"""Who did what: one append-only row per administrative act, in the same transaction as the act. No secrets."""

from __future__ import annotations

import json
import sqlite3
from typing import Any


def record(
    conn: sqlite3.Connection,
    at_ms: int,
    actor: str,
    action: str,
    subject: str,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    conn.execute(
        "insert into audit_log (at_ms, actor, action, subject, before, after) values (?, ?, ?, ?, ?, ?)",
        (at_ms, actor, action, subject, *(None if value is None else json.dumps(value) for value in (before, after))),
    )
