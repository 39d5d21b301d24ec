"""/dashboard/keys: what one has made, each with its limits, state and cost; make, change, rotate and revoke them.

    /dashboard/keys               the table, and the form for a new one
    /dashboard/keys/ID            the secret once, how to use the key, where its limits stand
    /dashboard/keys/ID/edit, /rotate, /revoke

What a user may ask for is `desk/own_keys.py`'s to say; a field that is left empty is as the plan, or the operator, has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gateway.access import Key, Own, Plan, complete
from gateway.desk import own_keys
from gateway.desk.checks import parse_duration_ms, parse_limit_usd
from gateway.desk.keys import MONEY_LIMITS
from gateway.desk.own_keys import OwnKey, Wish
from gateway.errors import ClientError
from gateway.limits import Terms
from gateway.money import format_usd
from gateway.web.levels import TITLES, Meter, limit_words, meters_of
from gateway.web.page import Page, Route
from gateway.web.states import State

PATH = "/dashboard/keys"

EXPIRIES = {"1d": "In a day", "7d": "In 7 days", "30d": "In 30 days", "90d": "In 90 days", "365d": "In a year"}
GRACES = {"0": "At once", "1h": "After an hour", "24h": "After a day", "7d": "After 7 days"}
NAME_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Row:
    own: OwnKey
    meters: list[Meter]
    state: State
    dead: bool

    @property
    def key(self) -> Key:
        return self.own.key

    @property
    def tightest(self) -> Meter | None:
        """What of a day, a month or all is nearest to its limit."""
        return max((meter for meter in self.meters if meter.counts_a_period), key=lambda meter: meter.percent, default=None)

    @property
    def other_terms(self) -> str:
        return ", ".join(meter.terms for meter in self.meters if meter is not self.tightest)


async def show_keys(page: Page) -> None:
    await page.show("dashboard/keys.html", **await _listed(page), **_fields(page, Own()))


async def create_key(page: Page) -> None:
    try:
        wish = _wish(page)
        expires = page.form.get("expires")
        made = await own_keys.create_own_key(page.desk, page.actor, page.member, wish, expires or None)
    except ClientError as error:
        await page.refuse("dashboard/keys.html", error, also=("models",), **await _listed(page), **_fields(page, Own()))
        return
    await page.go(f"{PATH}/{made['id']}", "Key created.", secret=made["secret"])


async def show_key(page: Page) -> None:
    row = _row(page, await _find(page))
    uses = await asyncio.to_thread(page.pages.manual.uses, row.key.models)
    await page.show("dashboard/key.html", row=row, uses=uses)


async def show_edit(page: Page) -> None:
    key, given = await _living(page)
    await page.show("dashboard/key_edit.html", key=key, **_fields(page, given, key.own))


async def edit_key(page: Page) -> None:
    key, given = await _living(page)
    try:
        done = await own_keys.update_own_key(page.desk, page.actor, key, given, _wish(page))
    except ClientError as error:
        await page.refuse("dashboard/key_edit.html", error, also=("models",), key=key, **_fields(page, given, key.own))
        return
    await page.go(f"{PATH}/{key.id}", "Key changed." if done["changed"] else "Nothing was to be changed.")


async def show_rotate(page: Page) -> None:
    key, _ = await _living(page)
    await page.show("dashboard/key_rotate.html", key=key, graces=GRACES)


async def rotate_key(page: Page) -> None:
    key, _ = await _living(page)
    try:
        grace = page.form.get("grace", "0")
        if grace not in GRACES:
            raise ClientError("invalid_request", "Choose one of the list.", param="grace")
        made = await own_keys.rotate_own_key(page.desk, page.actor, key, grace)
    except ClientError as error:
        await page.refuse("dashboard/key_rotate.html", error, key=key, graces=GRACES)
        return
    ended = "The old secret is dead." if grace == "0" else "Both secrets work until the old one ends."
    await page.go(f"{PATH}/{made['id']}", f"Key rotated. {ended}", secret=made["secret"])


async def show_revoke(page: Page) -> None:
    await page.show("confirm.html", **_revocation((await _find(page)).key))


async def revoke_key(page: Page) -> None:
    key = (await _find(page)).key
    done = await own_keys.revoke_own_key(page.desk, page.actor, key)
    if done["changed"]:
        await page.go(PATH, f"Key revoked: {key.name}.")
    else:
        await page.go(PATH, "That key was dead before.", "warn")


ROUTES = (
    Route(PATH, "keys", "user", get=show_keys, post=create_key),
    Route(f"{PATH}/{{key}}", "keys/key", "user", get=show_key),
    Route(f"{PATH}/{{key}}/edit", "keys/edit", "user", get=show_edit, post=edit_key),
    Route(f"{PATH}/{{key}}/rotate", "keys/rotate", "user", get=show_rotate, post=rotate_key),
    Route(f"{PATH}/{{key}}/revoke", "keys/revoke", "user", get=show_revoke, post=revoke_key),
)


# ── what there is ────────────────────────────────────────────────────────────────────────────────────────────────────


async def _listed(page: Page) -> dict[str, Any]:
    member, plan, now_ms = page.member, _plan(page), page.now_ms
    found = await page.look(lambda conn: own_keys.list_own_keys(conn, member, plan, now_ms))
    rows = [_row(page, own) for own in found]
    return {
        "living": [row for row in rows if not row.dead],
        "dead": [row for row in rows if row.dead],
        "month": f"{datetime.fromtimestamp(now_ms / 1000, UTC):%B}",
    }


async def _find(page: Page) -> OwnKey:
    """The key of the path. Raises ClientError `not_found`, also for another's."""
    key_id, member, plan, now_ms = page.number("key"), page.member, _plan(page), page.now_ms
    return await page.look(lambda conn: own_keys.find_own_key(conn, member, plan, key_id, now_ms))


