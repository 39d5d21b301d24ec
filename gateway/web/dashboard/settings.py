"""/dashboard/settings: who one is here, how one signs in, where one is signed in."""

from __future__ import annotations

from typing import Any

from gateway.desk import credentials, signin
from gateway.desk.signin import must_set_up_totp
from gateway.errors import ClientError
from gateway.web.page import TOTP_PATH, Page, Route
from gateway.web.qr import qr_svg

PATH = "/dashboard/settings"


async def show_settings(page: Page) -> None:
    await page.show(
        "dashboard/settings.html",
        totp=page.me.totp,
        sessions=signin.list_sessions(page.desk, page.me),
        recovery_codes=await credentials.count_recovery_codes(page.desk, page.me) if page.me.totp else 0,
    )


async def show_password(page: Page) -> None:
    await page.show("dashboard/password.html")


async def change_password(page: Page) -> None:
    try:
        if page.form.raw("new_password") != page.form.raw("again"):
            raise ClientError("invalid_request", "The two passwords differ; type the same one twice.", param="again")
        new = await credentials.change_password(
            page.desk, page.visit, page.me, password=page.form.raw("password"), new_password=page.form.raw("new_password")
        )
    except ClientError as error:
        await page.refuse("dashboard/password.html", error)
        return
    # The old session ended with the old password.
    await page.enter(new.token, new.session)
    await page.go(PATH, "Password changed. All other sessions have ended.")


async def show_two_factor(page: Page) -> None:
    template = "dashboard/two_factor.html" if page.me.totp else "dashboard/two_factor_begin.html"
    await page.show(template, **await _two_factor(page))


async def begin_two_factor(page: Page) -> None:
    """The password is shown again, then the secret; nothing is in force yet."""
    try:
        begun = await credentials.begin_totp(page.desk, page.visit, page.me, password=page.form.raw("password"))
    except ClientError as error:
        await page.refuse("dashboard/two_factor_begin.html", error, **await _two_factor(page))
        return
    await page.show("dashboard/two_factor_code.html", secret=begun["secret"], qr=qr_svg(begun["uri"]))


async def enable_two_factor(page: Page) -> None:
    try:
        codes = await credentials.enable_totp(page.desk, page.visit, page.me, code=page.form.get("code"))
    except ClientError as error:
        # What was shown to the app comes with the form: the desk does not tell a secret twice.
        secret = page.form.get("secret")
        uri = credentials.totp_uri_of(page.desk, page.me, secret)
        await page.refuse("dashboard/two_factor_code.html", error, secret=secret, qr=qr_svg(uri))
        return
    await page.go(TOTP_PATH, "Two-factor sign-in is on. Your other sessions have ended.", recovery_codes=codes)


async def show_disable(page: Page) -> None:
    await page.show("dashboard/two_factor_off.html")


async def disable_two_factor(page: Page) -> None:
    try:
        await credentials.disable_totp(
            page.desk, page.visit, page.me, password=page.form.raw("password"), code=page.form.get("code")
        )
    except ClientError as error:
        await page.refuse("dashboard/two_factor_off.html", error)
        return
    await page.go(PATH, "Two-factor sign-in is off.")


async def show_codes(page: Page) -> None:
    await page.show("dashboard/recovery_codes.html")


async def renew_codes(page: Page) -> None:
    try:
        codes = await credentials.renew_recovery_codes(
            page.desk, page.visit, page.me, password=page.form.raw("password"), code=page.form.get("code")
        )
    except ClientError as error:
        await page.refuse("dashboard/recovery_codes.html", error)
        return
    await page.go(TOTP_PATH, "The old recovery codes are worth nothing any more.", recovery_codes=codes)


async def end_session(page: Page) -> None:
    session_id = page.number("session")
    await signin.end_session(page.desk, page.visit, page.me, session_id=session_id)
    await page.go(PATH, "That session has ended.")


async def end_other_sessions(page: Page) -> None:
    ended = await signin.end_other_sessions(page.desk, page.visit, page.me)
    words = {0: "There was no other session.", 1: "The other session has ended."}
    await page.go(PATH, words.get(ended, f"{ended} other sessions have ended."))


ROUTES = (
    Route(PATH, "settings", "user", get=show_settings),
    Route(f"{PATH}/password", "settings/password", "user", get=show_password, post=change_password),
    Route(TOTP_PATH, "settings/two-factor", "user", get=show_two_factor, post=begin_two_factor),
    Route(f"{TOTP_PATH}/enable", "settings/two-factor/enable", "user", get=show_two_factor, post=enable_two_factor),
    Route(f"{TOTP_PATH}/disable", "settings/two-factor/disable", "user", get=show_disable, post=disable_two_factor),
    Route(f"{TOTP_PATH}/codes", "settings/two-factor/codes", "user", get=show_codes, post=renew_codes),
    Route(f"{PATH}/sessions/{{session}}/end", "settings/sessions/end", "user", post=end_session),
    Route(f"{PATH}/sessions/end-others", "settings/sessions/end-others", "user", post=end_other_sessions),
)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _two_factor(page: Page) -> dict[str, Any]:
    return {
        "required": must_set_up_totp(page.desk, page.me),
        "recovery_codes_left": await credentials.count_recovery_codes(page.desk, page.me) if page.me.totp else 0,
    }
