"""What a user's overview asks beyond reports: what the cache was worth, the last top-up, and what runs. SQL only; plain functions
on a reader's connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.storage.reports import Range, sum_usage
from gateway.storage.rollups import DAY_MS, HOUR_MS


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Tokens that one price was asked for on one day; `terms` as the ledger interned them."""

    day_at_ms: int
    terms: str
    read_tokens: int
    write_5m_tokens: int
    write_1h_tokens: int


def sum_cache(conn: sqlite3.Connection, wallet_id: int, days: Sequence[int]) -> list[CacheUse]:
    """By day and price. Roll-ups know no prices: what is rolled up of a day, key and model is taken at the price of its first and
    last request; where those differ, each hour is taken at that of its last. What is not rolled up is exact."""
    rows = conn.execute(
        """
        with days as materialized (
          select r.*, opening.price_id as first_price_id, closing.price_id as last_price_id
          from json_each(:days) as t
          cross join usage_days as r on r.day_at_ms = t.value and r.wallet_id = :wallet
          cross join usage as opening on opening.request_id = r.first_request_id
          cross join usage as closing on closing.request_id = r.last_request_id
          where r.cache_read_tokens + r.cache_write_5m_tokens + r.cache_write_1h_tokens > 0
        )
        select day_at_ms, p.terms, sum(cache_read_tokens), sum(cache_write_5m_tokens), sum(cache_write_1h_tokens)
        from (
          select day_at_ms, last_price_id as price_id, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens
          from days where first_price_id = last_price_id
          union all
          select d.day_at_ms, u.price_id, h.cache_read_tokens, h.cache_write_5m_tokens, h.cache_write_1h_tokens
          from days as d
          cross join json_each(:hours) as t
          cross join usage_hours as h
            on h.hour_at_ms = d.day_at_ms + t.value and h.wallet_id = :wallet and h.key_id = d.key_id and h.model = d.model
          cross join usage as u on u.request_id = h.last_request_id
          where d.first_price_id <> d.last_price_id
          union all
          select u.at_ms - u.at_ms % :day, u.price_id, u.cache_read_tokens, u.cache_write_5m_tokens, u.cache_write_1h_tokens
          from usage as u
          where u.request_id > (select request_id from rollup_mark) and u.wallet_id = :wallet
            and u.at_ms >= :start and u.at_ms < :end
        )
        join prices as p on p.id = price_id
        group by 1, 2
        """,
        {
            "wallet": wallet_id,
            "days": orjson.dumps(list(days)).decode(),
            "hours": orjson.dumps(list(range(0, DAY_MS, HOUR_MS))).decode(),
            "day": DAY_MS,
            "start": days[0],
            "end": days[-1] + DAY_MS,
        },
    ).fetchall()
    return [CacheUse(*row) for row in rows]


def first_usage_at_ms(conn: sqlite3.Connection, wallet_id: int) -> int | None:
    """When the wallet's first request was settled; None if none was."""
    row = conn.execute("select at_ms from usage where wallet_id = ? order by request_id limit 1", (wallet_id,)).fetchone()
    return None if row is None else int(row[0])


def last_top_up(conn: sqlite3.Connection, wallet_id: int, now_ms: int) -> tuple[int, int] | None:
    """When money last came in, and the balance right after it: today's, without all that has moved since. None if none ever came.

    What was charged since is read from the roll-ups by whole hours, and from the ledger within the first one.
    """
    # (All three kinds are named where the index of credits has them: it is used only then.)
    found = conn.execute(
        """
        select id, at_ms from transfers indexed by transfers_by_credit
        where credit_account = ? and kind in ('deposit', 'promo', 'refund') and kind <> 'refund'
        order by id desc
        limit 1
        """,
        (wallet_id,),
    ).fetchone()
    if found is None:
        return None
    transfer_id, at_ms = found
    asked = {"wallet": wallet_id, "id": transfer_id, "hour_end": at_ms - at_ms % HOUR_MS + HOUR_MS}
    balance, early, others, refunds = conn.execute(
        """
        select
          (select balance_nanos from accounts where id = :wallet),
          (select coalesce(sum(amount_nanos), 0) from transfers indexed by transfers_by_debit
           where debit_account = :wallet and kind = 'settle' and id > :id and id < coalesce((
             select id from transfers indexed by transfers_by_debit
             where debit_account = :wallet and id > :id and at_ms >= :hour_end order by id limit 1
           ), 9223372036854775807)),
          (select coalesce(sum(amount_nanos), 0) from transfers indexed by transfers_once
           where kind in ('withdraw', 'promo_reversed', 'overrun_collected') and +debit_account = :wallet and id > :id),
          (select coalesce(sum(amount_nanos), 0) from transfers indexed by transfers_by_credit
           where credit_account = :wallet and kind in ('deposit', 'promo', 'refund') and kind = 'refund' and id > :id)
        """,
        asked,
    ).fetchone()
    later = 0
    if now_ms >= asked["hour_end"]:
        since = Range(asked["hour_end"], now_ms - now_ms % DAY_MS + 2 * DAY_MS, wallet_id)
        _, total = sum_usage(conn, since, ("model",), limit=0)
        later = total["paid_nanos"]
    return at_ms, balance + early + later + others - refunds


def list_running(conn: sqlite3.Connection, wallet_id: int, request_ids: Iterable[int]) -> list[dict[str, Any]]:
    """Of these requests those that the database knows: what they ask, for which key, since when; the latest first."""
    cursor = conn.execute(
        """
        select h.id as request_id, h.model, h.key_id, k.name as key_name, h.opened_at_ms
        from holds as h join keys as k on k.id = h.key_id
        where h.id in (select value from json_each(?)) and h.wallet_id = ?
        order by h.id desc
        """,
        (orjson.dumps(list(request_ids)).decode(), wallet_id),
    )
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
