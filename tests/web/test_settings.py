"""/dashboard/settings: the password, the second factor, the sessions, as their owner changes them."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

import pytest

from gateway.desk.gate import ACCOUNT_PACE
from gateway.web.text import device
from tests.desk_tools import act, audit_rows
from tests.fakes import FakeClock
from tests.gateway_tools import Answer, Gateway, open_gateway
from tests.signin_tools import OTHER_PASSWORD, PASSWORD, App, add_app, enter
from tests.web.tools import DEMO, Visitor, make_visitor, open_site

SETTINGS = "/dashboard/settings"
TOTP = f"{SETTINGS}/two-factor"
NASTY = "<img src=x onerror=alert(1)>\"'"


def shown(answer: Answer) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", answer.body.decode())).split())


async def is_in(visitor: Visitor) -> bool:
    return (await visitor.get(SETTINGS)).status == 200


async def set_up_app(gateway: Gateway, visitor: Visitor) -> tuple[App, list[str]]:
    """Through the pages: the app, and the recovery codes that were shown."""
    page = await visitor.post(TOTP, password=PASSWORD)
    secret = re.search(r'name="secret" value="([A-Z2-7 ]+)"', page.body.decode())
    assert page.status == 200 and secret and b"<svg" in page.body
    app = App(gateway.house, base64.b32decode(secret.group(1).replace(" ", "")))
    page = await visitor.follow(await visitor.post(f"{TOTP}/enable", secret=secret.group(1), code=app.code(-1)))
    codes = re.search(r'<pre id="recovery"[^>]*><code>([^<]*)</code>', page.body.decode())
    assert codes
    return app, codes.group(1).split()


# ── who one is ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_settings_show_the_reader_and_nobody_else(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        await make_visitor(gateway, "eve")
        ada = await make_visitor(gateway, "ada")
        page = shown(await ada.get(SETTINGS))
        assert "ada" in page and "eve" not in page and "this one" in page and "Administration" not in page


# ── the password ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_changed_password_ends_all_other_sessions_and_changes_this_one(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada, thief = await make_visitor(gateway, "ada"), Visitor(gateway)
        await thief.sign_in("ada")
        old = dict(ada.cookies)
        answer = await ada.post(f"{SETTINGS}/password", password=PASSWORD, new_password=OTHER_PASSWORD, again=OTHER_PASSWORD)
        assert "Password changed. All other sessions have ended." in shown(await ada.follow(answer))
        assert ada.cookies["session"] != old["session"]
        assert await is_in(ada) and not await is_in(thief) and not await is_in(Visitor(gateway, old))
        assert (await Visitor(gateway).sign_in("ada")).status == 400
        assert (await Visitor(gateway).sign_in("ada", OTHER_PASSWORD)).status == 303
        # The note was for once.
        assert "Password changed" not in shown(await ada.get(SETTINGS))


@pytest.mark.parametrize(
    ("fields", "field", "why"),
    [
        ({"password": "a wrong password"}, "password", "This is not your password."),
        ({"password": ""}, "password", "This is not your password."),
        ({"again": "something else"}, "again", "The two passwords differ"),
        ({"new_password": "short", "again": "short"}, "new_password", "Write 12 to 128 characters."),
        ({"new_password": "a" * 129, "again": "a" * 129}, "new_password", "Write 12 to 128 characters."),
        ({"new_password": "aaaaaaaaaaaaa", "again": "aaaaaaaaaaaaa"}, "new_password", "It repeats too few characters"),
    ],
)
async def test_a_refused_password_changes_nothing_and_is_not_repeated(
    fields: dict[str, str], field: str, why: str, tmp_path: Path
) -> None:
    async with open_site(tmp_path) as gateway:
        ada, other = await make_visitor(gateway, "ada"), Visitor(gateway)
        await other.sign_in("ada")
        typed = {"password": PASSWORD, "new_password": OTHER_PASSWORD, "again": OTHER_PASSWORD, **fields}
        answer = await ada.post(f"{SETTINGS}/password", **typed)
        page = answer.body.decode()
        assert answer.status == 400 and f'id="e-{field}"' in page and why in shown(answer)
        assert not [text for text in typed.values() if text and text in page]
        assert await is_in(ada) and await is_in(other)
        assert (await Visitor(gateway).sign_in("ada")).status == 303


async def test_a_browser_left_open_guesses_as_slowly_as_any_other(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        for _ in range(ACCOUNT_PACE.free):
            assert (await ada.post(TOTP, password="wrong")).status == 400
        answer = await ada.post(TOTP, password="wrong")
        assert answer.status == 429 and answer.headers["retry-after"] and "try again in" in shown(answer)


# ── the second factor ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_app_is_set_up_renewed_and_taken_off(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_gateway(tmp_path, more=DEMO, clock=clock) as gateway:
        ada, other = await make_visitor(gateway, "ada"), Visitor(gateway)
        await other.sign_in("ada")
        assert "Off" in shown(await ada.get(SETTINGS))
        app, codes = await set_up_app(gateway, ada)
        assert len(set(codes)) == 10 and not await is_in(other)
        page = await ada.get(TOTP)
        assert "10 recovery codes left" in shown(page) and codes[0] not in page.body.decode()
        assert "10 recovery codes left" in shown(await ada.get(SETTINGS))
        clock.advance(60_000)
        # New codes: the old ones are worth nothing any more.
        for fields in ({"password": "wrong", "code": app.code()}, {"password": PASSWORD, "code": "000000"}):
            answer = await ada.post(f"{TOTP}/codes", **fields)
            assert answer.status == 400 and 'class="err"' in answer.body.decode()
        page = await ada.follow(await ada.post(f"{TOTP}/codes", password=PASSWORD, code=codes[0]))
        new = re.search(r'<pre id="recovery"[^>]*><code>([^<]*)</code>', page.body.decode())
        assert new and not set(new.group(1).split()) & set(codes)
        assert (await ada.post(f"{TOTP}/disable", password=PASSWORD, code=codes[1])).status == 400
        # Off needs both.
        for fields in ({"password": "wrong", "code": app.code()}, {"password": PASSWORD, "code": ""}):
            assert (await ada.post(f"{TOTP}/disable", **fields)).status == 400
        page = await ada.follow(await ada.post(f"{TOTP}/disable", password=PASSWORD, code=app.code()))
        assert "Two-factor sign-in is off." in shown(page)
        assert (await Visitor(gateway).sign_in("ada")).status == 303
        told = repr(audit_rows(gateway.house.database))
        assert not [code for code in (*codes, *new.group(1).split()) if code in told]


async def test_a_wrong_first_code_shows_the_same_secret_again(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        page = (await ada.post(TOTP, password=PASSWORD)).body.decode()
        secret = re.search(r'name="secret" value="([A-Z2-7 ]+)"', page)
        assert secret
        answer = await ada.post(f"{TOTP}/enable", secret=secret.group(1), code="000000")
        again = answer.body.decode()
        assert answer.status == 400 and 'id="e-code"' in again and f'value="{secret.group(1)}"' in again
        # The QR code is still that of the same secret.
        assert re.search(r"<svg.*?</svg>", page[page.index("qr") :], re.DOTALL).group() in again  # type: ignore[union-attr]
        for wrong in ("", NASTY, "not base32!", "A" * 5_000):
            answer = await ada.post(f"{TOTP}/enable", secret=wrong, code="000000")
            assert answer.status == 400 and b"<img" not in answer.body
        assert await gateway.table("select count(*) from totp where enabled_at_ms is not null") == [(0,)]


async def test_admins_keep_their_second_factor_where_they_must_have_it(tmp_path: Path) -> None:
    async with open_site(tmp_path, "[web]\nrequire_totp_for_admins = true\n") as gateway:
        await act(gateway.house, "users.create", name="root", role="admin")
        await act(gateway.house, "users.set_password", user="root", password=PASSWORD)
        signed_in = await enter(gateway.house, "root")
        _, codes = await add_app(gateway.house, signed_in)
        root = Visitor(gateway, {"session": signed_in.token})
        assert await is_in(root)
        answer = await root.post(f"{TOTP}/disable", password=PASSWORD, code=codes[0])
        assert answer.status == 403 and "Admins must have a second factor here" in shown(answer)
        assert await gateway.table("select count(*) from totp where enabled_at_ms is not null") == [(1,)]


# ── sessions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_sessions_are_shown_and_ended_one_or_all(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada = await make_visitor(gateway, "ada")
        others = [Visitor(gateway) for _ in range(3)]
        for other in others:
            await other.get("/login")
            await other.post("/login", name="ada", password=PASSWORD, headers={"user-agent": NASTY})
        page = await ada.get(SETTINGS)
        assert b"<img" not in page.body and page.body.decode().count("&lt;img src=x onerror=alert(1)&gt;") >= 3
        ends = re.findall(rf'action="({SETTINGS}/sessions/\d+/end)"', page.body.decode())
        assert len(ends) == 3
        assert "That session has ended." in shown(await ada.follow(await ada.post(ends[0])))
        assert sum([await is_in(other) for other in others]) == 2
        answer = await ada.follow(await ada.post(f"{SETTINGS}/sessions/end-others"))
        assert "2 other sessions have ended." in shown(answer) and await is_in(ada)
        assert not [other for other in others if await is_in(other)]
        assert "There was no other session." in shown(await ada.follow(await ada.post(f"{SETTINGS}/sessions/end-others")))


async def test_nobody_ends_a_session_of_somebody_else(tmp_path: Path) -> None:
    async with open_site(tmp_path) as gateway:
        ada, eve = await make_visitor(gateway, "ada"), await make_visitor(gateway, "eve")
        ((theirs,),) = await gateway.table(
            "select s.id from sessions as s join users as u on u.id = s.user_id where u.name = 'eve'"
        )
        for session in (str(theirs), "0", "99999", "x", "9" * 40):
            assert (await ada.post(f"{SETTINGS}/sessions/{session}/end")).status == 404
        assert await is_in(eve)


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0 Safari/537.36",
            "Chrome on Windows",
        ),
        (
            "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0 Safari/537.36 Edg/142.0",
            "Edge on Windows",
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/26.0 Safari/605.1.15",
            "Safari on Mac",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 26_0 like Mac OS X) AppleWebKit/605.1.15 Version/26.0 Mobile Safari/604.1",
            "Safari on iPhone",
        ),
        (
            "Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0 Mobile Safari/537.36",
            "Chrome on Android",
        ),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0", "Firefox on Linux"),
        ("Mozilla/5.0 (compatible)", "Mozilla/5.0 (compatible)"),
        ("curl/8.5.0", "curl/8.5.0"),
        ("", "unknown"),
    ],
)
def test_a_device_has_the_name_that_people_give_it(agent: str, words: str) -> None:
    assert device(agent) == words
