"""Vouchers: codes that each put a sum into one wallet, once.

    created in batches ── open ──▶ redeemed   promo → wallet, reference voucher:<id>, in the transaction that says so
                            ├────▶ voided     by the operator
                            └────▶ expired

Whether a voucher is still open is decided by the update that redeems it (compare and swap), so that any number of tries at the
same moment move the money once; the ledger's own rule (one transfer for a kind and reference) stands behind it, and the audit
looks at both. A code appears in the result of `create_vouchers` and nowhere else.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from gateway.desk.checks import (
    NAME_CHARS_MAX,
    check_count,
    check_text,
    get_user,
    get_wallet,
    money,
    parse_amount,
    parse_duration_ms,
    refused,
)
from gateway.desk.desk import Desk
from gateway.desk.jobs import whole
from gateway.desk.keys import KEY_ID_MAX
from gateway.desk.signin import check_session, look
from gateway.errors import ClientError, LedgerError
from gateway.passcodes import VOUCHER_DIGITS, VOUCHER_HINT_CHARS, hash_code, make_code
from gateway.sessions import Session
from gateway.storage import audit_log, vouchers, wallets
from gateway.storage.ledger import LedgerWriter
from gateway.storage.readonly import snapshot

# All of a batch is made in one transaction, for which requests wait.
BATCH_MAX = 1_000
LISTED_MAX = 1_000


@whole
async def create_vouchers(
    desk: Desk, actor: str, *, amount: str, batch: str, count: int = 1, expires: str | None = None
) -> dict[str, Any]:
    """`count` vouchers of `amount` US dollars each. `batch` names them all, and is new: the same command again makes no second
    batch. `expires` such as 90d; None is never. The result carries the codes."""
    amount_nanos = parse_amount(amount)
    check_count(count, "count", BATCH_MAX)
    check_text(batch, "batch", NAME_CHARS_MAX)
    at_ms = desk.clock.at_ms()
    expires_at_ms = None if expires is None else at_ms + parse_duration_ms(expires, "expires")
    codes = [make_code(VOUCHER_DIGITS) for _ in range(count)]

    def job(ledger: LedgerWriter) -> list[int]:
        if vouchers.has_batch(ledger.conn, batch):
            raise refused(f"batch: there are vouchers of {batch!r} already; choose another name", "batch")
        hashed = [(hash_code(code), code[:VOUCHER_HINT_CHARS]) for code in codes]
        ids = vouchers.insert_vouchers(ledger.conn, batch, hashed, amount_nanos, actor, at_ms, expires_at_ms)
        after = {"count": count, "amount_nanos": amount_nanos, "expires_at_ms": expires_at_ms}
        audit_log.record(ledger.conn, at_ms, actor, "vouchers.create", f"batch:{batch}", after=after)
        return ids

    ids = await desk.writer.run(job)
    return {
        "batch": batch,
        "count": count,
        **money(amount=amount_nanos, total=amount_nanos * count),
        "created_at_ms": at_ms,
        "expires_at_ms": expires_at_ms,
        "vouchers": [{"id": voucher_id, "code": code} for voucher_id, code in zip(ids, codes, strict=True)],
    }


@whole
async def void_vouchers(desk: Desk, actor: str, *, batch: str | None = None, voucher_id: int | None = None) -> dict[str, Any]:
    """One voucher, or all of a batch that are open: dead when this returns. What was redeemed stays redeemed."""
    if (batch is None) == (voucher_id is None):
        raise refused("name a batch or a voucher_id, one of them", "batch")
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> int:
        conn = ledger.conn
        if batch is not None and not vouchers.has_batch(conn, batch):
            raise ClientError("not_found", "there is no such batch; `pagegrid vouchers batches` shows them", param="batch")
        if voucher_id is not None:
            redeemed_by = _get_voucher(conn, voucher_id)["redeemed_by"]
            if redeemed_by is not None:
                raise refused(f"voucher {voucher_id} was redeemed by {redeemed_by} already", "voucher_id")
        voided = vouchers.void(conn, at_ms, voucher_id=voucher_id, batch=batch)
        if voided:
            subject = f"batch:{batch}" if batch is not None else f"voucher:{voucher_id}"
            audit_log.record(conn, at_ms, actor, "vouchers.void", subject, after={"count": voided})
        return voided

    return {"batch": batch, "voucher_id": voucher_id, "voided": await desk.writer.run(job)}


@whole
async def redeem_voucher(desk: Desk, actor: str, *, user: str, code: str) -> dict[str, Any]:
    """Into the user's wallet; to be spent when this returns. Raises ClientError for a code that is not to be redeemed (any
    more)."""
    found = await look(desk, lambda conn: get_user(conn, user))
    return await _redeem(desk, actor, found["name"], code, None)


@whole
async def redeem_own_voucher(desk: Desk, address: str, session: Session, *, code: str) -> dict[str, Any]:
    """As `redeem_voucher`, by somebody who is signed in, into their own wallet. Codes that are wrong are slowed down."""
    party, now_ms = f"voucher:{session.user_id}", desk.clock.now_ms()
    desk.gate.rare.check(party, now_ms)
    desk.gate.rare.count(party, now_ms)
    redeemed = await _redeem(desk, session.actor(address), session.user_name, code, session)
    desk.gate.rare.give_back(party)
    return redeemed


def list_vouchers(
    conn: sqlite3.Connection, *, batch: str | None = None, before: int | None = None, limit: int = 100
) -> dict[str, Any]:
    """From the newest on. `next_before`, given as `before`, leads to older ones; None if there are none."""
    check_count(limit, "limit", LISTED_MAX)
    if before is not None and not 1 <= before <= KEY_ID_MAX:
        raise refused("before: it is the next_before of an earlier answer", "before")
    with snapshot(conn):
        found = vouchers.list_vouchers(conn, batch=batch, before_id=before or KEY_ID_MAX, limit=limit + 1)
    more = len(found) > limit
    return {
        "vouchers": [{**voucher, **money(amount=voucher["amount_nanos"])} for voucher in found[:limit]],
        "next_before": found[limit - 1]["id"] if more else None,
    }


def list_batches(conn: sqlite3.Connection) -> list[dict[str, Any]]:
    """Newest first, with how many of each were redeemed, voided, or neither (open, if they have not expired)."""
    with snapshot(conn):
        return [{**batch, **money(amount=batch["amount_nanos"])} for batch in vouchers.list_batches(conn)]


def show_voucher(conn: sqlite3.Connection, *, voucher_id: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """One voucher, and its batch as `list_batches` tells it. Raises ClientError for one that is not there."""
    with snapshot(conn):
        voucher = _get_voucher(conn, voucher_id)
        [batch] = vouchers.list_batches(conn, voucher["batch"])
    return voucher, batch


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _redeem(desk: Desk, actor: str, user: str, code: str, session: Session | None) -> dict[str, Any]:
    code_hash = hash_code(code)

    def find(ledger: LedgerWriter) -> tuple[dict[str, Any], int]:
        voucher = vouchers.find_by_code(ledger.conn, code_hash)
        if voucher is None:
            raise ClientError("not_found", "There is no voucher of this code; look whether it is typed right.", param="code")
        return voucher, get_wallet(ledger.conn, get_user(ledger.conn, user)["id"])["id"]

    # On the writer, as a top-up does it: whom it sees, the book knows.
    voucher, wallet_id = await desk.writer.run(find)
    amount_nanos = voucher["amount_nanos"]
    desk.book.check_deposit(wallet_id, amount_nanos)
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> int:
        conn = ledger.conn
        if session is not None:
            check_session(conn, session)
        found = get_user(conn, user)
        if found["disabled"]:
            raise refused(f"the user {found['name']} is disabled; `pagegrid users enable` first", "user")
        if not vouchers.redeem(conn, voucher["id"], found["id"], at_ms):
            raise _spent(_get_voucher(conn, voucher["id"]))
        note = f"voucher {voucher['hint']}… of {voucher['batch']}"
        movement = wallets.grant_promo(ledger, wallet_id, amount_nanos, f"voucher:{voucher['id']}", note, at_ms)
        assert movement.applied, "a voucher is redeemed once"
        after = {"transfer_id": movement.transfer_id, "amount_nanos": amount_nanos, "voucher_id": voucher["id"]}
        audit_log.record(conn, at_ms, actor, "vouchers.redeem", f"user:{found['name']}", after=after)
        return movement.transfer_id

    transfer_id = await desk.writer.run(job)
    desk.book.deposit(wallet_id, amount_nanos)
    wallet = desk.book.wallet(wallet_id)
    return {
        "user": user,
        "voucher_id": voucher["id"],
        "transfer_id": transfer_id,
        **money(amount=amount_nanos, balance=wallet.balance_nanos, available=wallet.available_nanos),
    }


def _spent(voucher: dict[str, Any]) -> LedgerError:
    """Why it was not redeemed; not by whom it was, which is nobody else's business."""
    if voucher["redeemed_at_ms"] is not None:
        why = "was redeemed already"
    elif voucher["voided_at_ms"] is not None:
        why = "was withdrawn"
    else:
        why = "has expired"
    return LedgerError("invalid_request", f"This voucher {why}; nothing was moved.", param="code")


def _get_voucher(conn: sqlite3.Connection, voucher_id: int) -> dict[str, Any]:
    found = vouchers.find_voucher(conn, voucher_id) if 0 < voucher_id <= KEY_ID_MAX else None
    if found is None:
        raise ClientError(
            "not_found", "there is no such voucher; ID is the number in `pagegrid vouchers list`", param="voucher_id"
        )
    return found
