"""What people prove who they are with: passwords, authenticator apps, recovery codes, one-time links. SQL only.

Whatever works once is used by an update that says so itself: who comes second changes no row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Account:
    """Who signs in. `password_hash` is None for who has no password."""

    user_id: int
    name: str
    email: str | None
    role: str
    disabled: bool
    password_hash: str | None
    totp: bool

    def __repr__(self) -> str:
        return f"Account({self.name!r})"


_SELECT = """
    select u.id, u.name, u.email, u.role, u.disabled, p.hash, t.enabled_at_ms is not null
    from users as u left join passwords as p on p.user_id = u.id left join totp as t on t.user_id = u.id
"""


def find_account(conn: sqlite3.Connection, text: str) -> Account | None:
    """By name or address, in whatever letters; no name is another's address."""
    return _account(conn.execute(f"{_SELECT} where lower(u.name) = :text or u.email = :text", {"text": text.lower()}).fetchone())


def get_account(conn: sqlite3.Connection, user_id: int) -> Account:
    account = _account(conn.execute(f"{_SELECT} where u.id = ?", (user_id,)).fetchone())
    assert account is not None, "no user is ever deleted"
    return account


# ── passwords ────────────────────────────────────────────────────────────────────────────────────────────────────────


def set_password(conn: sqlite3.Connection, user_id: int, encoded: str, at_ms: int) -> bool:
    """Whether there was one before."""
    had = conn.execute("select 1 from passwords where user_id = ?", (user_id,)).fetchone() is not None
    conn.execute(
        """
        insert into passwords (user_id, hash, changed_at_ms) values (?, ?, ?)
        on conflict (user_id) do update set hash = excluded.hash, changed_at_ms = excluded.changed_at_ms
        """,
        (user_id, encoded, at_ms),
    )
    return had


def rehash_password(conn: sqlite3.Connection, user_id: int, before: str, encoded: str) -> None:
    """The same password by today's parameters, unless it was changed meanwhile."""
    conn.execute("update passwords set hash = ? where user_id = ? and hash = ?", (encoded, user_id, before))


# ── authenticator apps ───────────────────────────────────────────────────────────────────────────────────────────────


def propose_totp(conn: sqlite3.Connection, user_id: int, secret: bytes, at_ms: int) -> bool:
    """A secret that waits for its first code, in place of an earlier one that does; false if one is in force."""
    return (
        conn.execute(
            """
            insert into totp (user_id, secret, created_at_ms) values (?, ?, ?)
            on conflict (user_id) do update set secret = excluded.secret, created_at_ms = excluded.created_at_ms, last_step = 0
              where enabled_at_ms is null
            """,
            (user_id, secret, at_ms),
        ).rowcount
        == 1
    )


def find_totp(conn: sqlite3.Connection, user_id: int) -> tuple[bytes, int, bool] | None:
    """(secret, last step taken, whether it is in force)."""
    row = conn.execute("select secret, last_step, enabled_at_ms is not null from totp where user_id = ?", (user_id,)).fetchone()
    return None if row is None else (row[0], row[1], bool(row[2]))


def take_step(conn: sqlite3.Connection, user_id: int, step: int) -> bool:
    """False if this step, or a later one, was taken before."""
    return conn.execute("update totp set last_step = ? where user_id = ? and last_step < ?", (step, user_id, step)).rowcount == 1


def enable_totp(conn: sqlite3.Connection, user_id: int, at_ms: int) -> bool:
    """False if it was in force already."""
    return (
        conn.execute("update totp set enabled_at_ms = ? where user_id = ? and enabled_at_ms is null", (at_ms, user_id)).rowcount
        == 1
    )


def delete_totp(conn: sqlite3.Connection, user_id: int) -> bool:
    """With its recovery codes; false if none was in force."""
    conn.execute("delete from recovery_codes where user_id = ?", (user_id,))
    found = find_totp(conn, user_id)
    conn.execute("delete from totp where user_id = ?", (user_id,))
    return found is not None and found[2]


def replace_recovery_codes(conn: sqlite3.Connection, user_id: int, hashes: Iterable[bytes], at_ms: int) -> None:
    conn.execute("delete from recovery_codes where user_id = ?", (user_id,))
    conn.executemany(
        "insert into recovery_codes (user_id, hash, created_at_ms) values (?, ?, ?)",
        [(user_id, code_hash, at_ms) for code_hash in hashes],
    )


def use_recovery_code(conn: sqlite3.Connection, user_id: int, code_hash: bytes, at_ms: int) -> bool:
    return (
        conn.execute(
            "update recovery_codes set used_at_ms = ? where user_id = ? and hash = ? and used_at_ms is null",
            (at_ms, user_id, code_hash),
        ).rowcount
        == 1
    )


def count_recovery_codes(conn: sqlite3.Connection, user_id: int) -> int:
    """Those that are left."""
    return int(
        conn.execute("select count(*) from recovery_codes where user_id = ? and used_at_ms is null", (user_id,)).fetchone()[0]
    )


# ── one-time links ───────────────────────────────────────────────────────────────────────────────────────────────────


def insert_link(
    conn: sqlite3.Connection, user_id: int, secret_hash: bytes, created_by: str, at_ms: int, expires_at_ms: int
) -> None:
    """In place of those that are out."""
    end_links(conn, user_id, at_ms)
    conn.execute(
        "insert into sign_in_links (user_id, hash, created_by, created_at_ms, expires_at_ms) values (?, ?, ?, ?, ?)",
        (user_id, secret_hash, created_by, at_ms, expires_at_ms),
    )


def find_link(conn: sqlite3.Connection, secret_hash: bytes, at_ms: int) -> int | None:
    """Whose it is; None if it is not to be used (any more)."""
    row = conn.execute(
        """
        select user_id from sign_in_links
        where hash = ? and ended_at_ms is null and created_at_ms <= ? and expires_at_ms > ?
        """,
        (secret_hash, at_ms, at_ms),
    ).fetchone()
    return None if row is None else int(row[0])


def use_link(conn: sqlite3.Connection, secret_hash: bytes, at_ms: int) -> bool:
    return (
        conn.execute(
            """
            update sign_in_links set ended_at_ms = ?
            where hash = ? and ended_at_ms is null and created_at_ms <= ? and expires_at_ms > ?
            """,
            (at_ms, secret_hash, at_ms, at_ms),
        ).rowcount
        == 1
    )


def end_links(conn: sqlite3.Connection, user_id: int, at_ms: int) -> None:
    conn.execute("update sign_in_links set ended_at_ms = ? where user_id = ? and ended_at_ms is null", (at_ms, user_id))


def _account(row: tuple[object, ...] | None) -> Account | None:
    if row is None:
        return None
    user_id, name, email, role, disabled, password_hash, totp = row
    return Account(user_id, name, email, role, bool(disabled), password_hash, bool(totp))  # type: ignore[arg-type]
