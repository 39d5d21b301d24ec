"""/key: whoever holds a key, with or without an account, sees what is left on it. By POST, so that the key is in no address.

What is shown is what the key itself could ask the API for, and nobody's name. Guessing is slowed down by address.
"""

from __future__ import annotations

from typing import Any

from gateway.access import Key, check_address
from gateway.admins import party_of
from gateway.desk.own_keys import list_requests_of_key
from gateway.errors import ClientError
from gateway.web.levels import meters_of
from gateway.web.page import Page, Route

PATH = "/key"
REQUESTS_SHOWN = 20


async def show_field(page: Page) -> None:
    await page.show("key.html", found=None)


async def show_key(page: Page) -> None:
    try:
        key = _find(page)
    except ClientError as error:
        await page.refuse("key.html", error, found=None)
        return
    now_ms = page.now_ms
    requests = await page.look(lambda conn: list_requests_of_key(conn, key, now_ms, REQUESTS_SHOWN))
    found: dict[str, Any] = {
        "key": key,
        "money": page.desk.book.wallet(key.wallet_id),
        "meters": meters_of(page.desk, key),
        "requests": requests,
    }
    await page.show("key.html", found=found)


ROUTES = (Route(PATH, "key", "anyone", get=show_field, post=show_key),)


def _find(page: Page) -> Key:
    """The key that was typed. Raises ClientError: it is none, or not from here, or there were too many tries."""
    desk, party, typed = page.desk, party_of(page.inbound.address), page.form.get("key")
    if not typed:
        raise ClientError("invalid_request", "Paste the whole key.", param="key")
    desk.gate.shown_keys.check(party, desk.clock.now_ms())
    desk.gate.shown_keys.count(party, desk.clock.now_ms())
    try:
        # As the API reads a header.
        key = desk.keys.authenticate([("x-api-key", typed)], desk.key_prefix, page.now_ms)
        check_address(key, page.inbound.address)
    except ClientError as error:
        error.param = "key"
        raise
    desk.gate.shown_keys.give_back(party)
    return key
