"""/admin/users: everybody, one of them, and what an admin does about them. Money is in `money.py`, keys in `keys.py`.

Every act is the desk's own, so that the audit log has it with the admin's name and address. What shuts somebody out is asked
first. What opens an admin's account (a link to sign in, its second factor, making another admin) asks for the password of whoever
does it: a browser that was left open must not be enough. Nobody does these to themselves here: an admin who disabled themselves
could be the last one, and one's own password and second factor are changed in the settings, where the old ones are asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args
from urllib.parse import urlencode

from gateway.desk import acts
from gateway.desk.credentials import prove
from gateway.desk.people import PAGE_ROWS, Person, get_person, get_user_of_id, key_state, list_people
from gateway.errors import ClientError
from gateway.money import format_usd
from gateway.storage.people import State
from gateway.web.admin.limits import limits_told
from gateway.web.entry import WELCOME_PATH
from gateway.web.forms import parse_number
from gateway.web.page import Page, Route
from gateway.web.pages import base_url

PATH = "/admin/users"

STATES: Mapping[str, str] = {
    "": "everybody",
    "active": "active",
    "disabled": "disabled",
    "frozen": "wallet frozen",
    "owed": "owe something",
    "admin": "admins",
}
assert tuple(STATES) == get_args(State)
ROLES = {"user": "User", "admin": "Admin"}


@dataclass(frozen=True, slots=True)
class Question:
    """An act that is asked before it is done. `title`, `sentences` and `done` have {name} in them."""

    act: str
    title: str
    sentences: tuple[str, ...]
    button: str
    keep: str
    done: str
    same: str = ""
    # Of one's own account, "" where it may be done to oneself.
    not_mine: str = ""
    opens_account: bool = False


QUESTIONS: Mapping[str, Question] = {
    "disable": Question(
        "users.disable",
        "Disable {name}?",
        (
            "From this moment on no request of {name} is let in, and no page opens for them. Requests that run end and are paid.",
            "Their sessions end. Keys and balance are kept: once enabled again, keys that were not revoked work as before.",
        ),
        "Disable",
        "Keep enabled",
        "{name} is disabled.",
        "{name} was disabled already.",
        "You cannot disable yourself; another admin can.",
    ),
    "freeze": Question(
        "wallets.freeze",
        "Freeze the wallet of {name}?",
        (
            "No new request is paid from it. Requests that run end and are paid; nothing is taken out.",
            "{name} can still sign in, and sees that the wallet is frozen when a request is refused.",
        ),
        "Freeze wallet",
        "Keep it open",
        "The wallet of {name} is frozen.",
        "The wallet of {name} was frozen already.",
    ),
    "end-sessions": Question(
        "users.end_sessions",
        "Sign {name} out everywhere?",
        ("All their sessions at these pages end. Keys go on working; whoever has the password can sign in again.",),
        "End all sessions",
        "Leave them signed in",
        "{name} is signed out everywhere.",
    ),
    "disable-totp": Question(
        "users.disable_totp",
        "Remove the second factor of {name}?",
        (
            "Do this only for somebody who has lost both the app and the recovery codes, and only once you are sure that it is "
            "they who ask: afterwards the password alone signs in.",
            "Their recovery codes stop working, and their sessions end. They can set up another app afterwards.",
        ),
        "Remove second factor",
        "Keep it on",
        "{name} has no second factor any more.",
        "{name} had no second factor.",
        "Your own second factor is switched off in your settings, with your password and a code.",
        opens_account=True,
    ),
    "link": Question(
        "users.create_link",
        "Create a sign-in link for {name}?",
        (
            "Whoever opens the link chooses the password of {name} and is signed in. It works once, within an hour; an earlier "
            "link stops working. Hand it to nobody but {name}.",
            "When it is used, their password is replaced and their sessions end. A second factor stays, and is asked for.",
        ),
        "Create link",
        "Cancel",
        "The link is below. It is shown this once.",
        not_mine="Your own password is changed in your settings.",
        opens_account=True,
    ),
}


# ── everybody ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def show_users(page: Page) -> None:
    words, state = page.query.get("q", "").strip(), page.query.get("state", "")
    asked: State = state if state in STATES else ""  # type: ignore[assignment]
    after = page.query.get("after", "")
    after_id = parse_number(after) or 0
    found = await page.look(lambda conn: list_people(conn, page.now_ms, words=words, state=asked, after_id=after_id))
    filters = {name: value for name, value in (("q", words), ("state", asked)) if value}
    await page.show(
        "admin/users.html",
        people=found,
        asked={"q": words, "state": asked},
        states=STATES,
        first=f"{PATH}?{urlencode(filters)}" if after_id else None,
        more=f"{PATH}?{urlencode({**filters, 'after': found.next_after})}" if found.next_after else None,
        page_rows=PAGE_ROWS,
    )


async def show_new(page: Page) -> None:
    await page.show("admin/user_new.html", roles=ROLES, plans=_plans(page))


async def create_user(page: Page) -> None:
    form = page.form
    try:
        if form.get("role") == "admin":
            await prove(page.desk, page.visit, page.me, form.raw("password"))
        arguments = {"name": form.get("name"), "role": form.get("role"), "plan": form.get("plan")}
        email = {"email": form.get("email")} if form.get("email") else {}
        made = await acts.perform(page.desk, page.actor, "users.create", arguments | email)
    except ClientError as error:
        await page.refuse("admin/user_new.html", error, roles=ROLES, plans=_plans(page))
        return
    await page.go(f"{PATH}/{made['id']}", f"{made['name']} was created, with an empty wallet.")


# ── one of them ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def show_user(page: Page) -> None:
    await page.show("admin/user.html", **await _user_values(page))


async def set_plan(page: Page) -> None:
    await _set(
        page, "users.set_plan", {"plan": page.form.get("plan")}, lambda done: f"{done['name']} is on the plan {done['plan']}."
    )


async def set_low_balance(page: Page) -> None:
    def told(done: dict[str, Any]) -> str:
        nanos = done["low_balance_nanos"]
        when = "as the configuration says" if nanos is None else f"below ${format_usd(nanos)}" if nanos else "never"
        return f"A low balance of {done['name']} is told: {when}."

    await _set(page, "users.set_low_balance", {"amount": page.form.get("amount") or "default"}, told)


async def enable(page: Page) -> None:
    await _set(page, "users.enable", {}, lambda done: f"{done['name']} is enabled. Keys that were not revoked work again.")


async def unfreeze(page: Page) -> None:
    await _set(page, "wallets.unfreeze", {}, lambda done: f"The wallet of {done['user']} is open again.")


async def ask(verb: str, page: Page) -> None:
    user = await find_user(page)
    await page.show("confirm.html", **_question(page, QUESTIONS[verb], user))


async def answer(verb: str, page: Page) -> None:
    """Do what was asked."""
    question = QUESTIONS[verb]
    user = await find_user(page)
    try:
        if question.not_mine and user["id"] == page.me.user_id:
            raise ClientError("invalid_request", question.not_mine)
        if question.opens_account and user["role"] == "admin":
            await prove(page.desk, page.visit, page.me, page.form.raw("password"))
        done = await acts.perform(page.desk, page.actor, question.act, {"user": user["name"]})
    except ClientError as error:
        await page.refuse("confirm.html", error, **_question(page, question, user))
        return
    shown = {"link": f"{base_url(page.house, page.request)}{WELCOME_PATH}/{done['token']}"} if "token" in done else {}
    told = question.done if done.get("changed", True) else question.same
    await page.go(f"{PATH}/{user['id']}", told.format(name=user["name"]), **shown)


ROUTES = (
    Route(PATH, "admin/users", "admin", get=show_users),
    Route(f"{PATH}/new", "admin/users/new", "admin", get=show_new, post=create_user),
    Route(PATH + "/{user}", "admin/user", "admin", get=show_user),
    Route(PATH + "/{user}/plan", "admin/user/plan", "admin", post=set_plan),
    Route(PATH + "/{user}/low-balance", "admin/user/low-balance", "admin", post=set_low_balance),
    Route(PATH + "/{user}/enable", "admin/user/enable", "admin", post=enable),
    Route(PATH + "/{user}/unfreeze", "admin/user/unfreeze", "admin", post=unfreeze),
    *(
        Route(
            f"{PATH}/{{user}}/{verb}",
            f"admin/user/{verb}",
            "admin",
            get=functools.partial(ask, verb),
            post=functools.partial(answer, verb),
        )
        for verb in QUESTIONS
    ),
)


# ── for the rooms beside this one ────────────────────────────────────────────────────────────────────────────────────


async def find_user(page: Page) -> dict[str, Any]:
    """Whom the path names. Raises ClientError `not_found`."""
    user_id = page.number("user")
    return await page.look(lambda conn: get_user_of_id(conn, user_id))


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _user_values(page: Page) -> dict[str, Any]:
    user_id = page.number("user")
    person: Person = await page.look(lambda conn: get_person(conn, page.now_ms, user_id))
    return {
        "person": person,
        "mine": person.id == page.me.user_id,
        # What admission knows: the file may be a moment behind it.
        "purse": page.desk.book.wallet(person.wallet_id),
        "states": {key["id"]: key_state(key, page.now_ms) for key in person.keys},
        "limits_told": limits_told,
        "plans": _plans(page),
        "sessions": page.desk.sessions.of_user(person.id, page.now_ms, page.desk.clock.now_ms()),
        "threshold": _threshold(person.low_balance_nanos),
    }


def _threshold(nanos: int | None) -> str:
    """As it is typed."""
    return "" if nanos is None else format_usd(nanos) if nanos else "off"


async def _set(page: Page, act: str, arguments: Mapping[str, Any], told: Callable[[dict[str, Any]], str]) -> None:
    """An act of a form that stands on the user's own page."""
    user = await find_user(page)
    try:
        done = await acts.perform(page.desk, page.actor, act, {"user": user["name"], **arguments})
    except ClientError as error:
        await page.refuse("admin/user.html", error, **await _user_values(page))
        return
    await page.go(f"{PATH}/{user['id']}", told(done))


def _question(page: Page, question: Question, user: Mapping[str, Any]) -> dict[str, Any]:
    fields = []
    if question.opens_account and user["role"] == "admin":
        hint = f"{user['name']} is an admin: what opens their account asks for your password."
        fields.append({"name": "password", "label": "Your password", "hint": hint, "type": "password", "optional": False})
        fields[0]["options"] = {"autocomplete": "current-password"}
    return {
        "question": question.title.format(name=user["name"]),
        "sentences": [sentence.format(name=user["name"]) for sentence in question.sentences],
        "fields": fields,
        "back": f"{PATH}/{user['id']}",
        "keep": question.keep,
        "act": question.button,
        "tone": "bad" if question.act != "users.create_link" else "pri",
    }


def _plans(page: Page) -> dict[str, str]:
    return {name: name for name in sorted(page.desk.plans)}
