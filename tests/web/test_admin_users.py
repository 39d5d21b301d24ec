"""What an admin sees and does of users, through the pages: found, made, paid, shut out, and never by accident."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.desk.people import PAGE_ROWS
from gateway.ids import render_id
from gateway.web.admin.users import QUESTIONS
from tests.desk_tools import act, audit_rows
from tests.gateway_tools import Answer, Gateway
from tests.signin_tools import OTHER_PASSWORD, PASSWORD, add_app, enter
from tests.web.scene import Scene, open_scene
from tests.web.tools import Visitor, make_visitor, open_site

NASTY = "<img src=x onerror=alert(1)>\"'"
ADDRESS = "127.0.0.1"
PLANS = '[plans.pro]\nrpm = 60\nspend_per_day = "5"\n'


@asynccontextmanager
async def as_root(folder: Path, more: str = PLANS) -> AsyncIterator[tuple[Gateway, Visitor]]:
    """root, who is admin 1, and ada, who is user 2 and has $10 and no password."""
    async with open_site(folder, more) as gateway:
        root = await make_visitor(gateway, "root", role="admin", balance="0")
        await act(gateway.house, "users.create", name="ada", email="ada@example.com")
        await act(gateway.house, "wallets.topup", user="ada", amount="10", reference="opening")
        yield gateway, root
        await gateway.assert_settled()


def shown(answer: Answer) -> str:
    """The text of a page, its blanks as one."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", answer.body.decode())).split())


def names(answer: Answer) -> list[str]:
    return re.findall(r'<a href="/admin/users/\d+">([^<]*)</a>', answer.body.decode())


def value_of(answer: Answer, name: str) -> str:
    found = re.search(rf'name="{name}"[^>]* value="([^"]*)"', answer.body.decode())
    assert found, (name, answer.body)
    return html.unescape(found.group(1))


def acts_of(gateway: Gateway) -> list[dict[str, Any]]:
    """What root did at the pages, sign-ins left out."""
    return [
        row for row in audit_rows(gateway.house.database) if row["actor"] == f"web:root {ADDRESS}" and "sign" not in row["action"]
    ]


async def balance(gateway: Gateway, name: str = "ada") -> str:
    text: str = (await act(gateway.house, "wallets.show", user=name))["available_usd"]
    return text


