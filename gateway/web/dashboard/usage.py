"""/dashboard/usage: every request of one user, what it cost and how that price came about; and the same as CSV."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from gateway.api.usage import CSV
from gateway.desk import requests
from gateway.desk.requests import TIME_DEFAULT, Filter, Listing, Told
from gateway.errors import ClientError, HouseError
from gateway.ids import render_id
from gateway.web.forms import Form
from gateway.web.page import NO_STORE, Page, Route
from gateway.web.pages import SECURITY_HEADERS
from gateway.web.requests import ITEMS, RESULTS, cached_share, prompt_of, state_of, tell
from gateway.web.text import iso_day

PATH = "/dashboard/usage"
CSV_PATH = "/dashboard/usage.csv"
TIMES = {
    "today": "Today",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
    "month": "This month",
    "last-month": "Last month",
    "custom": "From … to …",
}
# What a link carries along; `session` is written as `q`.
_FIELDS = ("time", "start", "end", "key", "model", "status", "q")
# A reader that takes nothing for so long has gone; the file is then visibly cut.
_CSV_WRITE_S = 60


async def show_usage(page: Page) -> None:
    asked = _read(page)
    cursor, now_ms = page.query.get("before", ""), page.now_ms
    opened_id = page.query.get("open", "")
    try:
        before_id, after_id = requests.parse_place(cursor), requests.parse_place(page.query.get("after", ""))
    except ClientError as error:
        page.form.refuse(error)
        before_id = after_id = None
    if before_id is not None:
        after_id = None
    me = page.member

    def read(conn: Any) -> tuple[Listing | None, ClientError | None, Told | None, list[tuple[int, str, str]]]:
        told = requests.get_request(conn, opened_id, user_id=me.id) if opened_id else None
        keys = requests.list_user_keys(conn, me.id, asked.key_id)
        if asked.errors:
            return None, None, told, keys
        try:
            listing = requests.list_page(
                conn, asked, user_id=me.id, wallet_id=me.wallet_id, now_ms=now_ms, before_id=before_id, after_id=after_id
            )
        except ClientError as error:
            return None, error, told, keys
        return listing, None, told, keys

    listing, refusal, told, keys = await page.look(read)
    if refusal is not None:
        page.form.refuse(refusal)
    query = _query(page.form, asked)
    rows = [] if listing is None else [_row(row) for row in listing.rows]
    opened = tell(told) if told is not None else None
    here = {name: page.query[name] for name in ("before", "after") if page.query.get(name)}
    await page.show(
        "dashboard/usage.html",
        status=400 if page.form.errors else 200,
        listing=listing,
        rows=rows,
        opened=opened,
        opened_here=opened is not None and any(row["id"] == opened["id"] for row in rows),
        keys=_key_choices(keys),
        models=listing.models if listing is not None else tuple(filter(None, [asked.model])),
        times=TIMES,
        results=RESULTS,
        items=ITEMS,
        asked=asked,
        filtered=any(name != "time" for name in query),
        csv=f"{CSV_PATH}?{urlencode(query)}",
        link=_link(query),
        turn=_link({**query, **here}),
    )


async def send_csv(page: Page) -> None:
    """Part by part as it is read, the newest first; whoever reads slowly holds nothing up but their own file."""
    asked = _read(page)
    if asked.errors:
        raise ClientError("invalid_request", next(iter(asked.errors.values())), param=next(iter(asked.errors)))
    me, now_ms = page.member, page.now_ms
    before_id: int | None = None
    while True:
        if page.house.closing:
            raise HouseError("unavailable", "The gateway is restarting.", retry_after_s=2)

        def read(conn: Any, before_id: int | None = before_id) -> tuple[str, int | None]:
            return requests.list_csv(conn, asked, user_id=me.id, wallet_id=me.wallet_id, now_ms=now_ms, before_id=before_id)

        begun = time.perf_counter()
        text, following = await page.look(read)
        took_s = time.perf_counter() - begun
        if before_id is None:
            name = f"usage-{iso_day(asked.start_ms)}-{iso_day(asked.end_ms - 1)}.csv"
            told = [CSV, ("content-disposition", f'attachment; filename="{name}"')]
            if following is None:
                await page.send(text.encode(), None, headers=told)
                return
            await page.sink.start(200, [*told, *SECURITY_HEADERS, NO_STORE])
            if page.request.method == "HEAD":
                break
        try:
            async with asyncio.timeout(_CSV_WRITE_S):
                await page.sink.write(text.encode())
        except TimeoutError:
            page.sink.abort()
            return
        if page.has_ended:
            page.sink.abort()
            return
        if following is None or page.request.transport is None:
            break
        before_id = following
        # As long as it took: the other half of the time is everybody else's.
        await asyncio.sleep(took_s)
    await page.sink.end()


ROUTES = (Route(PATH, "usage", "user", get=show_usage), Route(CSV_PATH, "usage.csv", "user", get=send_csv))


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read(page: Page) -> Filter:
    """What is asked for; what is wrong with it stands beside the fields."""
    asked = requests.parse_filter(page.query, page.now_ms)
    page.form = Form({**{name: page.query[name] for name in _FIELDS if name in page.query}, "time": asked.time})
    if asked.search:
        page.form = Form({**{name: page.form.get(name) for name in page.form.names()}, "q": asked.search})
    page.form.errors.update(asked.errors)
    return asked


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "id": render_id(row["request_id"]),
        "told": state_of(row),
        "prompt": prompt_of(row),
        "cached": cached_share(row),
    }


def _query(form: Form, asked: Filter) -> dict[str, str]:
    """The filter as links carry it, without what is the default."""
    texts = {name: form.get(name) for name in _FIELDS if form.get(name)}
    if asked.time == TIME_DEFAULT:
        texts.pop("time", None)
    if asked.time != "custom":
        texts = {name: text for name, text in texts.items() if name not in ("start", "end")}
    return texts


def _link(query: Mapping[str, str]) -> Any:
    """A function that writes a link to this page: the filter, and what is beside it."""

    def write(fragment: str = "", **more: str) -> str:
        texts = {**query, **{name: text for name, text in more.items() if text}}
        return (f"{PATH}?{urlencode(texts)}" if texts else PATH) + (f"#{fragment}" if fragment else "")

    return write


def _key_choices(keys: list[tuple[int, str, str]]) -> dict[str, str]:
    """By id, as text; a name that more than one key has is told with the start of its secret."""
    names = Counter(name for _, name, _ in keys)
    return {"": "All keys"} | {str(key_id): f"{name} ({hint}…)" if names[name] > 1 else name for key_id, name, hint in keys}
