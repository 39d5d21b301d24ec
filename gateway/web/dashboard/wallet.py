"""/dashboard/wallet: what is in the wallet and how it came to be that, month by month or a day at a time; vouchers."""

from __future__ import annotations

import logging
from typing import Any

from gateway.desk import vouchers
from gateway.desk.csv_text import render_csv
from gateway.desk.months import Line, Period, Statement, parse_period, read_statement
from gateway.errors import ClientError
from gateway.ids import render_id
from gateway.money import format_usd
from gateway.web.forms import parse_number
from gateway.web.page import Page, Route
from gateway.web.text import iso_day, stamp, usd

logger = logging.getLogger(__name__)

PATH = "/dashboard/wallet"

# What moved the balance, as people call it: one, several.
WORDS = {
    "settle": ("Charge", "Charges"),
    "deposit": ("Top-up", "top-ups"),
    "voucher": ("Voucher", "vouchers"),
    "invite": ("Credit of an invite", "credits of invites"),
    "promo": ("Credit", "credits"),
    "promo_reversed": ("Credit taken back", "credits taken back"),
    "withdraw": ("Withdrawal", "withdrawals"),
    "refund": ("Refund", "refunds"),
    "overrun_collected": ("Overrun collected", "overruns collected"),
}
_CSV = ("at", "what", "count", "transfer", "request_id", "amount_usd", "balance_after_usd", "reference", "note")


async def show_wallet(page: Page) -> None:
    await page.show("dashboard/wallet.html", **_told(await _read(page, day=page.query.get("day"))))


async def redeem(page: Page) -> None:
    try:
        redeemed = await vouchers.redeem_own_voucher(page.desk, page.inbound.address, page.me, code=page.form.get("code"))
    except ClientError as error:
        # The only field that there is: what is wrong stands beside it.
        error.param = "code"
        await page.refuse("dashboard/wallet.html", error, **_told(await _read(page)))
        return
    amount, balance = usd(redeemed["amount_nanos"]), usd(redeemed["balance_nanos"])
    await page.go(PATH, f"Voucher redeemed: {amount} was added. The balance is {balance} now.")


async def send_csv(page: Page) -> None:
    """The month as it is on the page."""
    statement = await _read(page)
    text = render_csv(_CSV, [_row(line) for line in statement.lines])
    name = f"wallet-{statement.period.name}.csv"
    headers = [("content-disposition", f'attachment; filename="{name}"')]
    await page.send(text.encode(), "text/csv; charset=utf-8", headers=headers)


ROUTES = (
    Route(PATH, "wallet", "user", get=show_wallet, post=redeem),
    Route(f"{PATH}/statement.csv", "wallet/statement", "user", get=send_csv),
)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _read(page: Page, day: str | None = None) -> Statement:
    period = parse_period(page.now_ms, month=page.query.get("month"), day=day)
    before = _before(page, period)
    user_id, since_ms, now_ms = page.me.user_id, page.member.created_at_ms, page.now_ms
    statement = await page.look(
        lambda conn: read_statement(conn, user_id, period, now_ms=now_ms, since_ms=since_ms, before=before)
    )
    if not statement.proven:
        # The audit says more, and rings; this is when somebody saw it.
        logger.error("the wallet of %s differs from its movements by %d nanos", page.me.user_name, statement.off_nanos)
    return statement


def _before(page: Page, period: Period) -> int | None:
    text = page.query.get("before")
    if text is None or not period.is_day:
        return None
    if (number := parse_number(text)) is None:
        raise ClientError("invalid_request", "This address leads to no page of that day.", param="before")
    return number


def _told(statement: Statement) -> dict[str, Any]:
    return {"statement": statement, "words": WORDS, "id_of": render_id}


def _row(line: Line) -> tuple[object, ...]:
    one, several = WORDS[line.what]
    return (
        # What stands for a whole day has no time of its own.
        iso_day(line.at_ms) if line.folded else stamp(line.at_ms),
        several if line.folded else one,
        line.count,
        line.transfer_id,
        None if line.request_id is None else render_id(line.request_id),
        format_usd(line.amount_nanos),
        format_usd(line.balance_after_nanos),
        line.reference,
        line.note,
    )
