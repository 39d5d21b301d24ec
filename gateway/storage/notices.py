"""Below which balance a user is told of, and whose a wallet is. SQL only."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import aiosqlite
import orjson


def set_low_balance(conn: sqlite3.Connection, user_id: int, nanos: int | None) -> int | None:
    """None is as configured, 0 never; returns what it was."""
    (before,) = conn.execute("select low_balance_nanos from users where id = ?", (user_id,)).fetchone()
    conn.execute("update users set low_balance_nanos = ? where id = ?", (nanos, user_id))
    return None if before is None else int(before)


async def fetch_low_balances(reader: aiosqlite.Connection) -> dict[int, int]:
    """Nanos by wallet id, of those users who have a threshold of their own."""
    rows = await reader.execute_fetchall(
        """
        select a.id, u.low_balance_nanos
        from users as u join accounts as a on a.user_id = u.id
        where u.low_balance_nanos is not null
        """
    )
    return {row[0]: row[1] for row in rows}


async def fetch_owners(reader: aiosqlite.Connection, wallet_ids: Sequence[int]) -> dict[int, str]:
    """Users' names by wallet id."""
    rows = await reader.execute_fetchall(
        """
        select a.id, u.name
        from json_each(?) as asked
        join accounts as a on a.id = asked.value
        join users as u on u.id = a.user_id
        """,
        (orjson.dumps(wallet_ids).decode(),),
    )
    return {row[0]: row[1] for row in rows}