async def _living(page: Page) -> tuple[Key, Own]:
    """The key of the path as it is stored, and what its user was given. Raises ClientError for a dead one."""
    key_id, user_id, now_ms = page.number("key"), page.me.user_id, page.now_ms

    def find(conn: Any) -> tuple[Key, Own]:
        key = own_keys.get_living_key(conn, user_id, key_id, now_ms)
        return key, own_keys.given_to(conn, key)

    return await page.look(find)


def _plan(page: Page) -> Plan:
    return own_keys.plan_of(page.desk, page.member.plan)


def _row(page: Page, own: OwnKey) -> Row:
    dead = own.is_dead(page.now_ms)
    meters = [] if dead else meters_of(page.desk, own.key)
    return Row(own, meters, _state(own, meters, page.now_ms), dead)


def _state(own: OwnKey, meters: list[Meter], now_ms: int) -> State:
    """From what ends a key to what only slows it down."""
    key, heir = own.key, own.replaced_by
    if key.revoked_at_ms is not None and key.revoked_at_ms <= now_ms:
        if heir is not None:
            return State("idle", "s-off", "Replaced", f"by {heir.hint}…")
        return State("idle", "s-off", "Revoked", "", key.revoked_at_ms)
    if key.expires_at_ms is not None and key.expires_at_ms <= now_ms:
        return State("idle", "s-off", "Expired", "", key.expires_at_ms)
    if key.dead_at_ms is not None and heir is not None:
        return State("warn", "s-cool", "Replaced", f"by {heir.hint}…, works until", key.dead_at_ms)
    full = next((meter for meter in meters if meter.is_full), None)
    if full is not None:
        until_ms = full.resets_at_ms if full.counts_a_period else None
        return State("warn", "s-cool", "At its limit", full.why_full + (", until" if until_ms else ""), until_ms)
    near = next((meter for meter in meters if meter.is_near), None)
    if near is not None:
        return State("warn", "s-cool", "Near its limit", near.words)
    if key.expires_at_ms is not None:
        return State("ok", "s-ok", "Active", "expires", key.expires_at_ms)
    return State("ok", "s-ok", "Active")


