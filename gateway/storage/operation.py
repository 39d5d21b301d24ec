"""What an operator sees first, beside the sums of reports.py: refunds, failures, latest requests, who needs attention. SQL only.

Every question is bounded by what it shows or by a day of requests, and goes through an index: requests' ids are in order of time.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from gateway.storage.ledger import REVENUE

Rows = list[dict[str, Any]]


def refunds(conn: sqlite3.Connection, since_ms: int) -> tuple[int, int]:
    """(how many, nanos) since then. Refunds alone are taken from revenue, so the index by debit account has them together."""
    count, nanos = conn.execute(
        """
        select count(*), coalesce(sum(amount_nanos), 0) from transfers indexed by transfers_by_debit
        where debit_account = ? and kind = 'refund' and at_ms >= ?
        """,
        (REVENUE, since_ms),
    ).fetchone()
    return count, nanos


def latest_requests(conn: sqlite3.Connection, limit: int) -> Rows:
    """Everybody's, running ones and those that came to nothing too, the latest first."""
    return _rows(
        conn,
        """
        select h.id as request_id, h.opened_at_ms, h.state, h.reason, h.model,
          p.id as user_id, p.name as user_name, k.name as key_name, u.upstream, u.source, u.cost_nanos, d.total_ms,
          (select a.reason from attempts as a where a.request_id = h.id order by a.number desc limit 1) as ending
        from (select * from holds order by id desc limit ?) as h
        join accounts as a on a.id = h.wallet_id
        join users as p on p.id = a.user_id
        join keys as k on k.id = h.key_id
        left join usage as u on u.request_id = h.id
        left join request_details as d on d.request_id = h.id
        order by h.id desc
        """,
        (limit,),
    )


def failures(conn: sqlite3.Connection, above_id: int) -> Rows:
    """Attempts at upstreams that failed, by cause (without what a provider added to it), the most frequent first."""
    return _rows(
        conn,
        """
        select case instr(reason, ':') when 0 then reason else substr(reason, 1, instr(reason, ':') - 1) end as cause,
          count(*) as attempts, count(distinct request_id) as requests, group_concat(distinct upstream) as upstreams
        from attempts where request_id >= ? and reason <> 'ok'
        group by 1
        order by 2 desc, 1
        """,
        (above_id,),
    )


def uncharged(conn: sqlite3.Connection, above_id: int) -> tuple[int, int]:
    """(requests that held money, those of them that came to nothing and were not charged)."""
    held, void = conn.execute(
        "select count(*), coalesce(sum(state = 'void'), 0) from holds where id >= ?", (above_id,)
    ).fetchone()
    return held, void


def wallets_in_need(conn: sqlite3.Connection, low_balance_nanos: int, limit: int) -> tuple[Rows, int]:
    """At most `limit` wallets that are frozen, owe, or have fallen below their threshold after use, the most urgent first; and
    how many there are in all. `low_balance_nanos` is the threshold of users without one of their own; 0 is none."""
    rows = _rows(
        conn,
        """
        select p.id as user_id, p.name as user_name, p.disabled, a.balance_nanos, a.held_nanos, a.owed_nanos, a.frozen,
          coalesce(p.low_balance_nanos, :low) as low_balance_nanos, count(*) over () as total
        from accounts as a join users as p on p.id = a.user_id
        where a.frozen = 1 or a.owed_nanos > 0 or (
          a.balance_nanos < coalesce(p.low_balance_nanos, :low) and p.disabled = 0
          and exists (select 1 from usage where usage.wallet_id = a.id)
        )
        order by a.frozen desc, a.owed_nanos desc, a.balance_nanos, a.id
        limit :limit
        """,
        {"low": low_balance_nanos, "limit": limit},
    )
    return rows, rows[0]["total"] if rows else 0


def last_checkpoint(conn: sqlite3.Connection) -> tuple[int, int] | None:
    """(when, up to which transfer) the books were last proved clean."""
    row = conn.execute("select at_ms, transfer_id from checkpoints order by transfer_id desc limit 1").fetchone()
    return None if row is None else (row[0], row[1])


def _rows(conn: sqlite3.Connection, sql: str, parameters: Any) -> Rows:
    cursor = conn.execute(sql, parameters)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
