"""Coming in and going out, through the pages themselves: whoever is let in, whoever is not, and what either learns by it."""

from __future__ import annotations

import base64
import html
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.desk.gate import ACCOUNT_PACE, CODE_PACE, TICKET_MS
from gateway.sessions import HOUR_MS, IDLE_MS
from tests.desk_tools import act
from tests.fakes import FakeClock
from tests.gateway_tools import Answer, Gateway, open_gateway
from tests.signin_tools import OTHER_PASSWORD, PASSWORD, App, add_app, enter
from tests.web.tools import DEMO, Visitor, make_visitor, open_site

NASTY = "<img src=x onerror=alert(1)>\"'"


@asynccontextmanager
async def site(folder: Path, more: str = "") -> AsyncIterator[tuple[Gateway, FakeClock]]:
    """A gateway whose clock stands still until a test moves it."""
    clock = FakeClock()
    async with open_gateway(folder, more=more + "\n" + DEMO, clock=clock) as gateway:
        yield gateway, clock


async def make_person(gateway: Gateway, name: str = "ada", **fields: Any) -> None:
    await act(gateway.house, "users.create", name=name, **fields)
    await act(gateway.house, "users.set_password", user=name, password=PASSWORD)


async def make_link(gateway: Gateway, name: str = "ada") -> str:
    return f"/welcome/{(await act(gateway.house, 'users.create_link', user=name))['token']}"


async def give_app(gateway: Gateway, name: str = "ada") -> tuple[App, list[str]]:
    return await add_app(gateway.house, await enter(gateway.house, name))


async def is_in(visitor: Visitor) -> bool:
    return (await visitor.get("/dashboard/settings")).status == 200


def shown(answer: Answer) -> str:
    """The text of a page, without what differs from load to load."""
    text = re.sub(r'name="(csrf|ticket)" value="[^"]*"', "", answer.body.decode())
    return html.unescape(re.sub(r"<[^>]*>", " ", text))


def ticket_of(answer: Answer) -> str:
    found = re.search(r'name="ticket" value="([^"]+)"', answer.body.decode())
    assert found, answer.body
    return found.group(1)