# ── forms ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _fields(page: Page, given: Own, own: Own | None = None) -> dict[str, Any]:
    """What the form of a key needs: what was given (an operator's word over the plan's), and what the key says now."""
    plan = _plan(page)
    allowed = complete(_as_given(given), plan)
    form, said = page.form, dict((own or Own()).limits)
    sent = form.has("name")
    offered = [model for model in page.desk.catalog if allowed.models is None or model.id in allowed.models]
    chosen = own.models if own is not None and own.models != given.models else None
    ticked = {model.id for model in offered if (form.has(f"model.{model.id}") if sent else model.id in (chosen or ()))}
    addresses = own.addresses if own is not None and own.addresses != given.addresses else None
    limits = [_limit_field(name, getattr(allowed.terms, name), said, given) for name in Terms.__slots__]
    values = {limit["option"]: form.get(limit["option"], limit["default"]) for limit in limits}
    addresses_typed = form.get("addresses", " ".join(map(str, addresses or ())))
    chosen_some = form.get("which") == "some" if sent else chosen is not None
    names = {"name": "Name", "expires": "Expiry", "models": "Models", "addresses": "Addresses"}
    return {
        "limits": limits,
        "offered": offered,
        "ticked": ticked,
        "chosen_some": chosen_some,
        "addresses": addresses_typed,
        "allowed": allowed,
        "plan": plan,
        "expiries": _expiries(plan),
        "unfolded": bool(form.errors) or any(values.values()) or bool(addresses_typed) or chosen_some,
        "labels": names | {limit["option"]: limit["label"] for limit in limits},
    }


def _as_given(given: Own) -> Key:
    """A key that says what was given, and nothing else of importance."""
    return Key(0, 0, 0, "", 0, "", "", own=given)


def _limit_field(name: str, most: int, said: Mapping[str, int], given: Own) -> dict[str, Any]:
    option = name.removesuffix("_nanos")
    money = option in MONEY_LIMITS
    own = said.get(name)
    # What somebody else said of this key is what an empty field means.
    own = None if own == dict(given.limits).get(name) else own
    return {
        "option": option,
        "label": TITLES[name],
        "money": money,
        "default": "" if own is None else format_usd(own) if money else str(own),
        "given": limit_words(name, most),
        "from_plan": name not in dict(given.limits),
    }


def _expiries(plan: Plan) -> dict[str, str]:
    if not plan.keys_expire:
        return {"": "Never", **EXPIRIES}
    most_ms = parse_duration_ms(plan.keys_expire, "expires")
    shorter = {text: words for text, words in EXPIRIES.items() if parse_duration_ms(text, "expires") < most_ms}
    return {"": f"After {plan.keys_expire}, as your plan has it", **shorter}


def _wish(page: Page) -> Wish:
    """What was typed. Raises ClientError for the last field that cannot be read; all of them are noted in the form."""
    form = page.form
    limits: dict[str, int | str] = {}
    wrong: ClientError | None = None
    for name in Terms.__slots__:
        option = name.removesuffix("_nanos")
        text = form.get(option).replace(",", "").removeprefix("$")
        if not text:
            continue
        if option in MONEY_LIMITS:
            try:
                parse_limit_usd(text, option)
            except ClientError as error:
                wrong = error
                form.refuse(wrong)
            limits[option] = text
        elif text.isascii() and text.isdigit() and len(text) <= 13:
            limits[option] = int(text)
        else:
            wrong = ClientError("invalid_request", "Write a whole number such as 60, or leave it empty.", param=option)
            form.refuse(wrong)
    models = None
    if form.get("which") == "some":
        models = [name.removeprefix("model.") for name in form.names() if name.startswith("model.")]
        if not models:
            wrong = ClientError("invalid_request", "Tick at least one model, or choose all of them.", param="models")
            form.refuse(wrong)
    if wrong is not None:
        raise wrong
    addresses = form.get("addresses").replace(",", " ").split() or None
    return Wish(form.get("name") or NAME_DEFAULT, limits, models, addresses)


def _revocation(key: Key) -> dict[str, Any]:
    return {
        "question": f"Revoke “{key.name}”?",
        "sentences": [
            f"Programs that use {key.hint}… get error 401 from the next request on. Requests that run end normally.",
            "This cannot be undone; to keep its limits under a new secret, rotate it instead.",
        ],
        "fields": [],
        "back": PATH,
        "keep": "Keep key",
        "act": "Revoke key",
        "tone": "bad",
    }
