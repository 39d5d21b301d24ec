"""The operator gives back what a request cost, or a part of it: from revenue into the wallet that paid.

    without an amount    the whole rest; once nothing is left, repeating it changes nothing and says so
    with an amount       refund number 1 unless another number is named; the same number and amount again changes nothing

Together a request's refunds are never more than its wallet paid for it: its settle, and what was collected later of its overrun.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from gateway.desk.checks import check_count, check_note, money, parse_amount, refused
from gateway.desk.desk import Desk
from gateway.desk.jobs import whole
from gateway.errors import ClientError, LedgerError
from gateway.ids import parse_id, render_id
from gateway.money import format_usd
from gateway.storage import audit_log, refunds
from gateway.storage.calls import find_usage
from gateway.storage.ledger import LedgerWriter, request_reference

# Nobody refunds one request that often; beyond it a number is a slip.
NUMBER_MAX = 1000


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be done for a request. `transfer_id` is that of the same refund made before, if it was."""

    request_id: int
    user: str
    wallet_id: int
    number: int
    amount_nanos: int
    paid_nanos: int
    refunded_nanos: int
    transfer_id: int | None


@dataclass(frozen=True, slots=True)
class Paid:
    """A request that was paid: what of it is left to be given back, and the number that the next refund of it would have."""

    request_id: str
    user_id: int
    model: str
    at_ms: int
    paid_nanos: int
    refunded_nanos: int
    next_number: int

    @property
    def rest_nanos(self) -> int:
        return self.paid_nanos - self.refunded_nanos


@whole
async def refund(
    desk: Desk, actor: str, *, request_id: str, amount: str | None = None, number: int | None = None, note: str = ""
) -> dict[str, Any]:
    """`amount` None: the whole rest. Raises ClientError for a request that was not paid, LedgerError for more than is left of
    what was, or a number that stands for another amount."""
    amount_nanos = None if amount is None else parse_amount(amount)
    if number is not None:
        check_count(number, "number", NUMBER_MAX)
        if amount is None:
            raise refused("number: it goes with an amount; without one the whole rest is refunded", "number")
    check_note(note)
    at_ms = desk.clock.at_ms()
    plan = await desk.writer.run(lambda ledger: _plan(ledger.conn, request_id, amount_nanos, number))
    if plan.transfer_id is None:
        desk.book.check_deposit(plan.wallet_id, plan.amount_nanos)

    def job(ledger: LedgerWriter) -> tuple[_Plan, int]:
        plan = _plan(ledger.conn, request_id, amount_nanos, number)
        if plan.transfer_id is not None:
            return plan, plan.transfer_id
        made = refunds.post_refund(ledger, plan.request_id, plan.wallet_id, plan.number, plan.amount_nanos, note, at_ms)
        after = {
            "request": render_id(plan.request_id),
            "number": plan.number,
            "transfer_id": made.transfer_id,
            "amount_nanos": plan.amount_nanos,
            "note": note,
        }
        audit_log.record(ledger.conn, at_ms, actor, "wallets.refund", f"user:{plan.user}", after=after)
        return plan, made.transfer_id

    plan, transfer_id = await desk.writer.run(job)
    applied = plan.transfer_id is None
    if applied:
        desk.book.deposit(plan.wallet_id, plan.amount_nanos)
    wallet = desk.book.wallet(plan.wallet_id)
    return {
        "request_id": render_id(plan.request_id),
        "user": plan.user,
        "wallet_id": plan.wallet_id,
        "number": plan.number,
        "transfer_id": transfer_id,
        "applied": applied,
        "reference": f"{request_reference(plan.request_id)}:{plan.number}",
        **money(
            amount=plan.amount_nanos,
            paid=plan.paid_nanos,
            refunded=plan.refunded_nanos + (plan.amount_nanos if applied else 0),
            balance=wallet.balance_nanos,
            available=wallet.available_nanos,
        ),
    }


def find_paid(conn: sqlite3.Connection, request_id: str) -> Paid:
    """For whoever is asked before a refund. Raises ClientError for a request that is not there or was not paid."""
    row = _get_settled(conn, request_id)
    made = refunds.list_refunds(conn, row["request_id"])
    return Paid(
        request_id=render_id(row["request_id"]),
        user_id=row["user_id"],
        model=row["model"],
        at_ms=row["resolved_at_ms"],
        paid_nanos=refunds.paid_nanos(conn, row["request_id"]),
        refunded_nanos=sum(each.amount_nanos for each in made),
        next_number=made[-1].number + 1 if made else 1,
    )


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _plan(conn: sqlite3.Connection, text: str, amount_nanos: int | None, number: int | None) -> _Plan:
    """For the writer's connection: whoever settles or refunds the same request comes before or after."""
    row = _get_settled(conn, text)
    request_id: int = row["request_id"]
    paid = refunds.paid_nanos(conn, request_id)
    made = refunds.list_refunds(conn, request_id)
    refunded = sum(each.amount_nanos for each in made)
    rest = paid - refunded
    following = made[-1].number + 1 if made else 1

    def plan(number: int, amount_nanos: int, transfer_id: int | None = None) -> _Plan:
        return _Plan(request_id, row["user_name"], row["wallet_id"], number, amount_nanos, paid, refunded, transfer_id)

    if not paid:
        raise refused("the wallet paid nothing for this request, so there is nothing to refund", "request_id")
    if amount_nanos is None:
        if rest:
            return plan(following, rest)
        return plan(made[-1].number, made[-1].amount_nanos, made[-1].transfer_id)
    earlier = next((each for each in made if each.number == (number or 1)), None)
    if earlier is not None and earlier.amount_nanos == amount_nanos:
        return plan(earlier.number, amount_nanos, earlier.transfer_id)
    if not rest:
        raise LedgerError(
            "invalid_request",
            f"amount: nothing is left to refund: all of the ${format_usd(paid)} that the wallet paid for this request was "
            "refunded before",
            param="amount",
        )
    if earlier is not None:
        raise LedgerError(
            "invalid_request",
            f"refund {earlier.number} of this request was ${format_usd(earlier.amount_nanos)}; nothing was moved. For another "
            f"one name a number of its own: {following} is free.",
            param="number",
        )
    if amount_nanos > rest:
        raise LedgerError(
            "invalid_request",
            f"amount: only ${format_usd(rest)} can be refunded: the wallet paid ${format_usd(paid)} for this request, and "
            f"${format_usd(refunded)} was refunded before",
            param="amount",
        )
    return plan(number or 1, amount_nanos)


def _get_settled(conn: sqlite3.Connection, text: str) -> dict[str, Any]:
    """By our own id: two requests may have one id of a provider's, and money must not go to the wrong one."""
    request_id = parse_id(text)
    row = None if request_id is None else find_usage(conn, request_id)
    if row is None:
        raise ClientError(
            "not_found",
            "there is no request of this id; it stands in the request-id header of the answer (req_…), and `pagegrid usage "
            "get ID` shows it",
            param="request_id",
        )
    if row["state"] == "open":
        raise refused("this request is still running; nothing is paid before it ends", "request_id")
    if row["state"] == "void":
        raise refused(f"this request cost nothing ({row['reason']}), so there is nothing to refund", "request_id")
    return row
