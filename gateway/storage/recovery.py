"""What a crash left behind, put in order before the port opens.

An open hold of an older boot with a progress row is settled from it, never above what the hold durably reserved; without
one nothing was seen, so nothing is guessed: it is voided, reason `unknown`, for the operator to look at. One transaction,
and idempotent: a second start, or a crash in its middle, changes nothing more.
"""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass

from gateway.book import Resolution
from gateway.ids import render_id
from gateway.storage.ledger import LedgerWriter
from gateway.storage.rows import DetailRow, ResolutionRow, Served
from gateway.usage import Usage

logger = logging.getLogger(__name__)

_NOTHING_KNOWN = DetailRow(
    stream=False, status=0, session="", agent="", address="", admitted_ms=0, first_byte_ms=None, total_ms=0
)


@dataclass(frozen=True, slots=True)
class Recovered:
    """Request ids of what was settled and what was voided."""

    settled: tuple[int, ...]
    unknown: tuple[int, ...]


def start_boot(conn: sqlite3.Connection, at_ms: int, version: str) -> int:
    """A new life of the process; every hold opened from now on carries its id."""
    return int(
        conn.execute(
            "insert into boots (started_at_ms, version, seen_at_ms) values (?, ?, ?) returning id", (at_ms, version, at_ms)
        ).fetchone()[0]
    )


def highest_request_id(conn: sqlite3.Connection) -> int:
    return int(conn.execute("select coalesce(max(id), 0) from holds").fetchone()[0])


def recover(conn: sqlite3.Connection, boot_id: int, at_ms: int) -> Recovered:
    """Resolve every open hold of an older boot."""
    conn.execute("begin immediate")
    try:
        found = conn.execute(f"{_OPEN_HOLDS} and h.boot_id < ? order by h.id", (boot_id,)).fetchall()
        rows = [_resolution(row, at_ms) for row in found]
        if rows:
            LedgerWriter(conn, boot_id).write(rows)
        conn.execute("commit")
    except BaseException:
        if conn.in_transaction:  # a full disk may have rolled back by itself
            conn.execute("rollback")
        raise
    settled = tuple(row.resolution.hold_id for row in rows if row.resolution.settled)
    unknown = tuple(row.resolution.hold_id for row in rows if not row.resolution.settled)
    if rows:
        logger.warning("recovered after a crash: %d settled from their progress, %d voided (unknown)", len(settled), len(unknown))
        for request_id in unknown:
            logger.warning("unknown: %s was running when the process died, and no usage had been seen", render_id(request_id))
    return Recovered(settled, unknown)


def find_open_hold(conn: sqlite3.Connection, request_id: int) -> ResolutionRow | None:
    """How an open hold would be resolved after a crash; None if the database has none of that id."""
    row = conn.execute(f"{_OPEN_HOLDS} and h.id = ?", (request_id,)).fetchone()
    return None if row is None else _resolution(row, 0)


_OPEN_HOLDS = """
    select h.id, h.wallet_id, h.key_id, h.model,
      h.amount_nanos + coalesce((select sum(c.delta_nanos) from hold_changes as c where c.hold_id = h.id), 0),
      p.upstream, p.upstream_model, r.terms, p.input_tokens, p.output_tokens, p.cache_write_5m_tokens,
      p.cache_write_1h_tokens, p.cache_read_tokens, p.web_searches, p.speed, p.geography, p.service_tier, p.cost_nanos
    from holds as h
    left join progress as p on p.hold_id = h.id
    left join prices as r on r.id = p.price_id
    where h.state = 'open'
"""


def _resolution(row: tuple[int | str | None, ...], at_ms: int) -> ResolutionRow:
    request_id, wallet_id, key_id, model, held, upstream, upstream_model, terms, *rest = row
    assert isinstance(request_id, int) and isinstance(wallet_id, int) and isinstance(key_id, int) and isinstance(held, int)
    if upstream is None:
        return ResolutionRow(
            Resolution(request_id, wallet_id, held, False), key_id, str(model), at_ms, (), _NOTHING_KNOWN, reason="unknown"
        )
    tokens = [int(count or 0) for count in rest[:6]]
    speed, geography, service_tier, cost = rest[6:]
    served_so = (str(speed), str(geography), str(service_tier))
    usage = Usage(tokens[0], tokens[1], tokens[2], tokens[3], tokens[4], tokens[5], *served_so)
    cost_nanos = min(int(cost or 0), held)
    return ResolutionRow(
        Resolution(request_id, wallet_id, held, True, pay_nanos=cost_nanos),
        key_id,
        str(model),
        at_ms,
        (),
        _NOTHING_KNOWN,
        served=Served(str(upstream), str(upstream_model), str(terms), usage, cost_nanos),
        source="recovered",
        had_progress=True,
    )
