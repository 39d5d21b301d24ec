"""People: SQL only. Plain functions, to be composed into a writer's transaction or called on a reader."""

from __future__ import annotations

import sqlite3
from typing import Any

_COLUMNS = ("id", "name", "email", "role", "disabled", "created_at_ms")
_SELECT = "select id, name, email, role, disabled, created_at_ms from users"


def insert_user(conn: sqlite3.Connection, name: str, email: str | None, role: str, at_ms: int) -> int:
    return int(
        conn.execute(
            "insert into users (name, email, role, created_at_ms) values (?, ?, ?, ?) returning id", (name, email, role, at_ms)
        ).fetchone()[0]
    )


def any_user(conn: sqlite3.Connection) -> bool:
    return conn.execute("select 1 from users limit 1").fetchone() is not None


def find_user(conn: sqlite3.Connection, name: str) -> dict[str, Any] | None:
    row = conn.execute(f"{_SELECT} where name = ?", (name,)).fetchone()
    return None if row is None else _user(row)


def find_user_by_email(conn: sqlite3.Connection, email: str) -> dict[str, Any] | None:
    row = conn.execute(f"{_SELECT} where email = ?", (email,)).fetchone()
    return None if row is None else _user(row)


def list_users(conn: sqlite3.Connection) -> list[dict[str, Any]]:
    """Every user with the state of the wallet."""
    rows = conn.execute(
        """
        select u.id, u.name, u.email, u.role, u.disabled, u.created_at_ms, a.balance_nanos, a.held_nanos
        from users as u join accounts as a on a.user_id = u.id
        order by u.id
        """
    ).fetchall()
    return [{**_user(row[:6]), "balance_nanos": row[6], "held_nanos": row[7]} for row in rows]


def set_disabled(conn: sqlite3.Connection, user_id: int, disabled: bool) -> None:
    conn.execute("update users set disabled = ? where id = ?", (int(disabled), user_id))


def _user(row: tuple[Any, ...]) -> dict[str, Any]:
    user = dict(zip(_COLUMNS, row, strict=True))
    user["disabled"] = bool(user["disabled"])
    return user
