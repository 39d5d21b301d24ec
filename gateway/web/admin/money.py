"""Money in and out of a user's wallet by an admin's hand: top-up, withdrawal, refund.

Each form carries what makes it one movement and not two, however often it is sent: a top-up and a withdrawal their reference, a
refund its number. What is taken out or given back is shown to the last digit before it is done.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

from gateway.desk import acts
from gateway.desk.refunds import Paid, find_paid
from gateway.errors import ClientError
from gateway.web.admin.users import PATH, find_user
from gateway.web.forms import Form
from gateway.web.page import Page, Route
from gateway.web.text import usd

# ── in ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def show_topup(page: Page) -> None:
    await page.show("admin/topup.html", **_movement(page, await find_user(page)))


async def topup(page: Page) -> None:
    user = await find_user(page)
    try:
        done = await acts.perform(page.desk, page.actor, "wallets.topup", _typed(page, user))
    except ClientError as error:
        await page.refuse("admin/topup.html", error, **_movement(page, user))
        return
    amount, reference = usd(done["amount_nanos"]), done["reference"]
    before = f"The top-up of {amount} with the reference {reference}"
    await _tell(page, user, done, f"Topped up by {amount}, reference {reference}.", before)


# ── out ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def show_withdrawal(page: Page) -> None:
    """The form, or, once it is filled in, what would be taken."""
    user = await find_user(page)
    if "amount" not in page.query:
        await page.show("admin/withdraw.html", **_movement(page, user))
        return
    page.form = Form(dict(page.query))
    arguments = _typed(page, user)
    note = arguments.pop("note", "")
    try:
        plan = await acts.perform(page.desk, page.actor, "wallets.plan_withdrawal", arguments)
    except ClientError as error:
        await page.refuse("admin/withdraw.html", error, **_movement(page, user))
        return
    await page.show("admin/withdraw_confirm.html", user=user, plan=plan, reference=arguments["reference"], note_text=note)


async def withdraw(page: Page) -> None:
    user = await find_user(page)
    try:
        done = await acts.perform(page.desk, page.actor, "wallets.withdraw", _typed(page, user))
    except ClientError as error:
        await page.refuse("admin/withdraw.html", error, **_movement(page, user))
        return
    amount, reference = usd(done["amount_nanos"]), done["reference"]
    before = f"The withdrawal of {amount} with the reference {reference}"
    await _tell(page, user, done, f"Withdrawn: {amount}, reference {reference}.", before)


# ── back ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def show_refund(page: Page) -> None:
    """Which request, or, once it is named, what was paid for it and what is left of that."""
    user = await find_user(page)
    request_id = page.query.get("request", "").strip()
    paid = None
    if request_id:
        page.form = Form({"request": request_id})
        try:
            paid = await _find_paid(page, user, request_id)
        except ClientError as error:
            error.param = "request"
            await page.refuse("admin/refund.html", error, user=user, paid=None)
            return
    await page.show("admin/refund.html", user=user, paid=paid)


async def refund(page: Page) -> None:
    user = await find_user(page)
    paid = await _find_paid(page, user, page.form.get("request"))
    arguments: dict[str, Any] = {"request_id": paid.request_id, "note": page.form.get("note")}
    if page.form.get("amount"):
        arguments |= {"amount": page.form.get("amount"), "number": _number(page.form.get("number"))}
    try:
        done = await acts.perform(page.desk, page.actor, "wallets.refund", arguments)
    except ClientError as error:
        if error.param == "number":
            error.param = None  # no field that anybody sees
        await page.refuse("admin/refund.html", error, user=user, paid=paid)
        return
    amount = usd(done["amount_nanos"])
    await _tell(page, user, done, f"Refunded: {amount} of {paid.request_id}.", f"The refund of {amount} of {paid.request_id}")


ROUTES = (
    Route(PATH + "/{user}/topup", "admin/user/topup", "admin", get=show_topup, post=topup),
    Route(PATH + "/{user}/withdraw", "admin/user/withdraw", "admin", get=show_withdrawal, post=withdraw),
    Route(PATH + "/{user}/refund", "admin/user/refund", "admin", get=show_refund, post=refund),
)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _tell(page: Page, user: dict[str, Any], done: dict[str, Any], words: str, before: str) -> None:
    """On the user's page: that it was done, or that `before`, the same movement, was."""
    if done["applied"]:
        await page.go(f"{PATH}/{user['id']}", words)
    else:
        await page.go(f"{PATH}/{user['id']}", f"{before} was made before. Nothing was moved again.", "warn")


def _typed(page: Page, user: dict[str, Any]) -> dict[str, Any]:
    return {"user": user["name"], **{name: page.form.get(name) for name in ("amount", "reference", "note")}}


def _movement(page: Page, user: dict[str, Any]) -> dict[str, Any]:
    """`reference` is one that nobody has used: a form that is sent twice moves its money once."""
    day = datetime.fromtimestamp(page.now_ms / 1000, UTC)
    purse = page.desk.book.wallet(user["wallet_id"])
    return {"user": user, "purse": purse, "reference": f"web-{day:%Y%m%d}-{secrets.token_hex(4)}"}


async def _find_paid(page: Page, user: dict[str, Any], request_id: str) -> Paid:
    paid = await page.look(lambda conn: find_paid(conn, request_id))
    if paid.user_id != user["id"]:
        raise ClientError("not_found", f"This request is not one of {user['name']}.")
    return paid


def _number(text: str) -> int:
    """Of the refund, as the form had it."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 1
