"""People as lists for administrators have them: found by words, with their wallets and what they spent lately. SQL only.

Only what stands on the page is summed: twenty thousand users are a scan of names, never one of what they used.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from gateway.storage.rollups import DAY_MS

# Of a user or their wallet; "" is everybody.
State = Literal["", "active", "disabled", "frozen", "owed", "admin"]

_IN_STATE: dict[State, str] = {
    "": "1",
    "active": "u.disabled = 0 and a.frozen = 0",
    "disabled": "u.disabled = 1",
    "frozen": "a.frozen = 1",
    "owed": "a.owed_nanos > 0",
    "admin": "u.role = 'admin'",
}
_COLUMNS = ("id", "name", "email", "role", "plan", "disabled", "wallet_id", "balance_nanos", "held_nanos", "owed_nanos", "frozen")


def list_people(conn: sqlite3.Connection, *, words: str, state: State, after_id: int, limit: int) -> list[dict[str, Any]]:
    """In the order of their names, from behind one user on (0: from the first); `words` stand somewhere in name or address."""
    rows = conn.execute(
        f"""
        select u.id, u.name, u.email, u.role, u.plan, u.disabled, a.id, a.balance_nanos, a.held_nanos, a.owed_nanos, a.frozen
        from users as u cross join accounts as a on a.user_id = u.id
        where {"(lower(u.name), u.id) > (select lower(name), id from users where id = :after)" if after_id else ":after = 0"}
          and (:words = '' or instr(lower(u.name), :words) or instr(coalesce(u.email, ''), :words))
          and {_IN_STATE[state]}
        order by lower(u.name), u.id
        limit :limit
        """,  # noqa: S608 (our own words)
        {"after": after_id, "words": words.lower(), "limit": limit},
    ).fetchall()
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]


def count_people(conn: sqlite3.Connection) -> int:
    return int(conn.execute("select count(*) from users").fetchone()[0])


def spent_nanos(conn: sqlite3.Connection, wallet_ids: Sequence[int], days: Iterable[int]) -> dict[int, dict[int, int]]:
    """wallet → key → what its requests of these UTC days (their beginnings, an unbroken row up to today) cost."""
    days = list(days)
    rows = conn.execute(
        """
        select wallet_id, key_id, sum(cost_nanos) from (
          select r.wallet_id, r.key_id, r.cost_nanos
          from json_each(:wallets) as w cross join json_each(:days) as d
          cross join usage_days as r on r.day_at_ms = d.value and r.wallet_id = w.value
          union all
          select u.wallet_id, u.key_id, u.cost_nanos
          from json_each(:wallets) as w cross join usage as u on u.wallet_id = w.value
            and u.request_id > (select request_id from rollup_mark)
          where u.at_ms >= :start and u.at_ms < :end
        )
        group by wallet_id, key_id
        """,
        {"wallets": json.dumps(list(wallet_ids)), "days": json.dumps(days), "start": days[0], "end": days[-1] + DAY_MS},
    ).fetchall()
    found: dict[int, dict[int, int]] = {wallet_id: {} for wallet_id in wallet_ids}
    for wallet_id, key_id, nanos in rows:
        found[wallet_id][key_id] = nanos
    return found


def last_used(conn: sqlite3.Connection, column: Literal["wallet_id", "key_id"], ids: Iterable[int]) -> dict[int, int]:
    """When the latest charged request of each was settled; whoever has none is not in it."""
    rows = conn.execute(
        f"""
        select i.value, (select at_ms from usage where {column} = i.value order by request_id desc limit 1)
        from json_each(?) as i
        """,  # noqa: S608 (our own column names)
        (json.dumps(list(ids)),),
    ).fetchall()
    return {row[0]: row[1] for row in rows if row[1] is not None}


def latest_requests(conn: sqlite3.Connection, wallet_id: int, limit: int) -> list[dict[str, Any]]:
    """The latest charged requests of a wallet, newest first; `status` is None once the detail is pruned."""
    rows = conn.execute(
        """
        select u.request_id, u.at_ms, u.model, k.name, u.cost_nanos, u.source, d.status
        from usage as u
        cross join keys as k on k.id = u.key_id
        left join request_details as d on d.request_id = u.request_id
        where u.wallet_id = ?
        order by u.request_id desc
        limit ?
        """,
        (wallet_id, limit),
    ).fetchall()
    columns = ("request_id", "at_ms", "model", "key_name", "cost_nanos", "source", "status")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def latest_movements(conn: sqlite3.Connection, wallet_id: int, limit: int) -> list[dict[str, Any]]:
    """What was put in, given back or taken out of a wallet, newest first; charges, which are many, left out."""
    rows = conn.execute(
        """
        select id, at_ms, kind, amount_nanos, reference, note from (
          select id, at_ms, kind, amount_nanos, reference, note from transfers
          where credit_account = :wallet and kind in ('deposit', 'promo', 'refund')
          union all
          -- By their kind: these are few, and all that a wallet ever paid is much (hence the "+").
          select id, at_ms, kind, -amount_nanos, reference, note from transfers
          where +debit_account = :wallet and kind in ('withdraw', 'promo_reversed', 'overrun_collected')
        )
        order by id desc
        limit :limit
        """,
        {"wallet": wallet_id, "limit": limit},
    ).fetchall()
    columns = ("transfer_id", "at_ms", "kind", "amount_nanos", "reference", "note")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def count_running(conn: sqlite3.Connection, wallet_id: int) -> int:
    """Requests that hold money now."""
    return int(conn.execute("select count(*) from holds where wallet_id = ? and state = 'open'", (wallet_id,)).fetchone()[0])
