"""People: SQL only. Plain functions, to be composed into a writer's transaction or called on a reader."""

from __future__ import annotations

import sqlite3
from typing import Any

from gateway.access import DEFAULT_PLAN

_COLUMNS = ("id", "name", "email", "role", "disabled", "created_at_ms", "plan", "low_balance_nanos")
_SELECT = f"select {', '.join(_COLUMNS)} from users"  # noqa: S608 (our own column names)


def insert_user(conn: sqlite3.Connection, name: str, email: str | None, role: str, at_ms: int, plan: str = DEFAULT_PLAN) -> int:
    return int(
        conn.execute(
            "insert into users (name, email, role, plan, created_at_ms) values (?, ?, ?, ?, ?) returning id",
            (name, email, role, plan, at_ms),
        ).fetchone()[0]
    )


def any_user(conn: sqlite3.Connection) -> bool:
    return conn.execute("select 1 from users limit 1").fetchone() is not None


def get_user(conn: sqlite3.Connection, user_id: int) -> dict[str, Any]:
    """Raises LookupError if there is none of this id."""
    row = conn.execute(f"{_SELECT} where id = ?", (user_id,)).fetchone()
    if row is None:
        raise LookupError(user_id)
    return _user(row)


def find_user(conn: sqlite3.Connection, name: str) -> dict[str, Any] | None:
    row = conn.execute(f"{_SELECT} where name = ?", (name,)).fetchone()
    return None if row is None else _user(row)


def find_user_by_email(conn: sqlite3.Connection, email: str) -> dict[str, Any] | None:
    row = conn.execute(f"{_SELECT} where email = ?", (email,)).fetchone()
    return None if row is None else _user(row)


def find_namesakes(conn: sqlite3.Connection, name: str, email: str) -> list[dict[str, Any]]:
    """Whoever is called, in whatever letters, as one of these two, or has one of them as their address; both in small letters."""
    rows = conn.execute(
        f"{_SELECT} where lower(name) in (:name, :email) or email in (:name, :email) order by id", {"name": name, "email": email}
    ).fetchall()
    return [_user(row) for row in rows]


def list_users(conn: sqlite3.Connection) -> list[dict[str, Any]]:
    """Every user with the state of the wallet."""
    rows = conn.execute(
        """
        select u.id, u.name, u.email, u.role, u.disabled, u.created_at_ms, u.plan, u.low_balance_nanos,
          a.balance_nanos, a.held_nanos
        from users as u join accounts as a on a.user_id = u.id
        order by u.id
        """
    ).fetchall()
    return [{**_user(row[:8]), "balance_nanos": row[8], "held_nanos": row[9]} for row in rows]


def set_disabled(conn: sqlite3.Connection, user_id: int, disabled: bool) -> None:
    conn.execute("update users set disabled = ? where id = ?", (int(disabled), user_id))


def set_plan(conn: sqlite3.Connection, user_id: int, plan: str) -> None:
    conn.execute("update users set plan = ? where id = ?", (plan, user_id))


def count_by_plan(conn: sqlite3.Connection) -> dict[str, int]:
    return dict(conn.execute("select plan, count(*) from users group by plan order by plan").fetchall())


def _user(row: tuple[Any, ...]) -> dict[str, Any]:
    user = dict(zip(_COLUMNS, row, strict=True))
    user["disabled"] = bool(user["disabled"])
    return user
