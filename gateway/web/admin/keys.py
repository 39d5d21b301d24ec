"""/admin/users/ID/keys/KEY: what an admin does about somebody's key. Limits set here may be wider than the plan's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.desk import acts
from gateway.desk.keys import MONEY_LIMITS, show_key
from gateway.errors import ClientError
from gateway.web.admin.limits import LIMITS, LISTS, plan_told
from gateway.web.admin.users import PATH, find_user
from gateway.web.page import Page, Route


async def show_edit(page: Page) -> None:
    user, key = await _find_key(page)
    await page.show("admin/key.html", **_values(page, user, key))


async def edit(page: Page) -> None:
    user, key = await _find_key(page)
    try:
        arguments = _changed(page, _own(key))
        if arguments:
            await acts.perform(page.desk, page.actor, "keys.update", {"key_id": key["id"], **arguments})
    except ClientError as error:
        await page.refuse("admin/key.html", error, **_values(page, user, key))
        return
    name = arguments.get("name", key["name"])
    told = (
        f"The key {name} is changed; it is in force for the next request."
        if arguments
        else f"Nothing of the key {name} was changed."
    )
    await page.go(f"{PATH}/{user['id']}", told)


async def ask_revoke(page: Page) -> None:
    await page.show("confirm.html", **_question(*await _find_key(page)))


async def revoke(page: Page) -> None:
    user, key = await _find_key(page)
    try:
        done = await acts.perform(page.desk, page.actor, "keys.revoke", {"key_id": key["id"]})
    except ClientError as error:
        await page.refuse("confirm.html", error, **_question(user, key))
        return
    told = f"The key {key['name']} is revoked." if done["changed"] else f"The key {key['name']} was revoked already."
    await page.go(f"{PATH}/{user['id']}", told)


ROUTES = (
    Route(PATH + "/{user}/keys/{key}", "admin/user/key", "admin", get=show_edit, post=edit),
    Route(PATH + "/{user}/keys/{key}/revoke", "admin/user/key/revoke", "admin", get=ask_revoke, post=revoke),
)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _find_key(page: Page) -> tuple[dict[str, Any], dict[str, Any]]:
    """The user and their key. Raises ClientError `not_found` for another's."""
    user, key_id = await find_user(page), page.number("key")
    key = await page.look(lambda conn: show_key(conn, key_id=key_id))
    if key["user"] != user["name"]:
        raise ClientError("not_found", f"This key is not one of {user['name']}.")
    return user, key


def _own(key: Mapping[str, Any]) -> dict[str, str]:
    """What the key says for itself, as the form has it: an empty field is the plan's."""
    own = {name: "" if key[name] is None else str(key[name]) for name in LIMITS}
    own |= {name: " ".join(key[name] or ()) for name in LISTS}
    return {**own, "name": key["name"], "factor": key["factor"], "expires": ""}


def _changed(page: Page, own: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of `keys.update`, of what was typed anew and nothing else: what an admin says holds against the key's user,
    who may narrow it and no more."""
    typed = {name: page.form.get(name) for name in own if page.form.has(name) and page.form.get(name) != own[name]}
    arguments: dict[str, Any] = dict(typed)
    for name, text in typed.items():
        if name in LISTS:
            arguments[name] = text.replace(",", " ").split() or "plan"
        elif name in LIMITS:
            arguments[name] = text if name in MONEY_LIMITS and text else _whole(name, text)
    return arguments


def _whole(name: str, text: str) -> int | str:
    if not text:
        return "plan"
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ClientError(
            "invalid_request", f"{name}: write a whole number, 0 for unlimited, or nothing for the plan's", param=name
        )
    return int(text)


def _values(page: Page, user: Mapping[str, Any], key: Mapping[str, Any]) -> dict[str, Any]:
    plan = page.desk.plans.get(user["plan"])
    hints = {name: f"Plan: {plan_told(plan.terms, name)}." if plan else "" for name in LIMITS}
    return {"user": user, "key": key, "limits": LIMITS, "hints": hints, "own": _own(key)}


def _question(user: Mapping[str, Any], key: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "question": f"Revoke the key {key['name']}?",
        "sentences": [
            f"It is {key['hint']}… of {user['name']}. From this moment on no request with it is let in, and it cannot be brought "
            "back. Requests that run end and are paid.",
        ],
        "fields": [],
        "back": f"{PATH}/{user['id']}",
        "keep": "Keep key",
        "act": "Revoke key",
        "tone": "bad",
    }
