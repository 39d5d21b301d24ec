"""One request told to people: what was used, what it cost, and how that cost came about to the last fraction.

render_usage    what the owner of a request is told (GET /v1/usage/{id})
get_usage       the same for the operator, with whose it was, the provider's ids and the derivation
"""

from __future__ import annotations

import sqlite3
from decimal import Decimal, localcontext
from typing import Any

import aiosqlite

from gateway.desk.bills import usage_of
from gateway.desk.checks import money
from gateway.errors import ClientError
from gateway.ids import parse_id, render_id
from gateway.money import to_micros
from gateway.pricing import TOKENS_PER_PRICE, derive, parse_terms
from gateway.storage.calls import fetch_request_by_upstream_id, fetch_usage, find_request_by_upstream_id, find_usage
from gateway.storage.readonly import snapshot
from gateway.usage import Usage

# count (9 digits) × price (up to 21) × four factors of 6 decimals each: exact with room to spare.
_DIGITS = 100


async def find_usage_of(reader: aiosqlite.Connection, text: str, user_id: int) -> dict[str, Any] | None:
    """The user's own request under our id or the provider's, as `render_usage` tells it; None if it is nobody's or another's."""
    for request_id in (parse_id(text), await fetch_request_by_upstream_id(reader, text, user_id)):
        row = None if request_id is None else await fetch_usage(reader, request_id)
        if row is not None and row["user_id"] == user_id:
            return render_usage(row)
    return None


def render_usage(row: dict[str, Any]) -> dict[str, Any]:
    """The public account of one request, from a row of `storage.calls.find_usage`.

    A running one has no figures yet. A void one cost nothing; `reason` says why. `timings` is None once details are pruned.
    """
    shown = {"request_id": render_id(row["request_id"]), "status": _STATUS[row["state"]], "model": row["model"]}
    shown |= {"key_id": row["key_id"], "created_at_ms": row["opened_at_ms"]}
    if row["state"] == "open":
        return shown
    settled = row["state"] == "settled"
    usage = usage_of(row) if settled else Usage()
    cost_nanos = row["cost_nanos"] if settled else 0
    shown |= {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        },
        "web_search_requests": usage.web_searches,
        "cost_micro": to_micros(cost_nanos),
        "cost_nanos": cost_nanos,
        "refunded_nanos": row["refunded_nanos"],
        "source": row["source"],
        "flags": (row["flags"] or "").split(),
        "attempts": [_public(attempt) for attempt in row["attempts"]],
        "timings": None if row["total_ms"] is None else {name: row[name] for name in _TIMING_FIELDS},
    }
    return shown | ({"upstream_model": row["upstream_model"]} if settled else {"reason": row["reason"]})


def get_usage(conn: sqlite3.Connection, *, request_id: str) -> dict[str, Any]:
    """One request by our id or the provider's, for the operator. Raises ClientError `not_found`."""
    with snapshot(conn):
        row = _find(conn, request_id)
    if row is None:
        raise ClientError(
            "not_found",
            "there is no request of this id; it stands in the request-id header of the answer (req_…)",
            param="request_id",
        )
    shown = render_usage(row)
    shown |= {"user": row["user_name"], "key_name": row["key_name"], "key_hint": row["key_hint"], "attempts": row["attempts"]}
    if row["state"] != "settled":
        return shown
    shown |= {"upstream": row["upstream"], "derivation": render_derivation(row)}
    cost, paid = row["cost_nanos"], row["paid_nanos"]
    return shown | money(cost=cost, paid=paid, owed=cost - paid, refunded=row["refunded_nanos"])


def render_derivation(row: dict[str, Any]) -> dict[str, Any]:
    """How the cost came about: `lines` whose `amount_nanos` (exact decimal texts, multipliers applied) add up to the cost.

    The last line is the rounding (less than one nano); before it stands what was taken off where a charge was limited to what
    had been held.
    """
    derivation = derive(parse_terms(row["terms"]), usage_of(row))
    lines: list[dict[str, Any]] = []
    with localcontext(prec=_DIGITS):
        scale = Decimal(1) / TOKENS_PER_PRICE
        for _, factor in derivation.multipliers:
            scale = scale * factor.numerator / factor.denominator
        total = Decimal(0)
        for line in derivation.lines:
            if line.count:
                amount = line.count * line.price_nanos_per_million * scale
                total += amount
                priced = {"count": line.count, "price_nanos_per_million": line.price_nanos_per_million}
                lines.append({"name": line.name, **priced, "amount_nanos": _plain(amount)})
        limited = row["cost_nanos"] - derivation.cost_nanos
        if limited:
            lines.append({"name": "limited_to_hold", "amount_nanos": str(limited)})
        lines.append({"name": "rounding", "amount_nanos": _plain(derivation.cost_nanos - total)})
    multipliers = [{"name": name, "factor": str(factor)} for name, factor in derivation.multipliers]
    return {"lines": lines, "multipliers": multipliers, "cost_nanos": row["cost_nanos"]}


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_STATUS = {"open": "running", "settled": "settled", "void": "void"}
# What ails the operator's own accounts is nobody else's: neither their names nor that a secret was refused or credit used up.
_ACCOUNT_REASONS = {"secret_refused", "credit_exhausted"}
_ACCOUNT_STATUSES = {401, 402, 403}
_TIMING_FIELDS = ("admitted_ms", "first_byte_ms", "total_ms")


def _public(attempt: dict[str, Any]) -> dict[str, Any]:
    """An attempt as the owner of the request is told it."""
    status, reason = attempt["status"], attempt["reason"]
    if reason in _ACCOUNT_REASONS or status in _ACCOUNT_STATUSES:
        status, reason = None, "upstream_failed"
    return {"number": attempt["number"], "status": status, "reason": reason, "duration_ms": attempt["duration_ms"]}


def _find(conn: sqlite3.Connection, text: str) -> dict[str, Any] | None:
    """By our id, else by the provider's."""
    for request_id in (parse_id(text), find_request_by_upstream_id(conn, text)):
        row = None if request_id is None else find_usage(conn, request_id)
        if row is not None:
            return row
    return None


def _plain(amount: Decimal) -> str:
    """Without exponent or trailing zeros."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
