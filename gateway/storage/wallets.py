"""Wallets and the operator's movements of money: plain functions on the writer, each composed into one transaction.

Every movement names a reference that may be used once per kind: the same reference with the same wallet and amount was applied
already (nothing happens), with anything else it is refused.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from gateway.book import Wallet
from gateway.errors import LedgerError
from gateway.storage.ledger import EXTERNAL, PROMO, LedgerWriter


@dataclass(frozen=True, slots=True)
class Movement:
    """What became of a deposit or withdrawal; `applied` is false if the same one had been applied before."""

    transfer_id: int
    applied: bool


def create_wallet(conn: sqlite3.Connection, user_id: int) -> int:
    conn.execute("insert into accounts (kind, name, user_id) values ('wallet', 'wallet:' || ?, ?)", (user_id, user_id))
    return int(conn.execute("select id from accounts where user_id = ?", (user_id,)).fetchone()[0])


def load_wallets(conn: sqlite3.Connection) -> list[Wallet]:
    """All wallets as the book wants them. Nothing may be held: recovery has run."""
    rows = conn.execute("select id, balance_nanos, held_nanos, owed_nanos, frozen from accounts where kind = 'wallet'")
    return [Wallet(account_id, balance, held, owed, bool(frozen)) for account_id, balance, held, owed, frozen in rows]


def deposit(ledger: LedgerWriter, wallet_id: int, amount_nanos: int, reference: str, note: str, at_ms: int) -> Movement:
    """external:manual → wallet. Raises LedgerError for a reference that stands for something else."""
    return _move(ledger, "deposit", EXTERNAL, wallet_id, amount_nanos, reference, note, at_ms)


def grant_promo(ledger: LedgerWriter, wallet_id: int, amount_nanos: int, reference: str, note: str, at_ms: int) -> Movement:
    """promo → wallet: credit given away."""
    return _move(ledger, "promo", PROMO, wallet_id, amount_nanos, reference, note, at_ms)


def reverse_promo(ledger: LedgerWriter, wallet_id: int, amount_nanos: int, reference: str, note: str, at_ms: int) -> Movement:
    """wallet → promo: what is left of a credit is taken back."""
    return _move(ledger, "promo_reversed", wallet_id, PROMO, amount_nanos, reference, note, at_ms)


def withdraw(ledger: LedgerWriter, wallet_id: int, amount_nanos: int, reference: str, note: str, at_ms: int) -> Movement:
    """wallet → external:manual; the book has taken the amount from what is available."""
    return _move(ledger, "withdraw", wallet_id, EXTERNAL, amount_nanos, reference, note, at_ms)


def set_frozen(conn: sqlite3.Connection, wallet_id: int, frozen: bool) -> None:
    conn.execute("update accounts set frozen = ? where id = ? and kind = 'wallet'", (int(frozen), wallet_id))


def find_wallet(conn: sqlite3.Connection, user_id: int) -> dict[str, Any] | None:
    row = conn.execute(
        "select id, balance_nanos, held_nanos, owed_nanos, frozen from accounts where user_id = ?", (user_id,)
    ).fetchone()
    return None if row is None else dict(zip(("id", "balance_nanos", "held_nanos", "owed_nanos", "frozen"), row, strict=True))


def find_movement(conn: sqlite3.Connection, kind: str, reference: str) -> tuple[int, int] | None:
    """(wallet id, nanos) of one movement between the operator and a wallet."""
    row = conn.execute(
        """
        select a.id, t.amount_nanos from transfers as t
        join accounts as a on a.kind = 'wallet' and a.id in (t.debit_account, t.credit_account)
        where t.kind = ? and t.reference = ?
        """,
        (kind, reference),
    ).fetchone()
    return None if row is None else (row[0], row[1])


def spent_nanos(conn: sqlite3.Connection, wallet_id: int) -> int:
    """All that the wallet ever paid for requests, less what was given back."""
    return int(
        conn.execute(
            """
            select
              (select coalesce(sum(amount_nanos), 0) from transfers
               where debit_account = :wallet and kind in ('settle', 'overrun_collected'))
              - (select coalesce(sum(amount_nanos), 0) from transfers where credit_account = :wallet and kind = 'refund')
            """,
            {"wallet": wallet_id},
        ).fetchone()[0]
    )


def statement(conn: sqlite3.Connection, wallet_id: int, limit: int) -> list[dict[str, Any]]:
    """The wallet's latest transfers, newest first, with the balance after each."""
    balance = int(conn.execute("select balance_nanos from accounts where id = ?", (wallet_id,)).fetchone()[0])
    rows = conn.execute(
        """
        select id, at_ms, kind, case when credit_account = :wallet then amount_nanos else -amount_nanos end, reference, note
        from (
          select * from transfers where debit_account = :wallet
          union all
          select * from transfers where credit_account = :wallet and kind in ('deposit', 'promo', 'refund')
        )
        order by id desc
        limit :limit
        """,
        {"wallet": wallet_id, "limit": limit},
    ).fetchall()
    lines = []
    for transfer_id, at_ms, kind, amount, reference, note in rows:
        lines.append(
            {
                "transfer_id": transfer_id,
                "at_ms": at_ms,
                "kind": kind,
                "amount_nanos": amount,
                "balance_after_nanos": balance,
                "reference": reference,
                "note": note,
            }
        )
        balance -= amount
    return lines


def _move(
    ledger: LedgerWriter, kind: str, debit: int, credit: int, amount_nanos: int, reference: str, note: str, at_ms: int
) -> Movement:
    earlier = ledger.conn.execute(
        "select id, debit_account, credit_account, amount_nanos from transfers where kind = ? and reference = ?",
        (kind, reference),
    ).fetchone()
    if earlier is not None:
        if earlier[1:] != (debit, credit, amount_nanos):
            raise LedgerError(
                "invalid_request",
                f"reference {reference!r} was used before, for another wallet or amount (transfer {earlier[0]}); "
                "nothing was moved. Use a reference of its own for each movement.",
            )
        return Movement(earlier[0], False)
    return Movement(ledger.post(at_ms, kind, debit, credit, amount_nanos, reference, note), True)
