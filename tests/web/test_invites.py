"""The admin's invites: a link, shown once, that opens one account."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.web.admin import invites
from tests.gateway_tools import Gateway
from tests.signin_tools import PASSWORD
from tests.web.test_wallet import NASTY, shown
from tests.web.tools import Visitor, make_visitor, open_site

OPEN = '[web]\nsignup = "invite"\n[plans.pro]\nfactor = "0.9"\n'


@asynccontextmanager
async def open_admin(folder: Path, more: str = OPEN) -> AsyncIterator[tuple[Gateway, Visitor]]:
    async with open_site(folder, more) as gateway:
        yield gateway, await make_visitor(gateway, "root", role="admin")
        await gateway.assert_settled()


async def make(root: Visitor, **fields: str) -> str:
    answer = await root.post(
        "/admin/invites", **{"credit": "0", "plan": "default", "expires": "7d", "email": "", "note": "", **fields}
    )
    assert answer.headers["location"] == "/admin/invites", shown(answer)
    page = await root.follow(answer)
    found = re.search(re.escape(root.gateway.url) + r"(/join/[\w-]+)", shown(page))
    assert found and "Its link is shown here, once." in shown(page)
    return found.group(1)


async def test_an_invite_is_made_shown_once_and_opens_one_account(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as (gateway, root):
        assert "No invites yet" in shown(await root.get("/admin/invites"))
        path = await make(root, credit="2.50", plan="pro", email="Zoe@Example.com", note=f"for {NASTY}")
        page = await root.get("/admin/invites")
        assert "/join/" not in shown(page) and b"<img" not in page.body and b"/join/" not in page.body
        assert f"zoe@example.com for {NASTY} $2.50 · pro $2.50 pro Open" in shown(page)
        assert (await gateway.table("select actor, action from audit_log order by id desc limit 1")) == [
            ("web:root 127.0.0.1", "invites.create")
        ]
        zoe = Visitor(gateway)
        assert "$2.50" in shown(await zoe.get(path))
        assert (await zoe.post(path, name="zoe", password=PASSWORD, again=PASSWORD)).status == 303
        assert "Used by zoe" in shown(await root.get("/admin/invites"))
        wallet = shown(await zoe.get("/dashboard/wallet"))
        assert "Credit of an invite" in wallet and "1 invite" in wallet
        late = await root.follow(await root.post("/admin/invites/1/revoke"))
        assert "Nothing was changed: invite 1 was used already, by zoe." in shown(late)


async def test_an_invite_is_revoked_after_a_question(tmp_path: Path) -> None:
    async with open_admin(tmp_path) as (gateway, root):
        path = await make(root, email="zoe@example.com")
        assert "Revoke invite 1 for zoe@example.com?" in shown(await root.get("/admin/invites/1/revoke"))
        assert (await Visitor(gateway).get(path)).status == 200
        assert "Invite revoked." in shown(await root.follow(await root.post("/admin/invites/1/revoke")))
        assert (await Visitor(gateway).get(path)).status == 404
        assert "It was revoked already." in shown(await root.follow(await root.post("/admin/invites/1/revoke")))
        for wrong in ("2", "0", "x", str(2**63)):
            assert (await root.get(f"/admin/invites/{wrong}/revoke")).status == 404
            assert (await root.post(f"/admin/invites/{wrong}/revoke")).status == 404


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"credit": "x"}, "credit", "is not an amount"),
        ({"credit": "-1"}, "credit", "is not an amount"),
        ({"credit": NASTY}, "credit", "is not an amount"),
        ({"expires": ""}, "expires", "Write a duration"),
        ({"expires": "never"}, "expires", "Write a duration"),
        ({"email": "zoe"}, "email", "Write an address"),
        ({"email": NASTY}, "email", "Write an address"),
        ({"note": "n" * 501}, "note", "Write 1 to 500 printable characters"),
        ({"plan": "gold"}, "plan", "No plan of this name is configured"),
    ],
)
async def test_what_is_refused_keeps_what_was_typed(tmp_path: Path, fields: dict[str, str], field: str, words: str) -> None:
    async with open_admin(tmp_path) as (gateway, root):
        typed = {"credit": "1.50", "plan": "pro", "expires": "3d", "email": "zoe@example.com", "note": f"for {NASTY}", **fields}
        answer = await root.post("/admin/invites", **typed)
        assert answer.status in (400, 404) and b"<img" not in answer.body
        assert words in shown(answer) and f'id="e-{field}"' in answer.body.decode()
        body = html.unescape(answer.body.decode())
        assert all(f'value="{value}"' in body for name, value in typed.items() if name != "plan")
        assert 'value="pro" selected' in body or field == "plan"
        assert await gateway.table("select count(*) from invites") == [(0,)]


async def test_where_sign_up_is_closed_the_page_says_so_and_how_to_open_it(tmp_path: Path) -> None:
    async with open_admin(tmp_path, "") as (gateway, root):
        page = await root.get("/admin/invites")
        assert "Invites open nothing here: sign-up is closed." in shown(page) and 'signup = "invite"' in shown(page)
        assert "Create invite" not in shown(page)
        answer = await root.post("/admin/invites", credit="1", plan="default", expires="7d", email="", note="")
        assert answer.status == 400 and "Invites open nothing here" in shown(answer)
        assert await gateway.table("select count(*) from invites") == [(0,)]


async def test_many_are_shown_a_page_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invites, "PAGE", 2)
    async with open_admin(tmp_path) as (_, root):
        for number in range(3):
            await make(root, note=f"number {number}")
        first = await root.get("/admin/invites")
        assert "number 0" not in shown(first) and b'rel="next" href="/admin/invites?before=2"' in first.body
        second = await root.get("/admin/invites?before=2")
        assert "number 0" in shown(second) and "number 1" not in shown(second) and b'rel="next"' not in second.body
