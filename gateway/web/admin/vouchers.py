"""/admin/vouchers: batches of codes, each worth a sum once. The codes are shown when they are made, and never again.

A batch is found by the number of any of its vouchers, as its name may be anything; its own address has the first one's.
"""

from __future__ import annotations

from typing import Any

from gateway.clock import rfc3339
from gateway.desk import vouchers
from gateway.desk.checks import refused
from gateway.desk.csv_text import render_csv
from gateway.errors import ClientError
from gateway.web.forms import parse_number
from gateway.web.notes import Note
from gateway.web.page import Page, Route

PATH = "/admin/vouchers"
# Of batches, and of a batch's codes.
PAGE = 100


async def show_batches(page: Page) -> None:
    await page.show("admin/vouchers.html", **await _batches(page))


async def create(page: Page) -> None:
    try:
        made = await vouchers.create_vouchers(
            page.desk,
            page.actor,
            amount=page.form.get("amount"),
            batch=page.form.get("batch"),
            count=_count(page.form.get("count")),
            expires=page.form.get("expires") or None,
        )
    except ClientError as error:
        await page.refuse("admin/vouchers.html", error, **await _batches(page))
        return
    path = f"{PATH}/{made['vouchers'][0]['id']}"
    # Once for the page, and once for the file: both are gone with this process, or after some minutes.
    now_ms = page.desk.clock.now_ms()
    page.notes.put(page.me.id, f"{path}/codes.csv", Note("", shown={"made": made}), now_ms)
    codes = [voucher["code"] for voucher in made["vouchers"]]
    await page.go(path, "Vouchers created. Their codes are shown here, once.", codes=codes)


async def send_codes(page: Page) -> None:
    """As CSV, once."""
    note = page.notes.take(page.me.id, page.request.path, page.desk.clock.now_ms())
    if note is None:
        back = f"{PATH}/{page.number('voucher')}"
        await page.go(back, "These codes were downloaded already, or too long ago: they cannot be shown again.", "bad")
        return
    made = note.shown["made"]
    until = "" if made["expires_at_ms"] is None else rfc3339(made["expires_at_ms"])
    rows = [(each["code"], made["amount_usd"], until, made["batch"]) for each in made["vouchers"]]
    text = render_csv(("code", "amount_usd", "expires_at", "batch"), rows)
    headers = [("content-disposition", f'attachment; filename="vouchers-{made["vouchers"][0]["id"]}.csv"')]
    await page.send(text.encode(), "text/csv; charset=utf-8", headers=headers)


async def show_batch(page: Page) -> None:
    before_id = parse_number(page.query.get("before", ""))
    _, batch = await _find(page)
    name = batch["batch"]
    listed = await page.look(lambda conn: vouchers.list_vouchers(conn, batch=name, before=before_id or None, limit=PAGE))
    await page.show("admin/voucher_batch.html", batch=batch, paged=bool(before_id), **listed)


async def ask_void(page: Page) -> None:
    voucher, batch = await _find(page)
    await page.show(
        "confirm.html",
        question=f"Void the voucher {voucher['hint']}…?",
        sentences=[
            f"Number {voucher['id']} of “{batch['batch']}”. Whoever has its code can redeem it no more.",
            "This cannot be undone.",
        ],
        fields=[],
        back=_path(batch),
        keep="Keep it",
        act="Void voucher",
        tone="bad",
    )


async def void(page: Page) -> None:
    voucher, batch = await _find(page)
    await _void(page, _path(batch), "Voucher void.", "It was void already.", voucher_id=voucher["id"])


async def ask_void_batch(page: Page) -> None:
    _, batch = await _find(page)
    await page.show(
        "confirm.html",
        question=f"Void what is open of “{batch['batch']}”?",
        sentences=[
            f"{batch['open']:,} of {_size(batch):,} vouchers are open; whoever has one of their codes can redeem it no more.",
            f"What was redeemed ({batch['redeemed']:,}) stays redeemed. This cannot be undone.",
        ],
        fields=[],
        back=_path(batch),
        keep="Keep them",
        act="Void batch",
        tone="bad",
    )


async def void_batch(page: Page) -> None:
    _, batch = await _find(page)
    await _void(
        page, _path(batch), "Batch void: what was open can be redeemed no more.", "Nothing was open.", batch=batch["batch"]
    )


ROUTES = (
    Route(PATH, "admin/vouchers", "admin", get=show_batches, post=create),
    Route(f"{PATH}/{{voucher}}", "admin/vouchers/batch", "admin", get=show_batch),
    Route(f"{PATH}/{{voucher}}/codes.csv", "admin/vouchers/codes", "admin", post=send_codes),
    Route(f"{PATH}/{{voucher}}/void", "admin/vouchers/void", "admin", get=ask_void, post=void),
    Route(f"{PATH}/{{voucher}}/void-batch", "admin/vouchers/void-batch", "admin", get=ask_void_batch, post=void_batch),
)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _batches(page: Page) -> dict[str, Any]:
    before_id = parse_number(page.query.get("before", ""))
    found = [batch for batch in await page.look(vouchers.list_batches) if batch["first_voucher_id"] < (before_id or 2**63)]
    older = found[PAGE - 1]["first_voucher_id"] if len(found) > PAGE else None
    return {"batches": found[:PAGE], "older": older, "paged": bool(before_id)}


async def _find(page: Page) -> tuple[dict[str, Any], dict[str, Any]]:
    voucher_id = page.number("voucher")
    return await page.look(lambda conn: vouchers.show_voucher(conn, voucher_id=voucher_id))


async def _void(page: Page, back: str, done: str, nothing: str, **which: Any) -> None:
    try:
        result = await vouchers.void_vouchers(page.desk, page.actor, **which)
    except ClientError as error:
        await page.go(back, f"Nothing was changed: {error.message}.", "bad")
        return
    await page.go(back, done if result["voided"] else nothing, "ok" if result["voided"] else "warn")


def _path(batch: dict[str, Any]) -> str:
    return f"{PATH}/{batch['first_voucher_id']}"


def _size(batch: dict[str, Any]) -> int:
    return int(batch["open"] + batch["redeemed"] + batch["voided"])


def _count(text: str) -> int:
    if (count := parse_number(text)) is None:
        raise refused(f"count: write a number from 1 to {vouchers.BATCH_MAX}", "count")
    return count
