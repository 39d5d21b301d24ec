"""Admin keys at rest: SQL only. A secret never comes here, only its hash and the hint that people are shown."""

from __future__ import annotations

import sqlite3
from typing import Any

from gateway.admins import AdminKey


def insert_admin_key(conn: sqlite3.Connection, name: str, secret_hash: bytes, hint: str, created_by: str, at_ms: int) -> AdminKey:
    key_id = conn.execute(
        """
        insert into admin_keys (name, hash, hint, created_by, created_at_ms)
        values (?, ?, ?, ?, ?)
        returning id
        """,
        (name, secret_hash, hint, created_by, at_ms),
    ).fetchone()[0]
    return AdminKey(int(key_id), name, hint)


def load_live_admin_keys(conn: sqlite3.Connection) -> list[tuple[bytes, AdminKey]]:
    rows = conn.execute("select hash, id, name, hint from admin_keys where revoked_at_ms is null").fetchall()
    return [(row[0], AdminKey(*row[1:])) for row in rows]


def find_admin_key(conn: sqlite3.Connection, key_id: int) -> tuple[bytes, AdminKey, int | None] | None:
    """(hash, key, when it was revoked)."""
    row = conn.execute("select hash, id, name, hint, revoked_at_ms from admin_keys where id = ?", (key_id,)).fetchone()
    return None if row is None else (row[0], AdminKey(*row[1:4]), row[4])


def list_admin_keys(conn: sqlite3.Connection) -> list[dict[str, Any]]:
    columns = ("id", "name", "hint", "created_by", "created_at_ms", "revoked_at_ms")
    rows = conn.execute("select id, name, hint, created_by, created_at_ms, revoked_at_ms from admin_keys order by id")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def revoke_admin_key(conn: sqlite3.Connection, key_id: int, at_ms: int) -> bool:
    """False if it was revoked before."""
    return (
        conn.execute("update admin_keys set revoked_at_ms = ? where id = ? and revoked_at_ms is null", (at_ms, key_id)).rowcount
        == 1
    )
