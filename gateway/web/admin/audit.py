"""/admin/audit: who did what, newest first. Changes nothing, and what it shows was written without secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from gateway.desk.acts import WRITES
from gateway.desk.audit import list_audit
from gateway.desk.keys import MONEY_LIMITS
from gateway.errors import ClientError
from gateway.web.forms import Form, parse_number
from gateway.web.page import Page, Route
from gateway.web.text import plain, stamp

PATH = "/admin/audit"
FILTERS = ("actor", "action", "subject", "day")
# What people do at a page about their own sign-in is no act by name.
OTHER_ACTIONS = (
    *("sessions.sign_in", "sessions.sign_out", "sessions.end", "sessions.end_others"),
    *("users.change_password", "users.enable_totp", "users.renew_recovery_codes", "invites.accept"),
)
_CHARS_MAX = 200
_UNITS = ("_nanos", "_at_ms")


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that an act set; None is "was not told", "—" nothing."""

    name: str
    before: str | None
    after: str | None


async def show_audit(page: Page) -> None:
    page.form = Form({name: page.query.get(name, "").strip()[:_CHARS_MAX] for name in (*FILTERS, "before")})
    asked: dict[str, Any] = {name: page.form.get(name) for name in FILTERS if page.form.get(name)}
    values: dict[str, Any] = {
        "asked": asked,
        "actions": sorted({*WRITES, *OTHER_ACTIONS, *(act.split(".")[0] for act in WRITES)}),
    }
    before = page.form.get("before")
    before_id = parse_number(before) or None
    try:
        found = await page.look(lambda conn: list_audit(conn, before=before_id, **asked))
    except ClientError as error:
        await page.refuse("admin/audit.html", error, entries=[], more=None, first=None, **values)
        return
    entries = [{**entry, "who": _who(entry["actor"]), "changes": changes(entry)} for entry in found["entries"]]
    await page.show(
        "admin/audit.html",
        entries=entries,
        more=f"{PATH}?{urlencode({**asked, 'before': found['next_before']})}" if found["next_before"] else None,
        first=f"{PATH}?{urlencode(asked)}" if before_id else None,
        **values,
    )


def changes(entry: Mapping[str, Any]) -> list[Change]:
    """What an entry says was set, in its order; of what there was before only what is no more the same."""
    before, after = entry["before"] or {}, entry["after"] or {}
    return [
        Change(_name(name), _value(name, before.get(name)) if before else None, _value(name, after.get(name)) if after else None)
        for name in {**before, **after}
        if any(state.get(name) not in (None, "", []) for state in (before, after))
    ]


ROUTES = (Route(PATH, "admin/audit", "admin", get=show_audit),)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _who(actor: str) -> tuple[str, str]:
    """(whom a filter finds, what else is said of them): "web:ada 10.0.0.1" is web:ada, from 10.0.0.1."""
    first, _, rest = actor.partition(" ")
    return (first, rest) if ":" in first else (actor, "")


def _name(name: str) -> str:
    for unit in _UNITS:
        name = name.removesuffix(unit)
    return name.replace("_", " ")


def _value(name: str, value: Any) -> str:
    if value is None or value in ("", []):
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("_nanos"):
        return plain(value)
    if isinstance(value, int) and name.endswith("_at_ms"):
        return stamp(value)
    if name in MONEY_LIMITS:
        return f"${value}"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
