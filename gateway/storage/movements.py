"""What moved a wallet's balance, as its owner's statement needs it. SQL only; plain functions on a reader's connection.

    charges, by day      usage_days and, above the mark, usage: a million of them cost no more than a few (storage/rollups.py)
    everything else      transfers: what came in by the wallet's own index; what went out otherwise by its kind, as it is rare
    a day, one by one    transfers, between the ids to which the day's times lead

A day is that of the transfer. Usage says what was charged because a settle and its usage row are one (invariant 4 of the audit).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.storage.rollups import DAY_MS

# Transfers are numbered in the order of their times, unless the clock was set back: by up to this they are found all the same.
_CLOCK_SLACK_MS = 3_600_000

# What a movement is, beyond the ledger's kind: credit that is given away has a reason.
_WHAT = """case when kind <> 'promo' then kind when reference glob 'voucher:[0-9]*' then 'voucher'
      when reference glob 'invite:[0-9]*' then 'invite' else 'promo' end"""
_IN = f"""
    select id, at_ms, {_WHAT} as what, amount_nanos, reference, note from transfers indexed by transfers_by_credit
    where credit_account = :wallet and kind in ('deposit', 'promo', 'refund')
"""
_OUT = """
    select id, at_ms, kind as what, -amount_nanos as amount_nanos, reference, note from transfers indexed by transfers_by_debit
    where debit_account = :wallet
"""
# (All of the house's: hence the "+", or every charge of the wallet would be looked at.)
_OUT_BUT_CHARGES = """
    select id, at_ms, kind as what, -amount_nanos as amount_nanos, reference, note from transfers indexed by transfers_once
    where kind in ('withdraw', 'promo_reversed', 'overrun_collected') and +debit_account = :wallet
