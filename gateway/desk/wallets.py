"""The operator's hand on a wallet: money in, money out, and the brake.

    topup       database first, then the book: a deposit is spendable once it is on disk
    withdraw    the book first, then the database: what is promised to running requests cannot be taken out under them

Every movement names a reference, single among the top-ups or among the withdrawals: repeating it with the same wallet and amount
changes nothing and says so.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Literal

from gateway.desk.checks import (
    REFERENCE_CHARS_MAX,
    check_count,
    check_note,
    check_text,
    get_user,
    get_wallet,
    money,
    parse_amount,
)
from gateway.desk.desk import Desk
from gateway.desk.jobs import whole
from gateway.errors import LedgerError
from gateway.money import format_usd
from gateway.storage import audit_log, wallets
from gateway.storage.ledger import LedgerWriter
from gateway.storage.readonly import snapshot

LINES_SHOWN = 10
LINES_MAX = 10_000

Kind = Literal["deposit", "withdraw"]
# As people call the ledger's kinds.
_WORDS: dict[Kind, str] = {"deposit": "top-up", "withdraw": "withdrawal"}


@whole
async def topup(desk: Desk, actor: str, *, user: str, amount: str, reference: str, note: str = "") -> dict[str, Any]:
    """Raises LedgerError for a reference that stands for another movement, or more than a wallet can hold."""
    amount_nanos = parse_amount(amount)
    check_text(reference, "reference", REFERENCE_CHARS_MAX)
    check_note(note)
    found, wallet_id, _ = await desk.writer.run(lambda ledger: _find(ledger.conn, user, "deposit", reference, amount_nanos))
    desk.book.check_deposit(wallet_id, amount_nanos)
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> wallets.Movement:
        movement = wallets.deposit(ledger, wallet_id, amount_nanos, reference, note, at_ms)
        _record(ledger, movement, at_ms, actor, "wallets.topup", found, amount_nanos, reference, note)
        return movement

    movement = await desk.writer.run(job)
    if movement.applied:
        desk.book.deposit(wallet_id, amount_nanos)
    return _moved(desk, found, wallet_id, movement, amount_nanos, reference)


@whole
async def withdraw(desk: Desk, actor: str, *, user: str, amount: str, reference: str, note: str = "") -> dict[str, Any]:
    """Raises LedgerError for more than is available, or a reference that stands for another movement."""
    amount_nanos = parse_amount(amount)
    check_text(reference, "reference", REFERENCE_CHARS_MAX)
    check_note(note)
    found, wallet_id, known = await desk.writer.run(lambda ledger: _find(ledger.conn, user, "withdraw", reference, amount_nanos))
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> wallets.Movement:
        movement = wallets.withdraw(ledger, wallet_id, amount_nanos, reference, note, at_ms)
        _record(ledger, movement, at_ms, actor, "wallets.withdraw", found, amount_nanos, reference, note)
        return movement

    # A reference that is known moves nothing (again): asking the book would refuse to repeat "all that was there".
    if not known:
        desk.book.withdraw(wallet_id, amount_nanos)
    moved = False
    try:
        movement = await desk.writer.run(job)
        moved = movement.applied
    finally:
        if not known and not moved:
            desk.book.deposit(wallet_id, amount_nanos)
    return _moved(desk, found, wallet_id, movement, amount_nanos, reference)


async def plan_withdrawal(desk: Desk, actor: str, *, user: str, amount: str, reference: str) -> dict[str, Any]:
    """What `withdraw` would do now, or its refusal: for whoever is asked before it is done. Changes nothing.

    The book is asked, not the file: after a crash the file still holds money for requests that are no more.
    """
    amount_nanos = parse_amount(amount)
    check_text(reference, "reference", REFERENCE_CHARS_MAX)
    found, wallet_id, known = await desk.writer.run(lambda ledger: _find(ledger.conn, user, "withdraw", reference, amount_nanos))
    wallet = desk.book.wallet(wallet_id)
    if not known and amount_nanos > wallet.available_nanos:
        available, held = format_usd(wallet.available_nanos), format_usd(wallet.held_nanos)
        raise LedgerError(
            "balance_too_low", f"only ${available} can be withdrawn; running requests hold ${held} beside it", param="amount"
        )
    return {
        "user": found["name"],
        "applied": known,
        **money(amount=amount_nanos, balance=wallet.balance_nanos, available=wallet.available_nanos),
    }


@whole
async def freeze(desk: Desk, actor: str, *, user: str) -> dict[str, Any]:
    """No new request is paid from the wallet; those that run end and are settled."""
    return await _set_frozen(desk, actor, "wallets.freeze", user, frozen=True)


@whole
async def unfreeze(desk: Desk, actor: str, *, user: str) -> dict[str, Any]:
    return await _set_frozen(desk, actor, "wallets.unfreeze", user, frozen=False)


def show_wallet(conn: sqlite3.Connection, *, user: str, lines: int = LINES_SHOWN) -> dict[str, Any]:
    """What is in the wallet, and its latest transfers, newest first."""
    check_count(lines, "lines", LINES_MAX)
    with snapshot(conn):
        found = get_user(conn, user)
        wallet = get_wallet(conn, found["id"])
        latest = wallets.statement(conn, wallet["id"], lines)
    balance, held = wallet["balance_nanos"], wallet["held_nanos"]
    return {
        "user": found["name"],
        "wallet_id": wallet["id"],
        **money(balance=balance, held=held, available=balance - held, owed=wallet["owed_nanos"]),
        "frozen": bool(wallet["frozen"]),
        "lines": [render_line(line) for line in latest],
    }


def render_line(line: dict[str, Any]) -> dict[str, Any]:
    """One line of a statement, its money also as text."""
    return {**line, **money(amount=line["amount_nanos"], balance_after=line["balance_after_nanos"])}


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _find(conn: sqlite3.Connection, user: str, kind: Kind, reference: str, amount_nanos: int) -> tuple[dict[str, Any], int, bool]:
    """(the user, their wallet's id, whether this very movement was made before), for an act read on the writer.

    A reader of its own could see a user before the book does: there, whoever is committed has been followed in memory.
    Raises LedgerError for a reference that stands for another movement of this kind.
    """
    found = get_user(conn, user)
    wallet_id: int = get_wallet(conn, found["id"])["id"]
    earlier = wallets.find_movement(conn, kind, reference)
    if earlier is not None and earlier != (wallet_id, amount_nanos):
        whose = f"of {found['name']}" if earlier[0] == wallet_id else "of another wallet"
        raise LedgerError(
            "invalid_request",
            f"reference {reference!r} was used before, for a {_WORDS[kind]} {whose} (${format_usd(earlier[1])}); nothing was "
            f"moved. Use a reference of its own for each {_WORDS[kind]}.",
            param="reference",
        )
    return found, wallet_id, earlier is not None


def _record(
    ledger: LedgerWriter,
    movement: wallets.Movement,
    at_ms: int,
    actor: str,
    action: str,
    user: dict[str, Any],
    amount_nanos: int,
    reference: str,
    note: str,
) -> None:
    if movement.applied:
        after = {"transfer_id": movement.transfer_id, "amount_nanos": amount_nanos, "reference": reference, "note": note}
        audit_log.record(ledger.conn, at_ms, actor, action, f"user:{user['name']}", after=after)


def _moved(
    desk: Desk, user: dict[str, Any], wallet_id: int, movement: wallets.Movement, amount_nanos: int, reference: str
) -> dict[str, Any]:
    wallet = desk.book.wallet(wallet_id)
    return {
        "user": user["name"],
        "wallet_id": wallet_id,
        "transfer_id": movement.transfer_id,
        "applied": movement.applied,
        "reference": reference,
        **money(amount=amount_nanos, balance=wallet.balance_nanos, available=wallet.available_nanos),
    }


def _check_agreement(desk: Desk, wallet: dict[str, Any]) -> None:
    """A wallet was frozen because book and database disagreed; spending goes on only once they agree."""
    known = desk.book.wallet(wallet["id"])
    stored = (wallet["balance_nanos"], wallet["held_nanos"], wallet["owed_nanos"])
    if stored != (known.balance_nanos, known.held_nanos, known.owed_nanos):
        raise LedgerError(
            "invalid_request",
            "the wallet's book and database disagree, or a request of it is just ending: run `pagegrid ledger audit`, restart "
            "the server (it reads the database anew), then unfreeze",
        )


async def _set_frozen(desk: Desk, actor: str, action: str, user: str, *, frozen: bool) -> dict[str, Any]:
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> tuple[dict[str, Any], int, bool]:
        found = get_user(ledger.conn, user)
        wallet = get_wallet(ledger.conn, found["id"])
        changed = bool(wallet["frozen"]) != frozen
        if changed and not frozen:
            _check_agreement(desk, wallet)
        if changed:
            wallets.set_frozen(ledger.conn, wallet["id"], frozen)
            states = {"before": {"frozen": not frozen}, "after": {"frozen": frozen}}
            audit_log.record(ledger.conn, at_ms, actor, action, f"user:{found['name']}", **states)
        return found, wallet["id"], changed

    found, wallet_id, changed = await desk.writer.run(job)
    desk.book.freeze(wallet_id, frozen)
    return {"user": found["name"], "wallet_id": wallet_id, "frozen": frozen, "changed": changed}
