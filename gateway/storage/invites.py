"""Invites at rest: SQL only. A token never comes here, only its hash. Which are alive is said in one place, `_ALIVE`."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

_ALIVE = "used_at_ms is null and revoked_at_ms is null and expires_at_ms > :at_ms"
_COLUMNS = (
    *("id", "credit_nanos", "plan", "email", "note", "created_by", "created_at_ms", "expires_at_ms", "revoked_at_ms"),
    *("used_by", "used_at_ms"),
)
_SELECT = f"""
    select {", ".join(f"i.{column}" for column in _COLUMNS)}, u.name
    from invites as i left join users as u on u.id = i.used_by
"""  # noqa: S608 (our own column names)


@dataclass(frozen=True, slots=True)
class Invite:
    """What it grants. `email` is None unless the operator named whom it is for."""

    id: int
    credit_nanos: int
    plan: str
    email: str | None


def insert_invite(
    conn: sqlite3.Connection, secret_hash: bytes, terms: Invite, note: str, created_by: str, at_ms: int, expires_at_ms: int
) -> int:
    """`terms.id` is not read."""
    return int(
        conn.execute(
            """
            insert into invites (hash, credit_nanos, plan, email, note, created_by, created_at_ms, expires_at_ms)
            values (?, ?, ?, ?, ?, ?, ?, ?)
            returning id
            """,
            (secret_hash, terms.credit_nanos, terms.plan, terms.email, note, created_by, at_ms, expires_at_ms),
        ).fetchone()[0]
    )


def find_invite(conn: sqlite3.Connection, secret_hash: bytes, at_ms: int) -> Invite | None:
    """None if it is not to be used (any more)."""
    row = conn.execute(
        f"select id, credit_nanos, plan, email from invites where hash = :hash and {_ALIVE}",  # noqa: S608 (our own condition)
        {"hash": secret_hash, "at_ms": at_ms},
    ).fetchone()
    return None if row is None else Invite(*row)


def use_invite(conn: sqlite3.Connection, invite_id: int, user_id: int, at_ms: int) -> bool:
    return (
        conn.execute(
            f"update invites set used_by = :user_id, used_at_ms = :at_ms where id = :id and {_ALIVE}",  # noqa: S608
            {"id": invite_id, "user_id": user_id, "at_ms": at_ms},
        ).rowcount
        == 1
    )


def revoke_invite(conn: sqlite3.Connection, invite_id: int, at_ms: int) -> bool:
    """False if it was used or revoked before."""
    return (
        conn.execute(
            "update invites set revoked_at_ms = ? where id = ? and used_at_ms is null and revoked_at_ms is null",
            (at_ms, invite_id),
        ).rowcount
        == 1
    )


def list_invites(conn: sqlite3.Connection) -> list[dict[str, Any]]:
    return [_told(row) for row in conn.execute(f"{_SELECT} order by i.id").fetchall()]


def get_invite(conn: sqlite3.Connection, invite_id: int) -> dict[str, Any] | None:
    row = conn.execute(f"{_SELECT} where i.id = ?", (invite_id,)).fetchone()
    return None if row is None else _told(row)


def _told(row: tuple[Any, ...]) -> dict[str, Any]:
    """`used_by` is told by name."""
    return {**dict(zip(_COLUMNS, row[:-1], strict=True)), "used_by": row[-1]}
