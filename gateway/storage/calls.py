"""Looking up what happened: one request with all that is known of it. SQL only.

Plain functions on a reader's connection (or the writer's, inside a job). Whose a request is, the caller asks: every row carries
`wallet_id`, `user_id` and `key_id`. Attempts and details are pruned after a while; what the ledger keeps is there for ever.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Any

import aiosqlite

from gateway.storage.ledger import request_reference


def find_other_upstream(conn: sqlite3.Connection, names: Collection[str]) -> str | None:
    """The name of an upstream that has served, and is none of these; the first one that is found."""
    marks = ", ".join("?" * len(names))
    row = conn.execute(f"select upstream from usage where upstream not in ({marks}) limit 1", tuple(names)).fetchone()  # noqa: S608 (question marks)
    return None if row is None else str(row[0])


def find_usage(conn: sqlite3.Connection, request_id: int) -> dict[str, Any] | None:
    """One request: its hold (`state` open, settled or void; `reason` if void), its usage row and the `terms` that priced it
    (None unless settled), what was refunded of it, its detail (None if pruned), and `attempts`, a list of dicts in order. None
    if there is no such hold.
    """
    rows = _dicts(conn.execute(_REQUEST, _asked(request_id)))
    if not rows:
        return None
    return {**rows[0], "attempts": _dicts(conn.execute(_ATTEMPTS, (request_id,)))}


def find_trail(conn: sqlite3.Connection, request_id: int) -> dict[str, Any]:
    """What a request moved: its hold (`held_nanos` when it was opened, `raised_nanos` in `raises` steps since), and `transfers`,
    a list of dicts in the order of the ledger: what was charged for it, and what was given back."""
    held, raises, raised = conn.execute(_HOLD, (request_id,)).fetchone()
    transfers = _dicts(conn.execute(_TRANSFERS, {"text": request_reference(request_id)}))
    return {"held_nanos": held, "raises": raises, "raised_nanos": raised, "transfers": transfers}


async def fetch_usage(reader: aiosqlite.Connection, request_id: int) -> dict[str, Any] | None:
    """As `find_usage`, for coroutines. Its two statements may straddle a settle: a running request has no figures either way."""
    rows = await reader.execute_fetchall(_REQUEST, _asked(request_id))
    attempts = await reader.execute_fetchall(_ATTEMPTS, (request_id,))
    return next(({**row, "attempts": [dict(attempt) for attempt in attempts]} for row in map(dict, rows)), None)


async def fetch_request_by_upstream_id(reader: aiosqlite.Connection, upstream_request_id: str, user_id: int) -> int | None:
    """As `find_request_by_upstream_id`, for coroutines."""
    if not upstream_request_id:
        return None
    asked = {"theirs": upstream_request_id, "user": user_id}
    return next((row[0] for row in await reader.execute_fetchall(_BY_UPSTREAM_ID, asked)), None)


def find_request_by_upstream_id(conn: sqlite3.Connection, upstream_request_id: str, user_id: int | None = None) -> int | None:
    """The latest request (of this user, if one is given) of which an attempt was answered under this id of the provider's."""
    if not upstream_request_id:
        return None
    row = conn.execute(_BY_UPSTREAM_ID, {"theirs": upstream_request_id, "user": user_id}).fetchone()
    return None if row[0] is None else int(row[0])


_REQUEST = """
    select
      h.id as request_id, h.wallet_id, h.key_id, h.model, h.state, h.reason, h.opened_at_ms, h.resolved_at_ms,
      a.user_id, p.name as user_name, k.name as key_name, k.hint as key_hint,
      u.upstream, u.upstream_model, u.input_tokens, u.output_tokens, u.cache_write_5m_tokens, u.cache_write_1h_tokens,
      u.cache_read_tokens, u.web_searches, u.speed, u.geography, u.service_tier,
      u.cost_nanos, u.paid_nanos, u.source, u.flags,
      r.terms,
      (select coalesce(sum(t.amount_nanos), 0) from transfers as t
       where t.kind = 'refund' and t.reference > :text || ':' and t.reference < :text || ';') as refunded_nanos,
      d.stream, d.status, d.session, d.agent, d.address, d.admitted_ms, d.first_byte_ms, d.total_ms
    from holds as h
    join accounts as a on a.id = h.wallet_id
    join users as p on p.id = a.user_id
    join keys as k on k.id = h.key_id
    left join usage as u on u.request_id = h.id
    left join prices as r on r.id = u.price_id
    left join request_details as d on d.request_id = h.id
    where h.id = :id
"""

_ATTEMPTS = """
    select number, upstream, upstream_model, status, reason, started_at_ms, duration_ms, cost_nanos, upstream_request_id
    from attempts
    where request_id = ?
    order by number
"""


_HOLD = """
    select h.amount_nanos, count(c.hold_id), coalesce(sum(c.delta_nanos), 0)
    from holds as h left join hold_changes as c on c.hold_id = h.id
    where h.id = ?
"""

# An overrun is part of the price that the wallet could not pay; what is collected later names another request.
_TRANSFERS = """
    select id, at_ms, kind, amount_nanos from transfers where kind in ('settle', 'overrun') and reference = :text
    union all
    select id, at_ms, kind, amount_nanos from transfers
    where kind = 'refund' and reference > :text || ':' and reference < :text || ';'
    order by id
"""


# `<> ''` is what lets SQLite use the partial index.
_BY_UPSTREAM_ID = """
    select max(t.request_id)
    from attempts as t
    join holds as h on h.id = t.request_id
    join accounts as a on a.id = h.wallet_id
    where t.upstream_request_id = :theirs and t.upstream_request_id <> ''
      and (:user is null or a.user_id = :user)
"""


def _asked(request_id: int) -> dict[str, Any]:
    return {"id": request_id, "text": request_reference(request_id)}


def _dicts(cursor: sqlite3.Cursor) -> list[dict[str, Any]]:
    columns = [column[0] for column in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
