"""All accounts and the transfers between them, as an operator reads them. Plain functions on a reader's connection.

Sums come from what accounts say of themselves; that they are what the transfers come to is for the audit to prove.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KindSum:
    """All accounts of a kind together."""

    accounts: int
    balance_nanos: int
    held_nanos: int
    owed_nanos: int


@dataclass(frozen=True, slots=True)
class WalletLine:
    user_id: int
    user_name: str
    balance_nanos: int
    held_nanos: int
    owed_nanos: int
    frozen: bool
    holds: int


@dataclass(frozen=True, slots=True)
class TransferLine:
    """`debit` and `credit` are what people call the accounts: a wallet by its user."""

    id: int
    at_ms: int
    kind: str
    debit: str
    credit: str
    amount_nanos: int
    reference: str
    note: str


def sum_kinds(conn: sqlite3.Connection) -> dict[str, KindSum]:
    rows = conn.execute(
        "select kind, count(*), sum(balance_nanos), sum(held_nanos), sum(owed_nanos) from accounts group by kind"
    ).fetchall()
    return {kind: KindSum(*sums) for kind, *sums in rows}


def count_open_holds(conn: sqlite3.Connection) -> int:
    return int(conn.execute("select count(*) from holds where state = 'open'").fetchone()[0])


def largest_wallets(conn: sqlite3.Connection, limit: int) -> list[WalletLine]:
    rows = conn.execute(
        """
        select u.id, u.name, a.balance_nanos, a.held_nanos, a.owed_nanos, a.frozen,
          (select count(*) from holds as h where h.wallet_id = a.id and h.state = 'open')
        from accounts as a join users as u on u.id = a.user_id
        order by a.balance_nanos desc, a.id
        limit ?
        """,
        (limit,),
    ).fetchall()
    return [
        WalletLine(user_id, name, balance, held, owed, bool(frozen), holds)
        for user_id, name, balance, held, owed, frozen, holds in rows
    ]


def list_owners(conn: sqlite3.Connection) -> list[tuple[int, str]]:
    """(account id, user name) of every wallet."""
    return conn.execute("select a.id, u.name from accounts as a join users as u on u.id = a.user_id").fetchall()


def list_transfers(
    conn: sqlite3.Connection, limit: int, *, before_id: int | None = None, after_id: int | None = None
) -> list[TransferLine]:
    """Newest first: those before an id, or those right after one, or the latest."""
    low, high = after_id or 0, 2**63 - 1 if before_id is None else before_id
    rows = conn.execute(
        f"""
        select t.id, t.at_ms, t.kind, coalesce(p.name, d.name), coalesce(q.name, c.name), t.amount_nanos, t.reference, t.note
        from transfers as t
        join accounts as d on d.id = t.debit_account
        join accounts as c on c.id = t.credit_account
        left join users as p on p.id = d.user_id
        left join users as q on q.id = c.user_id
        where t.id > ? and t.id < ?
        order by t.id {"desc" if after_id is None else ""}
        limit ?
        """,  # noqa: S608 (one word of our own)
        (low, high, limit),
    ).fetchall()
    return sorted((TransferLine(*row) for row in rows), key=lambda line: -line.id)
