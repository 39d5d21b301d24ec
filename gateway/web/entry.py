"""Coming in and going out: sign-in with its second factor, the links that let somebody in for the first time, sign-up, sign-out.

Asking for a link's page uses nothing up: mail programs and chats fetch links before people do.
"""

from __future__ import annotations

from typing import Any

from gateway.desk import invites, signin
from gateway.desk.signin import CodeNeeded, SignedIn
from gateway.errors import ClientError
from gateway.storage.invites import Invite
from gateway.web.forms import local_path
from gateway.web.page import HOME_PATH, LOGIN_PATH, Page, Route

WELCOME_PATH = "/welcome"
INVITE_PATH = "/join"


async def show_login(page: Page) -> None:
    if page.session is not None:
        await page.go(_next(page.query.get("next", "")))
        return
    await page.show("door/login.html", **_login(page, page.query.get("next", "")))


async def sign_in(page: Page) -> None:
    wanted = page.form.get("next")
    try:
        signed_in = await signin.sign_in(page.desk, page.visit, name=page.form.get("name"), password=page.form.raw("password"))
    except CodeNeeded as needed:
        await _ask_for_code(page, needed, wanted)
    except ClientError as error:
        await page.refuse("door/login.html", error, **_login(page, wanted))
    else:
        await _let_in(page, signed_in, wanted)


async def enter_code(page: Page) -> None:
    ticket, wanted = page.form.get("ticket"), page.form.get("next")
    try:
        signed_in = await signin.enter_code(page.desk, page.visit, ticket=ticket, code=page.form.get("code"))
    except ClientError as error:
        if error.param != "code" and error.code != "rate_limited":
            # The ticket has ended, or the password was changed meanwhile: the page of the code has no field for either.
            error.param = None
            await page.refuse("door/login.html", error, **_login(page, wanted))
            return
        await page.refuse("door/code.html", error, ticket=ticket, next=wanted)
    else:
        await _let_in(page, signed_in, wanted)


async def start_over(page: Page) -> None:
    """Whoever loads the page of the code anew has no ticket any more."""
    await page.go(LOGIN_PATH)


async def sign_out(page: Page) -> None:
    if page.session is not None:
        await signin.sign_out(page.desk, page.visit, page.session)
    page.leave()
    await page.go(LOGIN_PATH)


async def show_welcome(page: Page) -> None:
    name = await signin.find_welcome(page.desk, page.request.match_info["token"])
    if name is None:
        raise _no_link()
    await page.show("door/welcome.html", name=name)


async def choose_password(page: Page) -> None:
    token = page.request.match_info["token"]
    name = await signin.find_welcome(page.desk, token)
    if name is None:
        raise _no_link()
    try:
        _check_twice(page)
        signed_in = await signin.redeem_link(page.desk, page.visit, token=token, password=page.form.raw("password"))
    except CodeNeeded as needed:
        await _ask_for_code(page, needed, "")
    except ClientError as error:
        await page.refuse("door/welcome.html", error, name=name)
    else:
        await _let_in(page, signed_in, "")


async def show_sign_up(page: Page) -> None:
    _check_open(page)
    await page.show("door/join.html", invite=None)


async def sign_up(page: Page) -> None:
    _check_open(page)
    try:
        _check_twice(page)
        signed_in = await invites.sign_up(page.desk, page.visit, name=page.form.get("name"), password=page.form.raw("password"))
    except ClientError as error:
        await page.refuse("door/join.html", error, invite=None)
    else:
        await _let_in(page, signed_in, "")


async def show_invite(page: Page) -> None:
    await page.show("door/join.html", invite=await _find_invite(page))


async def accept_invite(page: Page) -> None:
    invite = await _find_invite(page)
    try:
        _check_twice(page)
        signed_in = await invites.accept_invite(
            page.desk,
            page.visit,
            token=page.request.match_info["token"],
            name=page.form.get("name"),
            password=page.form.raw("password"),
        )
    except ClientError as error:
        await page.refuse("door/join.html", error, invite=invite)
    else:
        await _let_in(page, signed_in, "")


ROUTES = (
    Route(LOGIN_PATH, "login", "anyone", get=show_login, post=sign_in),
    Route(f"{LOGIN_PATH}/code", "login/code", "anyone", get=start_over, post=enter_code),
    Route("/logout", "logout", "anyone", post=sign_out),
    Route(WELCOME_PATH + "/{token}", "welcome", "anyone", get=show_welcome, post=choose_password),
    Route(INVITE_PATH, "join", "anyone", get=show_sign_up, post=sign_up),
    Route(INVITE_PATH + "/{token}", "join/invite", "anyone", get=show_invite, post=accept_invite),
)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _login(page: Page, wanted: str) -> dict[str, Any]:
    return {"next": _next(wanted), "signup_open": page.desk.gate.rules.signup == "open"}


def _next(wanted: str) -> str:
    """Where to after the sign-in: a path of ours, else the overview."""
    path = local_path(wanted)
    return path if path != "/" and not path.startswith((LOGIN_PATH, "/logout")) else HOME_PATH


async def _let_in(page: Page, signed_in: SignedIn, wanted: str) -> None:
    await page.enter(signed_in.token, signed_in.session)
    await page.go(_next(wanted))


async def _ask_for_code(page: Page, needed: CodeNeeded, wanted: str) -> None:
    if page.token is not None and signin.find_session(page.desk, page.token) is None:
        page.leave()  # a link has ended it, and a form of it would be refused
    await page.show("door/code.html", ticket=needed.ticket, next=_next(wanted))


def _check_twice(page: Page) -> None:
    """A new password is typed blind: twice, so that a slip does not shut anybody out."""
    if page.form.raw("password") != page.form.raw("again"):
        raise ClientError("invalid_request", "The two passwords differ; type the same one twice.", param="again")


def _check_open(page: Page) -> None:
    if page.desk.gate.rules.signup != "open":
        raise ClientError("not_found", "Nobody can make an account by themselves here; ask the operator for one.")


async def _find_invite(page: Page) -> Invite:
    invite = await invites.find_invite(page.desk, page.request.match_info["token"])
    if invite is None:
        raise ClientError(
            "not_found", "This invite was used or revoked, or has expired; ask whoever sent it for another.", param="token"
        )
    return invite


def _no_link() -> ClientError:
    return ClientError(
        "not_found", "This link was used already, or has expired. The operator of this gateway can make another.", param="token"
    )
