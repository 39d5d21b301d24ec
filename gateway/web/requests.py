"""A request told on a page: what became of it in a word, its attempts, where its time went, its bill. What users read and what
admins read differ here and nowhere else: an account's name and what it was told are for admins alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gateway.desk.bills import Bill
from gateway.desk.requests import Told
from gateway.ids import render_id
from gateway.web.offers import CLASSES, MULTIPLIERS
from gateway.web.states import State

RESULTS = {
    "": "Any result",
    "done": "Done",
    "estimated": "Estimated",
    "partial": "Partial",
    "recovered": "Recovered",
    "void": "Not charged",
    "running": "Running",
}
ITEMS = CLASSES | {"web_search": "Web search"}
# What a request was served as, where its price was not the ordinary one.
FLAGS = {
    "usage_missing": "the upstream reported no usage",
    "malformed_usage": "the upstream's usage could not be read",
    "model_mismatch": "answered by another model",
}

# How an attempt or a request ended, as its owner reads it. What concerns our own accounts (a secret refused, credit exhausted) is
# "failed" to them.
_ENDINGS = {
    "ok": "Answered",
    "rate_limited": "Upstream was rate limited",
    "overloaded": "Upstream was overloaded",
    "status_529": "Upstream was overloaded",
    "connect": "Upstream could not be reached",
    "timeout": "Upstream did not answer in time",
    "silent": "Upstream fell silent",
    "reset": "Upstream broke off the connection",
    "cut": "Upstream broke off its answer",
    "empty": "Upstream ended without an answer",
    "nothing_seen": "Upstream ended without an answer",
    "model_not_found": "Upstream does not offer this model",
    "moderated": "The provider's moderation rejected it",
    "status_400": "The provider rejected the request",
    "status_413": "The provider rejected the request as too large",
    "status_422": "The provider rejected the request",
    "refused_upstream": "The provider rejected the request",
    "all_full": "All upstreams of this model were busy",
    "all_resting": "No upstream of this model was available",
    "signed_elsewhere": "No upstream could read this conversation's thinking",
    "gone": "The client left",
    "client_gone": "The client left before an answer began",
    "dry": "Ended here: the balance or a limit was used up",
    "too_long": "The answer took longer than this gateway allows",
    "shutdown": "The gateway was restarting",
    "unbilled": "The gateway could not record it, so it is not charged",
    "unknown": "The gateway stopped while it ran",
    "internal": "An error of this gateway",
}
# Of these the number says what the words do not; another status would tell of our own accounts.
_STATUS_SHOWN = {"ok", "rate_limited", "overloaded", "status_400", "status_413", "status_422", "cut", "silent", "gone", "dry"}


@dataclass(frozen=True, slots=True)
class Step:
    """An attempt. `account` and `cost_nanos` are for admins."""

    good: bool
    words: str
    status: int | None
    note: str
    duration_ms: int
    account: str
    model: str
    reason: str
    cost_nanos: int
    upstream_request_id: str


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a request's time, from `left` to `left + width` hundredths of it; `shade` is a colour of charts."""

    name: str
    ms: int
    left: float
    width: float
    shade: str


def state_of(row: Mapping[str, Any]) -> State:
    """Of a row of `list_requests`, or of one request with its last attempt as `ending`."""
    if row["state"] == "open":
        return State("", "s-held", "Running")
    if row["state"] == "void":
        reason = row["reason"] or ""
        if reason in ("client_gone", "gone"):
            return State("", "s-half", "Client left", "before an answer began")
        if reason == "refused_upstream":
            return State("bad", "s-bad", "Rejected", "by the provider")
        return State("bad", "s-bad", "Failed", words_of(reason))
    ending = row["ending"] or ""
    if row["source"] == "reported":
        return State("ok", "s-done", "Done")
    if row["source"] == "recovered":
        return State("", "s-half", "Recovered", "after a restart")
    if ending == "gone":
        return State("", "s-half", "Client left")
    if ending in _ENDINGS and ending != "ok":
        return State("warn", "s-half", "Broken off", words_of(ending))
    return State("ok", "s-done", "Done") if row["source"] == "estimated" else State("warn", "s-half", "Broken off")


def words_of(reason: str) -> str:
    return _ENDINGS.get(reason, "Upstream failed")


