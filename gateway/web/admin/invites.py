"""/admin/invites: links with which people make an account of their own. A link is shown when it is made, and never again."""

from __future__ import annotations

from typing import Any

from gateway.access import DEFAULT_PLAN
from gateway.desk import invites
from gateway.errors import ClientError
from gateway.web.entry import INVITE_PATH
from gateway.web.forms import parse_number
from gateway.web.page import Page, Route

PATH = "/admin/invites"
PAGE = 100


async def show_invites(page: Page) -> None:
    await page.show("admin/invites.html", **await _invites(page))


async def create(page: Page) -> None:
    try:
        made = await invites.create_invite(
            page.desk,
            page.actor,
            credit=page.form.get("credit") or "0",
            plan=page.form.get("plan", DEFAULT_PLAN),
            email=page.form.get("email") or None,
            expires=page.form.get("expires"),
            note=page.form.get("note"),
        )
    except ClientError as error:
        await page.refuse("admin/invites.html", error, **await _invites(page))
        return
    await page.go(PATH, "Invite created. Its link is shown here, once.", path=f"{INVITE_PATH}/{made['token']}")


async def ask_revoke(page: Page) -> None:
    invite = await _find(page)
    whom = f" for {invite['email']}" if invite["email"] else ""
    await page.show(
        "confirm.html",
        question=f"Revoke invite {invite['id']}{whom}?",
        sentences=["Whoever has its link can make no account with it any more. This cannot be undone."],
        fields=[],
        back=PATH,
        keep="Keep it",
        act="Revoke invite",
        tone="bad",
    )


async def revoke(page: Page) -> None:
    invite = await _find(page)
    try:
        result = await invites.revoke_invite(page.desk, page.actor, invite_id=invite["id"])
    except ClientError as error:
        await page.go(PATH, f"Nothing was changed: {error.message}.", "bad")
        return
    await page.go(
        PATH, "Invite revoked." if result["changed"] else "It was revoked already.", "ok" if result["changed"] else "warn"
    )


ROUTES = (
    Route(PATH, "admin/invites", "admin", get=show_invites, post=create),
    Route(f"{PATH}/{{invite}}/revoke", "admin/invites/revoke", "admin", get=ask_revoke, post=revoke),
)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _invites(page: Page) -> dict[str, Any]:
    before_id = parse_number(page.query.get("before", ""))
    found = [invite for invite in reversed(await page.look(invites.list_invites)) if invite["id"] < (before_id or 2**63)]
    return {
        "invites": found[:PAGE],
        "older": found[PAGE - 1]["id"] if len(found) > PAGE else None,
        "paged": bool(before_id),
        "signup": page.desk.gate.rules.signup,
        "plans": {name: name for name in page.desk.plans},
    }


async def _find(page: Page) -> dict[str, Any]:
    invite_id = page.number("invite")
    return await page.look(lambda conn: invites.show_invite(conn, invite_id=invite_id))
