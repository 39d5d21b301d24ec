"""When an operator hears of a user: below which balance."""

from __future__ import annotations

from typing import Any

from gateway.desk.checks import get_user, money, refused
from gateway.desk.desk import Desk
from gateway.desk.jobs import whole
from gateway.money import BadAmount, parse_deposit
from gateway.storage import audit_log, notices
from gateway.storage.ledger import LedgerWriter


@whole
async def set_low_balance(desk: Desk, actor: str, *, user: str, amount: str) -> dict[str, Any]:
    """`amount` is US dollars, "default" (as configured) or "off" (never). In force at the house's next look, 5 s away at most."""
    nanos = _parse_threshold(amount)
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> tuple[dict[str, Any], bool]:
        found = get_user(ledger.conn, user)
        before = notices.set_low_balance(ledger.conn, found["id"], nanos)
        if before != nanos:
            states = {"before": {"low_balance_nanos": before}, "after": {"low_balance_nanos": nanos}}
            audit_log.record(ledger.conn, at_ms, actor, "users.set_low_balance", f"user:{found['name']}", **states)
        return found, before != nanos

    found, changed = await desk.writer.run(job)
    threshold = {"low_balance_nanos": None, "low_balance_usd": None} if nanos is None else money(low_balance=nanos)
    return {"id": found["id"], "name": found["name"], **threshold, "changed": changed}


def _parse_threshold(text: str) -> int | None:
    if text == "default":
        return None
    if text in ("off", "0"):
        return 0
    try:
        return parse_deposit(text)
    except BadAmount as error:
        raise refused(f'amount: {error}; or write "default" or "off"', "amount") from None
