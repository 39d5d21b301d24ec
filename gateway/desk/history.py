"""What keys used before this start, read before a limit that asks for it is in force.

A limit per day, per month or in all counts what is in the database beside what this process counted. Whatever was settled before
this start never changes, so it may be read at any time. It is read before an act commits: after the commit memory must follow at
once.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing

from gateway.access import Plan
from gateway.desk.checks import get_user
from gateway.desk.desk import Desk
from gateway.limits import Spent
from gateway.storage import database, spending

# (first key of the chain, its days, nanos ever)
History = tuple[int, list[Spent], int]


async def load_history(desk: Desk, *, key_id: int | None = None, user: str | None = None) -> None:
    """Of one key (one that does not exist has none), or of all living keys of a user. Raises ClientError for an unknown user."""
    at_ms = desk.clock.at_ms()

    def find(conn: sqlite3.Connection) -> list[int]:
        user_id = None if user is None else get_user(conn, user)["id"]
        return spending.find_roots(conn, at_ms, key_id=key_id, user_id=user_id)

    await _load(desk, at_ms, find)


async def load_history_under(desk: Desk, plans: Mapping[str, Plan]) -> None:
    """Of all keys that these plans would limit by day, month or in all."""
    keys = [desk.keys.completed(key, plans) for key in desk.keys]
    limited = {key.root_id for key in keys if key.terms.need_history}
    if not all(map(desk.limits.is_loaded, limited)):
        await _load(desk, desk.clock.at_ms(), lambda conn: limited)


async def _load(desk: Desk, at_ms: int, find: Callable[[sqlite3.Connection], Iterable[int]]) -> None:
    """Of the keys that `find` names, those that are not loaded yet."""

    def read() -> list[History]:
        with closing(database.open_reader(desk.database)) as conn:
            missing = [root_id for root_id in find(conn) if not desk.limits.is_loaded(root_id)]
            return read_history(conn, missing, desk.booted_above_id, at_ms)

    for history in await asyncio.to_thread(read):
        desk.limits.load(*history)


def read_history(conn: sqlite3.Connection, root_ids: Iterable[int], until_id: int, at_ms: int) -> list[History]:
    """`until_id` is the last request before this start."""
    return [
        (
            root_id,
            spending.load_spent(conn, root_id, until_id, at_ms),
            spending.load_spent_ever(conn, root_id, until_id),
        )
        for root_id in root_ids
    ]