def cached_share(row: Mapping[str, Any]) -> float | None:
    """How much of the prompt was read from the cache; None for a request without a prompt that was charged."""
    prompt = prompt_of(row)
    return row["cache_read_tokens"] / prompt if prompt else None


def prompt_of(row: Mapping[str, Any]) -> int:
    names = ("input_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "cache_read_tokens")
    return sum(row[name] or 0 for name in names)


def tell(told: Told) -> dict[str, Any]:
    """The values of `_request.html`."""
    row, trail = told.row, told.trail
    attempts = row["attempts"]
    ending = attempts[-1]["reason"] if attempts else None
    charges = [each for each in trail["transfers"] if each["kind"] != "refund"]
    return {
        "row": row,
        "id": render_id(row["request_id"]),
        "state": state_of({**row, "ending": ending}),
        "bill": told.bill,
        "proven": told.proven,
        "saved_nanos": told.bill.uncached_nanos - told.bill.cost_nanos + told.bill.limited_nanos if told.bill else 0,
        "changes": _changes(told.bill) if told.bill else [],
        "charges": charges,
        "refunds": [each for each in trail["transfers"] if each["kind"] == "refund"],
        "held_nanos": trail["held_nanos"] + trail["raised_nanos"],
        "raises": trail["raises"],
        "steps": [_step(attempt, last=attempt is attempts[-1], row=row) for attempt in attempts],
        "phases": _phases(row, attempts),
        "flags": [FLAGS.get(flag, flag.replace("unknown_usage:", "a class of usage without a price: ")) for flag in _flags(row)],
        "upstream_nanos": sum(attempt["cost_nanos"] for attempt in attempts) if attempts else None,
    }


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _flags(row: Mapping[str, Any]) -> list[str]:
    return (row["flags"] or "").split()


def _changes(bill: Bill) -> list[tuple[str, str, Decimal]]:
    """(what it is, its factor, its amount): the operator's own factors are told as what they make of the price."""
    return [
        (MULTIPLIERS.get(each.name) or _factor_words(each.factor), f"× {each.factor.normalize():f}", each.amount_nanos)
        for each in bill.changes
    ]


def _factor_words(factor: Decimal) -> str:
    percent = abs(factor - 1) * 100
    return f"Your price: {percent.normalize():f} % {'below' if factor < 1 else 'above'} list"


def _step(attempt: Mapping[str, Any], *, last: bool, row: Mapping[str, Any]) -> Step:
    reason = attempt["reason"]
    served = last and row["state"] == "settled"
    if served:
        note = {
            "reported": "usage reported by the upstream",
            "estimated": "output counted here",
            "partial": "what had been sent is charged",
        }.get(row["source"], "")
    else:
        note = "not charged" if last else "not charged; the next one was asked before you received a byte"
    return Step(
        good=served,
        words=words_of(reason),
        status=attempt["status"] if reason in _STATUS_SHOWN or (attempt["status"] or 0) >= 500 else None,
        note=note,
        duration_ms=attempt["duration_ms"],
        account=attempt["upstream"],
        model=attempt["upstream_model"],
        reason=reason,
        cost_nanos=attempt["cost_nanos"],
        upstream_request_id=attempt["upstream_request_id"],
    )


def _phases(row: Mapping[str, Any], attempts: list[dict[str, Any]]) -> list[Phase]:
    """From the head of the request to the end of the answer; none where the detail is pruned, or was never known."""
    total = row["total_ms"]
    if not total:
        return []
    admitted = min(row["admitted_ms"], total)
    first_byte = total if row["first_byte_ms"] is None else min(max(row["first_byte_ms"], admitted), total)
    failed = min(sum(attempt["duration_ms"] for attempt in attempts[:-1]), first_byte - admitted)
    parts = [
        ("Admission", admitted, "k1"),
        ("Failed attempts" if len(attempts) > 2 else "Failed attempt", failed, "k4"),
        ("First byte" if row["first_byte_ms"] is not None else "Waiting", first_byte - admitted - failed, "k2"),
        ("Streaming" if row["stream"] else "Answer", total - first_byte, "k3"),
    ]
    phases, left = [], 0
    for name, ms, shade in parts:
        if ms or name == "Admission":
            phases.append(Phase(name, ms, round(left * 100 / total, 1), max(round(ms * 100 / total, 1), 0.6), shade))
        left += ms
    return phases
