"""Giving back what a request cost: revenue → wallet, never more than the wallet paid for it.

    reference   req_…:1, req_…:2 …    the request's id and the number of the refund: each happens at most once
    paid        what was settled, and what was collected later of an overrun

A collection names the request that set the money free, not the one that ran over. So collections of a wallet pay its overruns in
the order in which both were booked: what is collected of one overrun only ever grows, and together they are what was collected.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from gateway.ids import parse_id, render_id
from gateway.storage.ledger import REVENUE, LedgerWriter, request_reference

KIND = "refund"


@dataclass(frozen=True, slots=True)
class Refund:
    number: int
    transfer_id: int
    amount_nanos: int


def paid_nanos(conn: sqlite3.Connection, request_id: int) -> int:
    """All that the wallet has paid for the request so far; 0 if it was not settled."""
    add_functions(conn)
    row = conn.execute(f"{_TOTALS} where u.request_id = ?", (request_id,)).fetchone()
    return 0 if row is None else int(row[2])


def list_refunds(conn: sqlite3.Connection, request_id: int) -> list[Refund]:
    """In the order of their numbers."""
    rows = conn.execute(
        """
        select reference, id, amount_nanos from transfers
        where kind = 'refund' and reference > :text || ':' and reference < :text || ';'
        """,
        {"text": request_reference(request_id)},
    ).fetchall()
    found = (Refund(int(reference.rpartition(":")[2]), transfer_id, amount) for reference, transfer_id, amount in rows)
    return sorted(found, key=lambda refund: refund.number)


def post_refund(
    ledger: LedgerWriter, request_id: int, wallet_id: int, number: int, amount_nanos: int, note: str, at_ms: int
) -> Refund:
    """Raises sqlite3.IntegrityError if there is one of this number: the caller has looked, in the same transaction."""
    transfer_id = ledger.post(at_ms, KIND, REVENUE, wallet_id, amount_nanos, f"{request_reference(request_id)}:{number}", note)
    return Refund(number, transfer_id, amount_nanos)


def add_functions(conn: sqlite3.Connection) -> None:
    """What the SQL about references is made of, on a connection that is to use it."""
    conn.create_function("request_text", 1, _request_text, deterministic=True)
    conn.create_function("request_number", 1, parse_id, deterministic=True)
    conn.create_function("refunded_request", 1, refunded_request, deterministic=True)


def refunded_request(reference: str) -> int | None:
    """The request whose refund this is the reference of; None if it is not written as `post_refund` writes it."""
    text, _, number = reference.rpartition(":")
    request_id = parse_id(text)
    written = request_id is not None and render_id(request_id) == text and number.isascii() and number.isdigit()
    return request_id if written and number[0] != "0" else None


def _request_text(request_id: int | None) -> str | None:
    return None if request_id is None else render_id(request_id)


# For a usage row `u`. Hardly any request has an overrun, and that alone makes the look at collections worth its time.
_TOTALS = """
    select u.request_id, u.wallet_id,
      u.paid_nanos + case when u.cost_nanos = u.paid_nanos then 0 else max(0, min(
        u.cost_nanos - u.paid_nanos,
        -- By their kind: collections are few, and all that a wallet ever paid is much (hence the "+").
        (select coalesce(sum(c.amount_nanos), 0) from transfers as c
         where c.kind = 'overrun_collected' and +c.debit_account = u.wallet_id)
        - (select coalesce(sum(o.amount_nanos), 0) from transfers as o join holds as h on h.id = request_number(o.reference)
           where o.kind = 'overrun' and h.wallet_id = u.wallet_id and o.id
             < (select e.id from transfers as e where e.kind = 'overrun' and e.reference = request_text(u.request_id)))
      )) end as paid_nanos,
      -- ";" comes right after ":".
      (select coalesce(sum(r.amount_nanos), 0) from transfers as r
       where r.kind = 'refund' and r.reference > request_text(u.request_id) || ':'
         and r.reference < request_text(u.request_id) || ';') as refunded_nanos
    from usage as u
"""

# The invariant, over a slice of transfers.
BEYOND_PAID = f"""
    select t.id as transfer_id, t.reference, t.credit_account as wallet_id, u.refunded_nanos, u.paid_nanos
    from transfers as t left join ({_TOTALS}) as u on u.request_id = refunded_request(t.reference)
    where t.id > :low and t.id <= :high and t.kind = 'refund'
      and (u.request_id is null or t.debit_account <> 3 or t.credit_account <> u.wallet_id or u.refunded_nanos > u.paid_nanos)
"""  # noqa: S608 (of our own words)