# ── everybody ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["ada", "Bob", "carol", "root"]),
        ("?q=a", ["ada", "Bob", "carol"]),  # bob@example.com has an a too
        ("?q=BO", ["Bob"]),
        ("?q=carol@", ["carol"]),
        ("?q=EXAMPLE.org", ["carol"]),
        ("?q=%25", []),
        ("?q=nobody", []),
        ("?state=disabled", ["carol"]),
        ("?state=frozen", ["Bob"]),
        ("?state=active&q=ada", ["ada"]),
        ("?state=admin", ["root"]),
        ("?state=owed", []),
        ("?state=whatever&after=x", ["ada", "Bob", "carol", "root"]),
        ("?after=999999999999999999", []),
    ],
)
async def test_users_are_found_by_name_address_and_state(query: str, found: list[str], tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        await act(gateway.house, "users.create", name="Bob", email="bob@example.com")
        await act(gateway.house, "users.create", name="carol", email="carol@example.org")
        await act(gateway.house, "users.disable", user="carol")
        await act(gateway.house, "wallets.freeze", user="Bob")
        answer = await root.get("/admin/users" + query)
        assert answer.status == 200 and names(answer) == found
        assert found or "Show everybody" in shown(answer)


async def test_many_users_come_page_by_page_each_once(tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        await act(gateway.house, "users.import", csv="name\n" + "".join(f"User-{n:03}\nuser-{n:03}x\n" for n in range(60)))
        seen: list[str] = []
        path = "/admin/users?q=user-"
        for _ in range(3):
            answer = await root.get(path)
            assert len(names(answer)) <= PAGE_ROWS
            seen += names(answer)
            more = re.search(r'<a href="([^"]*)" rel="next"', answer.body.decode())
            if more is None:
                break
            path = html.unescape(more.group(1))
        assert len(seen) == len(set(seen)) == 120 and seen == sorted(seen, key=str.lower)
        assert "From the beginning" in shown(answer)


async def test_the_list_shows_what_everybody_has_and_spent(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        root = await scene.visitor("root")
        answer = await root.get("/admin/users")
        assert names(answer) == ["closed-account", "ines", "new", "root", "tidewater"]
        rows = re.findall(r"<tr.*?</tr>", answer.body.decode(), re.DOTALL)
        ines = next(row for row in rows if ">ines<" in row)
        (spent,) = await scene.gateway.table(
            f"select sum(cost_nanos) from usage as u join accounts as a on a.id = u.wallet_id where a.user_id = 2 "
            f"and at_ms >= {month_ago(scene)}"
        )
        assert f'title="${spent[0] / 1e9:.9f}"' in ines
        assert "$1.02" in ines and "pro" in ines  # what the two that run hold
        assert "Disabled" in next(row for row in rows if "closed-account" in row)


def month_ago(scene: Scene) -> int:
    now_ms = scene.clock.at_ms()
    return now_ms - now_ms % 86_400_000 - 29 * 86_400_000


# ── one made ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_user_is_made_and_let_in_by_a_link(tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        await root.get("/admin/users/new")
        answer = await root.post("/admin/users/new", name="bob", email="Bob@Example.com", plan="pro", role="user", password="")
        page = await root.follow(answer)
        assert "bob was created, with an empty wallet." in shown(page) and "bob cannot sign in yet" in shown(page)
        path = answer.headers["location"]
        page = await root.follow(await root.post(path + "/link"))
        link = re.search(r"http://[^<]*/welcome/[\w-]{43}", page.body.decode())
        assert link and link.group().startswith(gateway.url) and "shown this once" in shown(page)
        assert b"/welcome/" not in (await root.get(path)).body
        bob = Visitor(gateway)
        there = link.group().removeprefix(gateway.url)
        await bob.get(there)
        assert (await bob.post(there, password=OTHER_PASSWORD, again=OTHER_PASSWORD)).status == 303
        assert (await bob.get("/dashboard/settings")).status == 200
        assert "cannot sign in yet" not in shown(await root.get(path))
        made, linked = acts_of(gateway)
        assert (made["action"], made["subject"], made["after"]["plan"]) == ("users.create", "user:bob", "pro")
        assert linked["action"] == "users.create_link" and link.group().rpartition("/")[2] not in repr(linked)


@pytest.mark.parametrize(
    ("fields", "field", "why"),
    [
        ({"name": NASTY}, "name", "Write 1 to 64 letters"),
        ({"name": ""}, "name", "Write 1 to 64 letters"),
        ({"name": "ADA"}, "name", "There is a user ada already"),
        ({"name": "ada@example.com"}, "name", "is the address of ada"),
        ({"email": "ada@example.com"}, "email", "is the address of ada already"),
        ({"email": "nobody"}, "email", "Write an address such as"),
        ({"plan": "gold"}, "plan", "No plan of this name is configured"),
        ({"role": "king"}, "role", "Input should be"),
        ({"role": "admin"}, "password", "This is not your password"),
        ({"role": "admin", "password": "a wrong password"}, "password", "This is not your password"),
        ({"name": "half \ud83d emoji"}, "name", "Write 1 to 64 letters"),
    ],
)
async def test_a_refused_user_keeps_what_was_typed(fields: dict[str, str], field: str, why: str, tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        typed = {"name": "bob", "email": "bob@example.com", "plan": "pro", "role": "user", "password": "", **fields}
        typed = {name: text.encode(errors="replace").decode() for name, text in typed.items()}
        answer = await root.post("/admin/users/new", **typed)
        page = answer.body.decode()
        assert answer.status == 400 and why in shown(answer) and f'id="e-{field}"' in page and "<img" not in page
        assert value_of(answer, "name") == typed["name"] and value_of(answer, "email") == typed["email"]
        assert "a wrong password" not in page
        assert await gateway.table("select count(*) from users") == [(2,)] and acts_of(gateway) == []


async def test_an_admin_is_made_by_whoever_shows_their_password(tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        answer = await root.post("/admin/users/new", name="bob", email="", plan="default", role="admin", password=PASSWORD)
        assert answer.status == 303
        assert await gateway.table("select role, email from users where name = 'bob'") == [("admin", None)]


# ── one looked at ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_user_is_shown_to_the_last_digit(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        root, ines = await scene.visitor("root"), await scene.visitor("ines")
        answer = await root.get("/admin/users/2")
        page, text = answer.body.decode(), shown(answer)
        wallet = await act(scene.gateway.house, "wallets.show", user="ines")
        for name in ("balance", "held", "available"):
            whole, _, cents = f"{wallet[f'{name}_nanos'] / 1e9:.9f}".partition(".")
            assert f'${whole}.{cents[:2]}<span class="tail">{cents[2:]}</span>' in page, name
        assert "2 running requests" in text
        for words in ("claude-code · laptop", "60 requests per minute; $10.00 per day", "Revoked", "2,000,000 tokens per month"):
            assert words in text
        # Charges, with links to each, and what moved, with references.
        latest = await scene.gateway.table("select request_id from usage where wallet_id = 6 order by request_id desc limit 10")
        assert len(re.findall(r'href="/admin/requests/req_', page)) == len(latest) == 10
        assert (
            "invoice-2041, bank transfer +$125.00 0000000 #1" in text
            and "Credit voucher " in text
            and "of meetup" in text
            and "1 session" in text
        )
        secret = next(iter(scene.keys.values()))["secret"]
        assert secret not in page and ines.cookies["session"] not in page
        assert "owes" not in text


async def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        key = await act(gateway.house, "keys.create", user="root", name="mine")
        for user in ("999", "0", "x", "9" * 30, "-1", "2%20"):
            for rest in ("", "/topup", "/withdraw", "/refund", f"/keys/{key['id']}", *(f"/{verb}" for verb in QUESTIONS)):
                assert (await root.get(f"/admin/users/{user}{rest}")).status == 404, (user, rest)
        # Nor a key or a request of another's.
        for path in (f"/admin/users/2/keys/{key['id']}", f"/admin/users/2/keys/{key['id']}/revoke"):
            assert (await root.get(path)).status == 404
            assert (await root.post(path, name="x", factor="1")).status == 404
        assert acts_of(gateway) == []


async def test_names_and_notes_of_strangers_are_shown_as_text(tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        await act(gateway.house, "keys.create", user="ada", name=NASTY)
        await act(gateway.house, "wallets.topup", user="ada", amount="1", reference=NASTY, note=NASTY)
        await act(gateway.house, "users.set_password", user="ada", password=PASSWORD)
        ada = Visitor(gateway)
        await ada.get("/login")
        answer = await ada.post("/login", name="ada", password=PASSWORD, headers={"user-agent": NASTY})
        assert answer.status == 303
        for path in ("/admin/users", "/admin/users/2", "/admin/users/2/keys/1", "/admin/users/2/keys/1/revoke", "/admin/audit"):
            body = (await root.get(path)).body
            assert b"<img" not in body and b"onerror=alert(1)>" not in body, path
        for path in ("/admin/users?q=", "/admin/audit?actor=", "/admin/audit?subject=", "/admin/users/2/refund?request="):
            answer = await root.get(path + NASTY)
            assert b"<img" not in answer.body and b"&lt;img src=x" in answer.body, path
        for path in (f"/admin/users/2/withdraw?amount=1&reference={NASTY}&note={NASTY}", f"/admin/audit?day={NASTY}"):
            assert b"<img" not in (await root.get(path)).body, path


# ── money ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_top_up_that_is_sent_twice_moves_its_money_once(tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        page = await root.get("/admin/users/2/topup")
        reference = value_of(page, "reference")
        assert reference != value_of(await root.get("/admin/users/2/topup"), "reference")
        fields = {"amount": "25.50", "reference": reference, "note": "invoice 7"}
        answer = await root.follow(await root.post("/admin/users/2/topup", **fields))
        assert f"Topped up by $25.50, reference {reference}." in shown(answer)
        answer = await root.follow(await root.post("/admin/users/2/topup", **fields))
        assert "was made before. Nothing was moved again." in shown(answer) and 'class="flash warn"' in answer.body.decode()
        assert await balance(gateway) == "35.50"
        (row,) = acts_of(gateway)
        assert (row["actor"], row["action"], row["subject"]) == (f"web:root {ADDRESS}", "wallets.topup", "user:ada")
        assert row["after"]["note"] == "invoice 7"


@pytest.mark.parametrize("kind", ["topup", "withdraw"])
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"amount": "-5"}, "amount"),
        ({"amount": "0"}, "amount"),
        ({"amount": "1e3"}, "amount"),
        ({"amount": "1,50"}, "amount"),
        ({"amount": "0.0000000001"}, "amount"),
        ({"amount": NASTY}, "amount"),
        ({"amount": ""}, "amount"),
        ({"reference": ""}, "reference"),
        ({"reference": "a" * 129}, "reference"),
        ({"note": "a" * 501}, "note"),
    ],
)
async def test_a_refused_movement_moves_nothing_and_keeps_what_was_typed(
    kind: str, fields: dict[str, str], field: str, tmp_path: Path
) -> None:
    async with as_root(tmp_path) as (gateway, root):
        typed = {"amount": "5", "reference": "invoice-1", "note": "why", **fields}
        answer = await root.post(f"/admin/users/2/{kind}", **typed)
        assert answer.status == 400 and f'id="e-{field}"' in answer.body.decode() and b"<img" not in answer.body
        assert {name: value_of(answer, name) for name in typed} == typed
        assert await balance(gateway) == "10.00" and acts_of(gateway) == []


async def test_a_reference_of_another_movement_is_told(tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        answer = await root.post("/admin/users/2/topup", amount="5", reference="opening", note="")
        assert answer.status == 400 and 'id="e-reference"' in answer.body.decode() and "was used before" in shown(answer)
        assert await balance(gateway) == "10.00"


async def test_a_withdrawal_is_shown_before_it_is_made(tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        asked = "?amount=4.25&reference=payback-1&note=asked+for+it"
        page = await root.get("/admin/users/2/withdraw" + asked)
        text = shown(page)
        assert "Withdraw $4.25 from ada?" in text and "payback-1" in text and "asked for it" in text
        assert "$10.00 0000000" in text and "$5.75 0000000" in text
        assert await balance(gateway) == "10.00" and acts_of(gateway) == []
        fields = {name: value_of(page, name) for name in ("amount", "reference", "note")}
        answer = await root.follow(await root.post("/admin/users/2/withdraw", **fields))
        assert "Withdrawn: $4.25, reference payback-1." in shown(answer) and await balance(gateway) == "5.75"
        answer = await root.follow(await root.post("/admin/users/2/withdraw", **fields))
        assert "Nothing was moved again" in shown(answer) and await balance(gateway) == "5.75"
        # Asked again, it says so and offers no button.
        page = await root.get("/admin/users/2/withdraw" + asked)
        assert "Nothing would be moved again" in shown(page) and "solid" not in page.body.decode()
        for query in ("?amount=5.76&reference=r", "?amount=&reference=r", "?amount=1&reference="):
            assert (await root.get("/admin/users/2/withdraw" + query)).status in (400, 402), query
        assert [row["action"] for row in acts_of(gateway)] == ["wallets.withdraw"]


async def test_what_is_held_cannot_be_withdrawn(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        root = await scene.visitor("root")
        wallet = await act(scene.gateway.house, "wallets.show", user="ines")
        answer = await root.get(f"/admin/users/2/withdraw?amount={wallet['balance_usd']}&reference=all")
        assert answer.status == 402 and "can be withdrawn; running requests hold" in shown(answer)
        assert 'id="e-amount"' in answer.body.decode()


async def test_a_refund_shows_what_was_paid_and_is_made_once(tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        root, gateway = await scene.visitor("root"), scene.gateway
        ((request, paid),) = await gateway.table(
            "select request_id, paid_nanos from usage where wallet_id = 6 and paid_nanos > 20000000 order by at_ms desc limit 1"
        )
        text_id, before = render_id(request), (await act(gateway.house, "wallets.show", user="ines"))["balance_nanos"]
        page = await root.get(f"/admin/users/2/refund?request={text_id}")
        assert f"Empty is the whole rest, ${paid / 1e9:.9f}." in shown(page)
        fields = {"request": text_id, "number": value_of(page, "number"), "amount": "0.01", "note": "sorry"}
        for told in ("Refunded: $0.01 of", "was made before. Nothing was moved again."):
            assert told in shown(await root.follow(await root.post("/admin/users/2/refund", **fields)))
        # A second one has a number of its own, and then the rest.
        page = await root.get(f"/admin/users/2/refund?request={text_id}")
        assert value_of(page, "number") == "2"
        answer = await root.post("/admin/users/2/refund", **{**fields, "number": "2", "amount": "10"})
        assert answer.status == 400 and "can be refunded" in shown(answer) and value_of(answer, "amount") == "10"
        for told in ("Refunded:", "was made before. Nothing was moved again."):
            fields |= {"number": "2", "amount": ""}
            assert told in shown(await root.follow(await root.post("/admin/users/2/refund", **fields)))
        assert (await act(gateway.house, "wallets.show", user="ines"))["balance_nanos"] == before + paid
        page = await root.get(f"/admin/users/2/refund?request={text_id}")
        assert "All that was paid for this request was refunded before." in shown(page)
        # Not what is another's, runs, or is nothing.
        for wrong in (text_id.lower()[:-1], "req_", "x" * 300, render_id(1)):
            answer = await root.get(f"/admin/users/2/refund?request={wrong}")
            assert answer.status in (400, 404) and 'id="e-request"' in answer.body.decode(), wrong
            assert (await root.post("/admin/users/2/refund", request=wrong, amount="", note="")).status in (400, 404)
        assert (await root.get(f"/admin/users/3/refund?request={text_id}")).status == 404
        assert (await root.post("/admin/users/3/refund", request=text_id, amount="", note="")).status == 404
        ((running,),) = await gateway.table("select max(id) from holds where state = 'open'")
        assert "still running" in shown(await root.get(f"/admin/users/2/refund?request={render_id(running)}"))


# ── shut out, let in ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_shuts_somebody_out_is_asked_first_and_undone_by_one_press(tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        for verb, column, undo in (("disable", "u.disabled", "enable"), ("freeze", "a.frozen", "unfreeze")):
            sql = f"select {column} from users as u join accounts as a on a.user_id = u.id where u.name = 'ada'"
            page = await root.get(f"/admin/users/2/{verb}")
            assert page.status == 200 and "ada" in shown(page) and 'href="/admin/users/2"' in page.body.decode()
            assert await gateway.table(sql) == [(0,)]
            for told in (f"{verb}d" if verb != "freeze" else "frozen.", "already"):
                page = await root.follow(await root.post(f"/admin/users/2/{verb}"))
                assert told in shown(page) and await gateway.table(sql) == [(1,)]
            assert "Disabled" in shown(page) if verb == "disable" else "Wallet frozen" in shown(page)
            await root.follow(await root.post(f"/admin/users/2/{undo}"))
            assert await gateway.table(sql) == [(0,)]
        assert [row["action"] for row in acts_of(gateway)] == [
            *("users.disable", "users.enable", "wallets.freeze", "wallets.unfreeze")
        ]


async def test_nobody_does_to_themselves_what_could_shut_everybody_out(tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        page = (await root.get("/admin/users/1")).body.decode()
        for verb in ("disable", "disable-totp", "link"):
            assert f"/admin/users/1/{verb}" not in page
            answer = await root.post(f"/admin/users/1/{verb}", password=PASSWORD)
            assert answer.status == 400 and 'role="alert"' in answer.body.decode(), verb
        assert await gateway.table("select disabled from users where name = 'root'") == [(0,)] and acts_of(gateway) == []
        assert await gateway.table("select count(*) from sign_in_links") == [(0,)]


@pytest.mark.parametrize("verb", ["link", "disable-totp"])
async def test_what_opens_an_admins_account_asks_for_the_password(verb: str, tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        await act(gateway.house, "users.create", name="second", role="admin")
        await act(gateway.house, "users.set_password", user="second", password=PASSWORD)
        await add_app(gateway.house, await enter(gateway.house, "second"))
        page = await root.get(f"/admin/users/3/{verb}")
        assert "Your password" in shown(page) and "Your password" not in shown(await root.get(f"/admin/users/2/{verb}"))
        for password in ("", "a wrong password"):
            answer = await root.post(f"/admin/users/3/{verb}", password=password)
            assert answer.status == 400 and 'id="e-password"' in answer.body.decode()
        assert acts_of(gateway) == [] and await gateway.table("select count(*) from totp") == [(1,)]
        assert (await root.post(f"/admin/users/3/{verb}", password=PASSWORD)).status == 303
        assert [row["action"] for row in acts_of(gateway)] == ["users.create_link" if verb == "link" else "users.disable_totp"]


async def test_a_lost_second_factor_is_taken_off_and_sessions_are_ended(tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        await act(gateway.house, "users.set_password", user="ada", password=PASSWORD)
        signed_in = await enter(gateway.house, "ada")
        await add_app(gateway.house, signed_in)
        ada = Visitor(gateway, {"session": signed_in.token})
        assert (await ada.get("/dashboard/settings")).status == 200
        page = await root.get("/admin/users/2")
        assert "Second factor On" in shown(page) and "Firefox on a laptop" in shown(page)
        page = await root.follow(await root.post("/admin/users/2/disable-totp"))
        assert "ada has no second factor any more." in shown(page) and "Second factor Off" in shown(page)
        assert (await ada.get("/dashboard/settings")).status == 303
        await ada.sign_in("ada")
        page = await root.follow(await root.post("/admin/users/2/end-sessions"))
        assert "ada is signed out everywhere." in shown(page) and "Signed in nowhere." in shown(page)
        assert (await ada.get("/dashboard/settings")).status == 303


async def test_a_disabled_user_gets_no_link(tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        await act(gateway.house, "users.disable", user="ada")
        assert b"/admin/users/2/link" not in (await root.get("/admin/users/2")).body
        answer = await root.post("/admin/users/2/link")
        assert answer.status == 400 and "is disabled" in shown(answer)


# ── plan, threshold, keys ────────────────────────────────────────────────────────────────────────────────────────────


async def test_plan_and_threshold_are_set_and_a_slip_stands_beside_its_field(tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        page = await root.follow(await root.post("/admin/users/2/plan", plan="pro"))
        assert "ada is on the plan pro." in shown(page)
        answer = await root.post("/admin/users/2/plan", plan="gold")
        assert answer.status == 400 and 'id="e-plan"' in answer.body.decode() and "ada@example.com" in shown(answer)
        for amount, stored, told in (
            ("5", 5 * 10**9, "below $5.00"),
            ("off", 0, "never"),
            ("", None, "as the configuration says"),
        ):
            page = await root.follow(await root.post("/admin/users/2/low-balance", amount=amount))
            assert told in shown(page) and value_of(page, "amount") == ("5.00" if amount == "5" else amount)
            assert await gateway.table("select low_balance_nanos from users where name = 'ada'") == [(stored,)]
        answer = await root.post("/admin/users/2/low-balance", amount="much")
        assert answer.status == 400 and 'id="e-amount"' in answer.body.decode() and value_of(answer, "amount") == "much"


async def test_a_key_is_changed_beyond_the_plan_and_revoked(tmp_path: Path) -> None:
    async with as_root(tmp_path) as (gateway, root):
        await act(gateway.house, "users.set_plan", user="ada", plan="pro")
        key = await act(gateway.house, "keys.create", user="ada", name="laptop")
        path = f"/admin/users/2/keys/{key['id']}"
        page = await root.get(path)
        assert "Plan: 60." in shown(page) and "Plan: $5.00." in shown(page) and "Plan: unlimited." in shown(page)
        fields = {"name": "desk", "rpm": "600", "spend_per_day": "50", "models": "claude-haiku-5-5, claude-sonnet-5-5"}
        fields |= {"addresses": "10.0.0.0/8 192.0.2.1", "factor": "0.5", "expires": "30d", "tokens_per_month": "0"}
        page = await root.follow(await root.post(path, **fields))
        assert "The key desk is changed" in shown(
            page
        ) and "600 requests per minute; unlimited tokens per month; $50.00 per day" in shown(page)
        (found,) = await act(gateway.house, "keys.list", user="ada")
        assert (found["rpm"], found["spend_per_day"], found["factor"], found["tpm"]) == (600, "50.00", "0.5", None)
        assert found["models"] == ["claude-haiku-5-5", "claude-sonnet-5-5"]
        assert found["addresses"] == ["10.0.0.0/8", "192.0.2.1/32"] and found["expires_at_ms"]
        # Only what was typed anew is said: it holds against the key's user, who may narrow the rest as before.
        page = await root.get(path)
        fields = {name: value_of(page, name) for name in ("name", "rpm", "tpm", "spend_per_day", "models", "addresses", "factor")}
        page = await root.follow(await root.post(path, **fields, expires=""))
        assert "Nothing of the key desk was changed." in shown(page)
        await root.post(path, **{**fields, "rpm": "", "expires": ""})
        updates = [row["after"] for row in acts_of(gateway) if row["action"] == "keys.update"]
        assert updates[1:] == [{"rpm": None}]
        for wrong, field in (
            ({"rpm": "many"}, "rpm"),
            ({"rpm": "-1"}, "rpm"),
            ({"rpm": "9" * 18}, "rpm"),
            ({"spend_total": "much"}, "spend_total"),
            ({"models": "no-such-model"}, "models"),
            ({"addresses": "10.0.0.1/8"}, "addresses"),
            ({"factor": "-1"}, "factor"),
            ({"expires": "soon"}, "expires"),
            ({"name": ""}, "name"),
        ):
            answer = await root.post(path, **{"name": "desk", "factor": "1", **wrong})
            assert answer.status == 400 and f'id="e-{field}"' in answer.body.decode(), wrong
            assert value_of(answer, field) == wrong[field]
        page = await root.get(path + "/revoke")
        assert "Revoke the key desk?" in shown(page) and key["hint"] in shown(page)
        for told in ("The key desk is revoked.", "was revoked already."):
            page = await root.follow(await root.post(path + "/revoke"))
            assert told in shown(page) and "Revoked" in shown(page)
        assert (await root.post(path, name="again", factor="1")).status == 400
        assert key["secret"] not in (await root.get(path)).body.decode()
