"""/admin/ledger: that all balances together are zero, what the last audits proved, the accounts and the transfers between them.

The page shows what audits have found; "Check now" runs one, in the background if it takes longer than a page may.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from gateway.desk.acts import perform
from gateway.desk.books import TRANSFERS_SHOWN, Books, Check, read_books
from gateway.errors import ClientError
from gateway.web.forms import parse_number
from gateway.web.page import Page, Route

PATH = "/admin/ledger"
# What is done by then is told on the next page; a longer audit goes on without anybody waiting.
WAIT_S = 2

_RESTORE = (
    "No command repairs this: nothing tells what the rows should be. Keep this file, put the latest backup in its place (it was"
    " audited when it was made), and top up or withdraw what has moved since."
)
_RESTART = "A restart resolves what a stopped process left behind. If this is still broken after one, restore the latest backup."
_CHARGE = (
    "The request was not charged what its usage says. `pagegrid usage get` has it in full; what was charged too much goes back"
    " with `pagegrid wallets refund`. If you did not change the file by hand, restore the latest backup."
)
_CREDIT = (
    "Look at who redeemed what with `pagegrid vouchers list` and `pagegrid invites list`, then take out what was credited too"
    " much (`pagegrid wallets withdraw`), or top up what is missing."
)
# What to do about a broken invariant, by its number; _RESTORE for all others.
_REMEDIES = {
    "3a": _RESTART,
    "3b": _RESTART,
    "6": _RESTART,
    "6b": _RESTART,
    **dict.fromkeys(("4a", "4b", "4c", "4d"), _CHARGE),
    "7b": "More was given back than was paid. Take the difference out of the wallet with `pagegrid wallets withdraw`.",
    **dict.fromkeys(("10a", "10b"), _CREDIT),
}
# Why an audit was run, where nobody asked for it.
_REASONS = {"start": "at the start", "hourly": "by the hour", "daily": "once a day"}
_KINDS = {"deposit": "top-up", "promo": "credit", "promo_reversed": "credit taken back", "withdraw": "withdrawal"}


async def show_ledger(page: Page) -> None:
    before_id, after_id = _place(page, "before"), _place(page, "after")
    books = await page.look(functools.partial(read_books, before_id=before_id, after_id=after_id))
    checking = page.desk.checking
    await page.show(
        "admin/ledger.html",
        books=books,
        checks=[_render(check) for check in books.checks],
        reasons=_REASONS,
        kinds=_KINDS,
        since_ms=checking.since_ms,
        trouble=checking.trouble,
        **_pages(books, before_id, after_id),
    )


async def check_now(page: Page) -> None:
    desk = page.desk
    started = desk.checking.start(perform(desk, page.actor, "ledger.audit", {}), page.now_ms)
    if not await desk.checking.wait(WAIT_S):
        words = "The check goes on" if started else "A check was running already, and goes on"
        await page.go(PATH, f"{words}; every transfer and request is read. This page shows the result when it is done.", "")
        return
    if desk.checking.trouble:
        await page.go(PATH, f"The check did not come to its end: {desk.checking.trouble}", "bad")
        return
    broken = len((await page.look(read_books)).broken)
    if broken:
        await page.go(PATH, f"Checked: {broken} of the invariants {'is' if broken == 1 else 'are'} broken.", "bad")
    else:
        await page.go(PATH, "Checked from the first transfer to the last: everything holds.")


ROUTES = (
    Route(PATH, "admin/ledger", "admin", get=show_ledger),
    Route(f"{PATH}/check", "admin/ledger/check", "admin", post=check_now),
)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _place(page: Page, name: str) -> int | None:
    text = page.query.get(name)
    if text is None:
        return None
    if (number := parse_number(text)) is None:
        raise ClientError("invalid_request", f"{name} is the number of a transfer, such as 1200.", param=name)
    return number


def _pages(books: Books, before_id: int | None, after_id: int | None) -> dict[str, Any]:
    """The links to newer and older transfers, None where there are none. Ids are without a gap, so 1 is the last one."""
    lines = books.transfers
    whole = len(lines) == TRANSFERS_SHOWN
    newer = lines and (before_id is not None or (after_id is not None and whole))
    return {
        "newer": f"{PATH}?after={lines[0].id}#transfers" if newer else None,
        "older": f"{PATH}?before={lines[-1].id}#transfers" if lines and lines[-1].id > 1 else None,
        "latest": before_id is None and after_id is None,
    }


def _render(check: Check) -> dict[str, Any]:
    """An invariant with its words, its query and what was found."""
    number, _, words = check.invariant.name.partition(" ")
    found = check.finding
    rows = [_readable(row) for row in found.rows] if found else []
    return {
        "number": number,
        "words": words[:1].upper() + words[1:],
        "sql": inspect.cleandoc(check.invariant.sql),
        "audit": check.audit,
        "whole_only": check.invariant.whole,
        "found": found,
        "columns": list(dict.fromkeys(column for row in rows for column in row)),
        "rows": rows,
        "remedy": _REMEDIES.get(number, _RESTORE),
    }


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """Without the numbers of what has a name beside it."""
    hidden = {"request_id"} if "request" in row else set()
    hidden |= {column for column in row if column.removesuffix("_id") + "_name" in row}
    return {column: value for column, value in row.items() if column not in hidden}
