"""Sessions at rest: SQL only. A token never comes here, only its hash."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from gateway.sessions import IDLE_MS, Session

_SELECT = """
    select s.hash, s.id, s.user_id, u.name, u.role, t.enabled_at_ms is not null, s.created_at_ms, s.seen_at_ms, s.expires_at_ms,
      s.address, s.agent
    from sessions as s join users as u on u.id = s.user_id left join totp as t on t.user_id = s.user_id
"""


def insert_session(
    conn: sqlite3.Connection, user_id: int, secret_hash: bytes, at_ms: int, expires_at_ms: int, address: str, agent: str
) -> Session:
    conn.execute(
        """
        insert into sessions (user_id, hash, created_at_ms, seen_at_ms, expires_at_ms, address, agent)
        values (?, ?, ?, ?, ?, ?, ?)
        """,
        (user_id, secret_hash, at_ms, at_ms, expires_at_ms, address, agent),
    )
    return _session(conn.execute(f"{_SELECT} where s.hash = ?", (secret_hash,)).fetchone())


def end_oldest(conn: sqlite3.Connection, user_id: int, keep_id: int, most: int) -> list[int]:
    """Leave `most` sessions of a user, that one among them; ids of those that were seen longest ago and are no more."""
    rows = conn.execute(
        """
        delete from sessions where id in (
          select id from sessions where user_id = ? and id <> ? order by seen_at_ms desc, id desc limit -1 offset ?
        )
        returning id
        """,
        (user_id, keep_id, most - 1),
    ).fetchall()
    return [row[0] for row in rows]


def has_session(conn: sqlite3.Connection, session_id: int, user_id: int) -> bool:
    return conn.execute("select 1 from sessions where id = ? and user_id = ?", (session_id, user_id)).fetchone() is not None


def load_sessions(conn: sqlite3.Connection, at_ms: int) -> list[tuple[bytes, Session]]:
    """Those that have not ended, with their hashes."""
    rows = conn.execute(
        f"{_SELECT} where u.disabled = 0 and s.expires_at_ms > ? and s.seen_at_ms > ?", (at_ms, at_ms - IDLE_MS)
    ).fetchall()
    return [(row[0], _session(row)) for row in rows]


def delete_sessions(conn: sqlite3.Connection, session_ids: Iterable[int]) -> None:
    conn.execute("delete from sessions where id in (select value from json_each(?))", (json.dumps(list(session_ids)),))


def delete_user_sessions(conn: sqlite3.Connection, user_id: int, *, but: int = 0) -> list[int]:
    """All of a user, or all but one; their ids."""
    return [row[0] for row in conn.execute("delete from sessions where user_id = ? and id <> ? returning id", (user_id, but))]


def delete_dead(conn: sqlite3.Connection, at_ms: int) -> None:
    """Those that have ended, also while nobody was here to see it."""
    conn.execute("delete from sessions where expires_at_ms <= ? or seen_at_ms <= ?", (at_ms, at_ms - IDLE_MS))


def write_seen(conn: sqlite3.Connection, seen: Iterable[tuple[int, int]]) -> None:
    """(id, seen at) of each."""
    conn.executemany("update sessions set seen_at_ms = ? where id = ?", [(at_ms, session_id) for session_id, at_ms in seen])


def _session(row: tuple[object, ...]) -> Session:
    _, session_id, user_id, name, role, totp, *rest = row
    return Session(session_id, user_id, name, role, bool(totp), *rest)  # type: ignore[arg-type]
