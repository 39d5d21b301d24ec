"""Keys at rest: SQL only. A secret never comes here, only its hash and the hint that people are shown."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from gateway.access import Key

_SELECT = """
    select k.id, k.user_id, u.name, a.id, k.name, k.hint, k.rpm, k.models, k.expires_at_ms, k.revoked_at_ms,
      k.hash, k.created_at_ms, k.rotated_from, u.disabled
    from keys as k join users as u on u.id = k.user_id join accounts as a on a.user_id = u.id
"""


def insert_key(
    conn: sqlite3.Connection,
    *,
    user_id: int,
    name: str,
    secret_hash: bytes,
    hint: str,
    rpm: int,
    models: frozenset[str] | None,
    expires_at_ms: int | None,
    rotated_from: int | None,
    at_ms: int,
) -> int:
    return int(
        conn.execute(
            """
            insert into keys (user_id, name, hash, hint, rpm, models, expires_at_ms, rotated_from, created_at_ms)
            values (?, ?, ?, ?, ?, ?, ?, ?, ?)
            returning id
            """,
            (
                *(user_id, name, secret_hash, hint, rpm),
                *(None if models is None else json.dumps(sorted(models)), expires_at_ms, rotated_from, at_ms),
            ),
        ).fetchone()[0]
    )


def load_live_keys(conn: sqlite3.Connection, at_ms: int) -> list[tuple[bytes, Key]]:
    """Every key that is not revoked and whose user is not disabled, with its hash; expired ones too, to say so."""
    rows = conn.execute(
        f"{_SELECT} where u.disabled = 0 and (k.revoked_at_ms is null or k.revoked_at_ms > ?)", (at_ms,)
    ).fetchall()
    return [(row[10], _key(row)) for row in rows]


def load_user_keys(conn: sqlite3.Connection, user_id: int, at_ms: int) -> list[tuple[bytes, Key]]:
    """As `load_live_keys`, for one user."""
    return [(secret_hash, key) for secret_hash, key in load_live_keys(conn, at_ms) if key.user_id == user_id]


def has_key_named(conn: sqlite3.Connection, user_id: int, name: str) -> bool:
    """Whether the user ever had a key of this name, a dead one too."""
    return conn.execute("select 1 from keys where user_id = ? and name = ?", (user_id, name)).fetchone() is not None


def find_key(conn: sqlite3.Connection, key_id: int) -> tuple[bytes, Key] | None:
    row = conn.execute(f"{_SELECT} where k.id = ?", (key_id,)).fetchone()
    return None if row is None else (row[10], _key(row))


def list_keys(conn: sqlite3.Connection, user_id: int) -> list[dict[str, Any]]:
    rows = conn.execute(f"{_SELECT} where k.user_id = ? order by k.id", (user_id,)).fetchall()
    return [
        {
            "id": row[0],
            "name": row[4],
            "hint": row[5],
            "rpm": row[6],
            "models": None if row[7] is None else json.loads(row[7]),
            "expires_at_ms": row[8],
            "revoked_at_ms": row[9],
            "created_at_ms": row[11],
            "rotated_from": row[12],
        }
        for row in rows
    ]


def revoke_key(conn: sqlite3.Connection, key_id: int, at_ms: int) -> bool:
    """Dead from `at_ms` on; false if it was to die earlier already."""
    return (
        conn.execute(
            "update keys set revoked_at_ms = ? where id = ? and (revoked_at_ms is null or revoked_at_ms > ?)",
            (at_ms, key_id, at_ms),
        ).rowcount
        == 1
    )


def _key(row: tuple[Any, ...]) -> Key:
    models = None if row[7] is None else frozenset(json.loads(row[7]))
    key_id, user_id, user_name, wallet_id, name, hint, rpm = row[:7]
    return Key(key_id, user_id, user_name, wallet_id, name, hint, rpm, models, row[8], row[9])