"""


@dataclass(frozen=True, slots=True)
class DayOfCharges:
    """`cost_nanos` is more than what was paid where requests ran beyond the money."""

    day_at_ms: int
    requests: int
    paid_nanos: int
    cost_nanos: int


@dataclass(frozen=True, slots=True)
class Movement:
    """One transfer. `amount_nanos` is what it added to the balance, below zero for what it took."""

    id: int
    at_ms: int
    what: str
    amount_nanos: int
    reference: str
    note: str


def sum_charges(conn: sqlite3.Connection, wallet_id: int) -> list[DayOfCharges]:
    """All that there ever were, by day, the earliest first."""
    rows = conn.execute(
        f"""
        with recursive days (day_at_ms) as (
          -- From one day that there is to the next, so that each is one search for the wallet.
          select min(day_at_ms) from usage_days
          union all
          select (select min(d.day_at_ms) from usage_days as d where d.day_at_ms > days.day_at_ms)
          from days where days.day_at_ms is not null
        )
        select day_at_ms, sum(requests), sum(paid_nanos), sum(cost_nanos)
        from (
          select r.day_at_ms, r.requests, r.paid_nanos, r.cost_nanos
          from days cross join usage_days as r on r.day_at_ms = days.day_at_ms and r.wallet_id = :wallet
          union all
          select at_ms - at_ms % {DAY_MS}, 1, paid_nanos, cost_nanos from usage
          where wallet_id = :wallet and request_id > (select request_id from rollup_mark)
        )
        group by 1 order by 1
        """,
        {"wallet": wallet_id},
    ).fetchall()
    return [DayOfCharges(*row) for row in rows]


def sum_movements(conn: sqlite3.Connection, wallet_id: int, start_ms: int, end_ms: int) -> list[tuple[int, str, int, int]]:
    """(−1 before `start_ms`, 0, 1 from `end_ms` on; what; how many; nanos) of everything but charges."""
    return conn.execute(
        f"""
        select (at_ms >= :end) - (at_ms < :start), what, count(*), sum(amount_nanos)
        from ({_IN} union all {_OUT_BUT_CHARGES})
        group by 1, 2
        """,
        {"wallet": wallet_id, "start": start_ms, "end": end_ms},
    ).fetchall()


def list_movements(conn: sqlite3.Connection, wallet_id: int, start_ms: int, end_ms: int) -> list[Movement]:
    """Everything but charges between two times, the latest first."""
    rows = conn.execute(
        f"""
        select id, at_ms, what, amount_nanos, reference, note from ({_IN} union all {_OUT_BUT_CHARGES})
        where at_ms >= :start and at_ms < :end
        order by at_ms desc, id desc
        """,
        {"wallet": wallet_id, "start": start_ms, "end": end_ms},
    ).fetchall()
    return [Movement(*row) for row in rows]


def list_day(conn: sqlite3.Connection, wallet_id: int, day_at_ms: int, *, before: int | None, limit: int) -> list[Movement]:
    """The latest of one day below an id, charges and all."""
    bounds = _bounds(conn, wallet_id, day_at_ms)
    if before is not None:
        bounds["high"] = min(before, bounds["high"])
    rows = conn.execute(f"{_of_day()} order by 1 desc limit :limit", {**bounds, "limit": limit}).fetchall()
    return [Movement(*row) for row in rows]


def above(conn: sqlite3.Connection, wallet_id: int, day_at_ms: int, transfer_id: int, page: int) -> tuple[int, int | None]:
    """What the transfers of one day from an id on add to the balance; and the id below which the `page` before those is found
    (None: they are the first page of the day)."""
    bounds = _bounds(conn, wallet_id, day_at_ms)
    bounds["low"] = max(transfer_id, bounds["low"])
    nanos = conn.execute(f"select coalesce(sum(amount_nanos), 0) from ({_of_day()})", bounds).fetchone()[0]
    newer = conn.execute(f"{_of_day()} order by 1 limit 1 offset :page", {**bounds, "page": page}).fetchone()
    return int(nanos), None if newer is None else int(newer[0])


def describe_charges(conn: sqlite3.Connection, request_ids: Iterable[int]) -> dict[int, dict[str, Any]]:
    """What each of these requests was."""
    rows = conn.execute(
        """
        select u.request_id, u.model, k.name, u.source, u.cost_nanos - u.paid_nanos
        from usage as u join keys as k on k.id = u.key_id
        where u.request_id in (select value from json_each(?))
        """,
        (orjson.dumps(list(request_ids)).decode(),),
    ).fetchall()
    return {row[0]: dict(zip(("model", "key_name", "source", "overrun_nanos"), row[1:], strict=True)) for row in rows}


def list_held(conn: sqlite3.Connection, wallet_id: int, limit: int) -> tuple[list[dict[str, Any]], int, int]:
    """The latest of the wallet's open holds; how many there are, and what they hold together."""
    names = ("request_id", "model", "key_name", "opened_at_ms", "amount_nanos")
    held = """
        select h.id, h.model, k.name, h.opened_at_ms, h.amount_nanos
          + (select coalesce(sum(c.delta_nanos), 0) from hold_changes as c where c.hold_id = h.id) as held_nanos
        from holds as h join keys as k on k.id = h.key_id
        where h.wallet_id = ? and h.state = 'open'
    """
    rows = conn.execute(f"{held} order by h.id desc limit ?", (wallet_id, limit)).fetchall()
    count, nanos = conn.execute(f"select count(*), coalesce(sum(held_nanos), 0) from ({held})", (wallet_id,)).fetchone()
    return [dict(zip(names, row, strict=True)) for row in rows], count, nanos


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_day() -> str:
    """Both arms in the order of their index, so that a page reads no more than it shows."""
    within = "and id >= :low and id < :high and at_ms >= :start and at_ms < :end"
    return f"{_OUT} {within} union all {_IN} {within}"


def _bounds(conn: sqlite3.Connection, wallet_id: int, day_at_ms: int) -> dict[str, int]:
    end_ms = day_at_ms + DAY_MS
    low = _first_id(conn, day_at_ms - _CLOCK_SLACK_MS)
    return {"wallet": wallet_id, "start": day_at_ms, "end": end_ms, "low": low, "high": _first_id(conn, end_ms + _CLOCK_SLACK_MS)}


def _first_id(conn: sqlite3.Connection, at_ms: int) -> int:
    """Of the first transfer from that time on. Ids have no gaps (invariant 5), so it is found by halving."""
    low, high = 1, int(conn.execute("select coalesce(max(id), 0) + 1 from transfers").fetchone()[0])
    while low < high:
        middle = (low + high) // 2
        row = conn.execute("select at_ms from transfers where id = ?", (middle,)).fetchone()
        if row is not None and row[0] < at_ms:
            low = middle + 1
        else:
            high = middle
    return low