# ── sign-in ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["ada", "ADA", " ada ", "Ada@Example.com"])
async def test_people_sign_in_by_name_or_address(name: str, tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        await make_person(gateway, email="ada@example.com")
        visitor = Visitor(gateway)
        answer = await visitor.sign_in(name)
        assert (answer.status, answer.headers["location"]) == (303, "/dashboard") and await is_in(visitor)
        # Who is in does not see the form again.
        answer = await visitor.get("/login?next=/dashboard/settings")
        assert (answer.status, answer.headers["location"]) == (303, "/dashboard/settings")


async def test_whoever_is_not_let_in_sees_the_same_page(tmp_path: Path) -> None:
    async with site(tmp_path) as (gateway, _):
        await make_person(gateway)
        await make_person(gateway, "off", email="off@example.com")
        await give_app(gateway, "off")
        await act(gateway.house, "users.disable", user="off")
        await act(gateway.house, "users.create", name="none")
        pages = set()
        tries = (("ada", "wrong"), ("nobody", PASSWORD), ("off", PASSWORD), ("off", "wrong"), ("off@example.com", PASSWORD))
        for name, password in (*tries, ("none", PASSWORD), ("none", ""), ("nobody@example.com", PASSWORD)):
            visitor = Visitor(gateway)
            answer = await visitor.sign_in(name, password)
            assert "session" not in visitor.cookies and "retry-after" not in answer.headers
            assert f'value="{name}"' in answer.body.decode() and PASSWORD not in answer.body.decode()
            # What was typed stands in the page again, and nothing else of it differs.
            pages.add((answer.status, answer.body.decode().replace(f'value="{name}"', "").replace(visitor.csrf, "")))
        assert len(pages) == 1
        assert next(iter(pages))[0] == 400 and "Name or password is not right." in next(iter(pages))[1]


async def test_too_many_tries_are_told_with_a_time_whoever_is_meant(tmp_path: Path) -> None:
    async with site(tmp_path) as (gateway, clock):
        await make_person(gateway)
        for name in ("ada", "nobody"):
            visitor = Visitor(gateway)
            for _ in range(ACCOUNT_PACE.free):
                assert (await visitor.sign_in(name, "wrong")).status == 400
            answer = await visitor.sign_in(name, PASSWORD)
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert "Too many tries; try again in 1 s." in shown(answer) and f'value="{name}"' in answer.body.decode()
        clock.advance(1_000)
        assert (await Visitor(gateway).sign_in("ada")).status == 303


async def test_what_is_typed_is_shown_as_text(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        visitor = Visitor(gateway)
        answer = await visitor.sign_in(NASTY, NASTY, next=NASTY)
        assert answer.status == 400 and b"<img" not in answer.body and b"&lt;img src=x" in answer.body
        answer = await visitor.get("/login?next=" + NASTY)
        assert b"<img" not in answer.body
        for broken in ("%00", "\ud83d".encode(errors="replace").decode(), "a" * 5_000):
            assert (await visitor.sign_in(broken, broken)).status == 400


# Where somebody wants to go on to, and where they are led.
TRICKS = {
    "/dashboard/settings": "/dashboard/settings",
    "/dashboard/keys?a=b&c=%2F#x": "/dashboard/keys?a=b&c=%2F#x",
    "/%2f%2fevil.example": "/%2f%2fevil.example",  # a path of ours, and none that there is
    "": "/dashboard",
    "/": "/dashboard",
    "//evil.example": "/dashboard",
    "///evil.example": "/dashboard",
    "/\\evil.example": "/dashboard",
    "\\\\evil.example": "/dashboard",
    "/a\\..\\..\\evil": "/dashboard",
    "https://evil.example": "/dashboard",
    "https:evil.example": "/dashboard",
    "evil.example": "/dashboard",
    "@evil.example": "/dashboard",
    ".evil.example": "/dashboard",
    "javascript:alert(1)": "/dashboard",
    "data:text/html,x": "/dashboard",
    "%2f%2fevil.example": "/dashboard",
    "/\t/evil.example": "/dashboard",
    "/\n/evil.example": "/dashboard",
    "/\r\nset-cookie: a=b": "/dashboard",
    "\t//evil.example": "/dashboard",
    " //evil.example": "/dashboard",
    "/dashboard\x00": "/dashboard",
    "/dashb\u00f6rd": "/dashboard",
    "/\u2028/evil": "/dashboard",
    "/login?next=/login": "/dashboard",
    "/logout": "/dashboard",
}


async def test_after_signing_in_nobody_is_led_elsewhere(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        await make_person(gateway)
        await make_person(gateway, "two")
        await give_app(gateway, "two")
        for wanted, led in TRICKS.items():
            visitor = Visitor(gateway)
            answer = await visitor.sign_in("ada", next=wanted)
            assert answer.status == 303 and answer.headers["location"] == led, wanted
            assert set(visitor.cookies) == {"session"}, wanted
            # The same on the way through the second factor.
            page = await Visitor(gateway).sign_in("two", next=wanted)
            assert f'name="next" value="{html.escape(led)}"' in page.body.decode(), wanted


async def test_whoever_was_sent_to_sign_in_comes_back_to_where_they_were(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        await make_person(gateway)
        visitor = Visitor(gateway)
        page = await visitor.follow(await visitor.get("/dashboard/settings/password?a=1"))
        wanted = re.search(r'name="next" value="([^"]*)"', page.body.decode())
        assert wanted
        answer = await visitor.post("/login", name="ada", password=PASSWORD, next=html.unescape(wanted.group(1)))
        assert answer.headers["location"] == "/dashboard/settings/password?a=1"


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_cookie_from_before_is_never_the_session_afterwards(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        await make_person(gateway)
        planted = "A" * 43
        visitor = Visitor(gateway, {"session": planted, "form": planted})
        await visitor.get("/login")
        answer = await visitor.post("/login", name="ada", password=PASSWORD)
        assert answer.status == 303 and visitor.cookies["session"] != planted
        assert not await is_in(Visitor(gateway, {"session": planted}))
        assert "form" not in visitor.cookies


async def test_signing_in_again_ends_the_session_that_the_browser_had(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        eve = await make_visitor(gateway, "eve")
        await make_person(gateway)
        old = dict(eve.cookies)
        assert (await eve.post("/login", name="ada", password=PASSWORD)).status == 303
        assert eve.cookies["session"] != old["session"] and b"ada" in (await eve.get("/dashboard/settings")).body
        assert not await is_in(Visitor(gateway, old))
        assert len(gateway.house.desk.sessions) == 1


async def test_signing_out_ends_the_session_on_the_server(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        other = Visitor(gateway)
        await other.sign_in("ada")
        kept = dict(ada.cookies)
        answer = await ada.post("/logout")
        assert (answer.status, answer.headers["location"]) == (303, "/login") and "session" not in ada.cookies
        assert not await is_in(Visitor(gateway, kept)) and await is_in(other)
        assert await gateway.table("select count(*) from sessions") == [(1,)]
        assert (await ada.get("/logout")).status == 405


async def test_a_session_ends_by_itself_and_its_forms_say_so(tmp_path: Path) -> None:
    async with site(tmp_path) as (gateway, clock):
        ada = await make_visitor(gateway, "ada")
        clock.advance(IDLE_MS)
        for path in ("/dashboard/settings/sessions/end-others", "/logout"):
            answer = await ada.post(path)
            assert answer.status == 401 and "Your session has ended" in shown(answer), path
        answer = await ada.get("/dashboard/settings")
        assert (answer.status, answer.headers["location"]) == (303, "/login?next=%2Fdashboard%2Fsettings")


# ── the second factor ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_password_is_half_of_it_where_there_is_a_second_factor(tmp_path: Path) -> None:
    async with site(tmp_path) as (gateway, clock):
        await make_person(gateway)
        app, recovery = await give_app(gateway)
        clock.advance(60_000)
        for code in (app.code(), recovery[0]):
            visitor = Visitor(gateway)
            page = await visitor.sign_in("ada", next="/dashboard/settings")
            assert page.status == 200 and "session" not in visitor.cookies and "Enter the code" in shown(page)
            assert not await is_in(visitor)
            ticket = ticket_of(page)
            await visitor.get("/login")
            for wrong in ("", "000000", "xxxx-xxxx"):
                answer = await visitor.post("/login/code", ticket=ticket, code=wrong, next="/dashboard/settings")
                assert answer.status == 400 and "This code is not right" in shown(answer) and ticket_of(answer) == ticket
            answer = await visitor.post("/login/code", ticket=ticket, code=code, next="/dashboard/settings")
            assert (answer.status, answer.headers["location"]) == (303, "/dashboard/settings") and await is_in(visitor)
            # Neither the ticket nor the code is good for another.
            thief = Visitor(gateway)
            await thief.get("/login")
            answer = await thief.post("/login/code", ticket=ticket, code=code, next="")
            assert answer.status == 400 and "session" not in thief.cookies
            page = await thief.sign_in("ada")
            answer = await thief.post("/login/code", ticket=ticket_of(page), code=code, next="")
            assert answer.status == 400 and "session" not in thief.cookies
            clock.advance(60_000)


async def test_codes_are_guessed_slowly_and_the_wait_is_told(tmp_path: Path) -> None:
    async with site(tmp_path) as (gateway, clock):
        await make_person(gateway)
        app, _ = await give_app(gateway)
        visitor = Visitor(gateway)
        ticket = ticket_of(await visitor.sign_in("ada"))
        for _ in range(CODE_PACE.free):
            assert (await visitor.post("/login/code", ticket=ticket, code="000000", next="")).status == 400
        answer = await visitor.post("/login/code", ticket=ticket, code=app.code(), next="")
        assert (answer.status, answer.headers["retry-after"]) == (429, "30") and "try again in 30 s" in shown(answer)
        clock.advance(30_000)
        assert (await visitor.post("/login/code", ticket=ticket, code=app.code(), next="")).status == 303


@pytest.mark.parametrize("end", ["time", "password", "disabled"])
async def test_a_sign_in_that_broke_off_begins_anew_and_says_why(end: str, tmp_path: Path) -> None:
    async with site(tmp_path) as (gateway, clock):
        await make_person(gateway)
        app, _ = await give_app(gateway)
        visitor = Visitor(gateway)
        ticket = ticket_of(await visitor.sign_in("ada"))
        if end == "time":
            clock.advance(TICKET_MS)
        elif end == "password":
            await act(gateway.house, "users.set_password", user="ada", password=OTHER_PASSWORD)
        else:
            await act(gateway.house, "users.disable", user="ada")
        answer = await visitor.post("/login/code", ticket=ticket, code=app.code(), next="/dashboard/settings")
        told = "This took longer than five minutes" if end == "time" else "Name or password is not right."
        assert answer.status == 400 and told in shown(answer)
        assert 'action="/login"' in answer.body.decode() and 'value="/dashboard/settings"' in answer.body.decode()
        # The page of the code by itself is nobody's.
        answer = await visitor.get("/login/code")
        assert (answer.status, answer.headers["location"]) == (303, "/login")


async def test_admins_who_must_have_a_second_factor_set_it_up_and_go_nowhere_else(tmp_path: Path) -> None:
    async with site(tmp_path, "[web]\nrequire_totp_for_admins = true\n") as (gateway, _):
        root = await make_visitor(gateway, "root", role="admin")
        for path in ("/dashboard/settings", "/dashboard/settings/password", "/admin/users", "/admin/audit", "/admin/users/1"):
            answer = await root.get(path)
            assert (answer.status, answer.headers["location"]) == (303, "/dashboard/settings/two-factor"), path
        page = await root.get("/dashboard/settings/two-factor")
        assert page.status == 200 and "Admins must have a second factor here" in shown(page)
        before = await gateway.table("select count(*) from users")
        answer = await root.post("/admin/users/new", name="eve", role="user", plan="default")
        assert answer.status == 303 and await gateway.table("select count(*) from users") == before
        page = await root.post("/dashboard/settings/two-factor", password=PASSWORD)
        secret = re.search(r'name="secret" value="([A-Z2-7 ]+)"', page.body.decode())
        assert secret
        answer = await root.post(
            "/dashboard/settings/two-factor/enable",
            secret=secret.group(1),
            code=app_of(gateway, secret.group(1)).code(),
        )
        assert answer.status == 303 and (await root.get("/admin/users")).status == 200
        # Others are not asked, and signing out is always possible.
        assert await is_in(await make_visitor(gateway, "ada"))
        second = await make_visitor_without_settings(gateway, "second")
        assert (await second.post("/logout")).status == 303


def app_of(gateway: Gateway, secret: str) -> App:

    return App(gateway.house, base64.b32decode(secret.replace(" ", "")))


async def make_visitor_without_settings(gateway: Gateway, name: str) -> Visitor:
    await make_person(gateway, name, role="admin")
    visitor = Visitor(gateway)
    await visitor.sign_in(name)
    await visitor.get("/dashboard/settings/two-factor")
    return visitor


# ── one-time links ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_link_lets_somebody_in_once_and_looking_uses_nothing_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with site(tmp_path) as (gateway, _):
        await act(gateway.house, "users.create", name="ada")
        link = await make_link(gateway)
        visitor = Visitor(gateway)
        for _ in range(3):
            page = await visitor.get(link)
            assert page.status == 200 and "Choose your password" in shown(page) and "ada" in shown(page)
            assert page.headers["referrer-policy"] == "same-origin" and page.headers["cache-control"] == "no-store"
        for password, again, why in (
            (PASSWORD, OTHER_PASSWORD, "The two passwords differ"),
            ("short", "short", "12"),
            ("", "", "12"),
        ):
            answer = await visitor.post(link, password=password, again=again)
            assert answer.status == 400 and why in shown(answer) and "session" not in visitor.cookies
        answer = await visitor.post(link, password=PASSWORD, again=PASSWORD)
        assert (answer.status, answer.headers["location"]) == (303, "/dashboard") and await is_in(visitor)
        thief = Visitor(gateway)
        for answer in (await thief.get(link), await visitor.post(link, password=OTHER_PASSWORD, again=OTHER_PASSWORD)):
            assert answer.status == 404 and "This link was used already, or has expired." in shown(answer)
        assert (await Visitor(gateway).sign_in("ada")).status == 303
        assert link.rpartition("/")[2] not in caplog.text and PASSWORD not in caplog.text


@pytest.mark.parametrize("end", ["time", "another", "password", "disabled", "never"])
async def test_a_link_that_has_ended_opens_nothing(end: str, tmp_path: Path) -> None:
    async with site(tmp_path) as (gateway, clock):
        await make_person(gateway)
        link = await make_link(gateway)
        visitor = Visitor(gateway)
        await visitor.get(link)
        if end == "time":
            clock.advance(HOUR_MS)
        elif end == "another":
            await make_link(gateway)
        elif end == "password":
            await act(gateway.house, "users.set_password", user="ada", password=OTHER_PASSWORD)
        elif end == "disabled":
            await act(gateway.house, "users.disable", user="ada")
        else:
            link = "/welcome/" + "A" * 43
        answer = await visitor.post(link, password="a new and long one", again="a new and long one")
        assert answer.status == 404 and "session" not in visitor.cookies
        if end != "disabled":
            assert (await visitor.get(link)).status == 404
        assert (await Visitor(gateway).sign_in("ada", "a new and long one")).status == 400


async def test_a_link_ends_other_sessions_and_the_wait_of_whoever_guessed(tmp_path: Path) -> None:
    async with site(tmp_path) as (gateway, _):
        thief = await make_visitor(gateway, "ada")
        for _ in range(ACCOUNT_PACE.free):
            await Visitor(gateway).sign_in("ada", "wrong")
        assert (await Visitor(gateway).sign_in("ada", "wrong")).status == 429
        link = await make_link(gateway)
        ada = Visitor(gateway)
        await ada.get(link)
        assert (await ada.post(link, password=OTHER_PASSWORD, again=OTHER_PASSWORD)).status == 303
        assert await is_in(ada) and not await is_in(thief)
        assert (await Visitor(gateway).sign_in("ada")).status == 400  # the old password
        assert (await Visitor(gateway).sign_in("ada", OTHER_PASSWORD)).status == 303


@pytest.mark.parametrize("signed_in", [False, True])
async def test_a_link_does_not_stand_for_the_second_factor(signed_in: bool, tmp_path: Path) -> None:
    """Also where the browser is signed in as that very user: their session ends with the old password, its forms with it."""
    async with site(tmp_path) as (gateway, clock):
        visitor = await make_visitor(gateway, "ada")
        app, _ = await give_app(gateway)
        clock.advance(60_000)
        if signed_in:
            page = await visitor.sign_in("ada")
            await visitor.post("/login/code", ticket=ticket_of(page), code=app.code(), next="")
            clock.advance(60_000)
        else:
            visitor = Visitor(gateway)
        link = await make_link(gateway)
        await visitor.get(link)
        page = await visitor.post(link, password=OTHER_PASSWORD, again=OTHER_PASSWORD)
        assert page.status == 200 and "Enter the code" in shown(page) and not await is_in(visitor)
        ticket = ticket_of(page)
        await visitor.post("/login/code", ticket=ticket, code="000000", next="")
        answer = await visitor.post("/login/code", ticket=ticket, code=app.code(), next="")
        assert answer.status == 303 and await is_in(visitor)


async def test_somebody_elses_session_ends_in_the_browser_that_opens_a_link(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        eve = await make_visitor(gateway, "eve")
        await make_person(gateway)
        link, old = await make_link(gateway), dict(eve.cookies)
        await eve.get(link)
        assert (await eve.post(link, password=OTHER_PASSWORD, again=OTHER_PASSWORD)).status == 303
        assert b">ada<" in (await eve.get("/dashboard/settings")).body and not await is_in(Visitor(gateway, old))


# ── sign-up ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def join(visitor: Visitor, path: str = "/join", name: str = "newcomer", password: str = PASSWORD, **more: str) -> Answer:
    await visitor.get(path)
    return await visitor.post(path, name=name, password=password, **{"again": password, **more})


@pytest.mark.parametrize("signup", ["closed", "invite"])
async def test_where_sign_up_is_not_open_nobody_makes_an_account(signup: str, tmp_path: Path) -> None:
    async with open_site(tmp_path, f'[web]\nsignup = "{signup}"\n') as gateway:
        visitor = Visitor(gateway)
        assert b"/join" not in (await visitor.get("/login")).body
        answer = await visitor.get("/join")
        assert answer.status == 404 and "Nobody can make an account by themselves here" in shown(answer)
        assert (await visitor.post("/join", name="newcomer", password=PASSWORD, again=PASSWORD)).status == 404
        assert (await visitor.get("/join/" + "A" * 43)).status == 404
        assert await gateway.table("select count(*) from users") == [(0,)]


async def test_where_sign_up_is_open_somebody_makes_an_account_and_is_in(tmp_path: Path) -> None:
    async with open_site(tmp_path, '[web]\nsignup = "open"\n') as gateway:
        await make_person(gateway, email="ada@example.com")
        visitor = Visitor(gateway)
        assert b'href="/join"' in (await visitor.get("/login")).body
        for fields, field, why in (
            ({"name": "ADA"}, "name", "there is a user ada already"),
            ({"name": "ada@example.com"}, "name", "choose one without @"),
            ({"name": NASTY}, "name", "write 1 to 64 letters"),
            ({"name": "newcomer-2026", "password": "newcomer-2026"}, "password", "it is a name that others know"),
            ({"password": "short"}, "password", "12"),
            ({"again": "another"}, "again", "The two passwords differ"),
        ):
            answer = await join(visitor, **fields)  # type: ignore[arg-type]
            page = answer.body.decode()
            assert answer.status == 400 and f'id="e-{field}"' in page and why.lower() in shown(answer).lower(), fields
            assert (
                f'value="{html.escape(fields.get("name", "newcomer"))}"'.replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
                in page
            )
            assert "session" not in visitor.cookies and "<img" not in page and PASSWORD not in page
        answer = await join(visitor)
        assert (answer.status, answer.headers["location"]) == (303, "/dashboard") and await is_in(visitor)
        assert await gateway.table("select role, plan from users where name = 'newcomer'") == [("user", "default")]
        # Accounts are not made by the dozen.
        answers = [await join(Visitor(gateway), name=f"robot{number}") for number in range(12)]
        assert answers[-1].status == 429 and "try again in" in shown(answers[-1]) and answers[0].status == 303


async def test_an_invite_is_good_for_one_account(tmp_path: Path) -> None:
    async with open_site(tmp_path, '[web]\nsignup = "invite"\n[plans.pro]\nrpm = 5\n') as gateway:
        made = await act(gateway.house, "invites.create", credit="5", plan="pro", email="new@example.com")
        path = f"/join/{made['token']}"
        visitor = Visitor(gateway)
        for _ in range(2):
            page = await visitor.get(path)
            assert page.status == 200 and "$5.00" in shown(page) and "new@example.com" in shown(page)
        assert (await join(visitor, path)).status == 303 and await is_in(visitor)
        assert await gateway.table("select role, plan, email from users") == [("user", "pro", "new@example.com")]
        assert gateway.house.desk.book.wallet(5).available_nanos == 5 * 10**9
        thief = Visitor(gateway)
        assert (await thief.get(path)).status == 404
        assert (await visitor.post(path, name="second", password=PASSWORD, again=PASSWORD)).status == 404
        await gateway.assert_settled()
