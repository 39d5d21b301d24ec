"""Who is let in to which page: the session of a cookie, the role of a route, the token of a form. Rooms are asked after that.

    anyone   everybody; `session` is there if they are signed in
    user     whoever is signed in; others go to /login and come back
    admin    admins; to everybody else the page is not there

An admin who must have a second factor and has none gets no further than to where it is set up.
"""

from __future__ import annotations

from urllib.parse import urlencode

from aiohttp import web

from gateway.api.frame import check_method
from gateway.api.sink import HttpSink
from gateway.desk.signin import find_session, must_set_up_totp
from gateway.desk.users import get_member
from gateway.errors import ClientError
from gateway.house import House
from gateway.proxy.walk import Inbound
from gateway.sessions import Session, is_csrf_token
from gateway.web.forms import local_path, read_form
from gateway.web.live import Live
from gateway.web.notes import Notes
from gateway.web.page import FORM_COOKIE, HOME_PATH, LOGIN_PATH, SESSION_COOKIE, TOTP_PATH, Page, Route, cookie_name, is_secure
from gateway.web.pages import Pages


class Hall:
    """Lets in by route: the session of a cookie, the token of a form, and nobody where they may not be."""

    def __init__(self, pages: Pages, live: Live) -> None:
        self._pages = pages
        self._live = live
        self._notes = Notes()

    async def serve(self, route: Route, house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
        check_method(request, *route.methods)
        token, session = find_visitor(house, request)
        form_token = request.cookies.get(cookie_name(FORM_COOKIE, is_secure(house, request)), "")
        page = Page(house, self._pages, self._notes, request, inbound, sink, self._live, token, session, form_token)
        if route.who != "anyone" and session is None:
            await _ask_to_sign_in(page)
            return
        if route.who == "admin" and page.me.role != "admin":
            raise ClientError("not_found", "There is no page here. It may have moved; start again from one of these.")
        if session is not None:
            page.visitor = await page.look(lambda conn: get_member(conn, page.me.user_id))
            if route.who != "anyone" and must_set_up_totp(house.desk, session) and not request.path.startswith(TOTP_PATH):
                await page.go(TOTP_PATH)
                return
        if request.method == "POST":
            page.form = await read_form(request)
            # A body may take its time, in which the session may have ended.
            if page.has_ended:
                raise _signed_out()
            expected = token if session is not None else form_token
            if not expected or not is_csrf_token(expected, page.form.take("csrf")):
                if session is None and request.cookies.get(cookie_name(SESSION_COOKIE, is_secure(house, request))):
                    raise _signed_out()
                raise ClientError(
                    "forbidden",
                    "This form was made for another session, or this browser keeps no cookies. Nothing was changed; go back, "
                    "load the page anew and send it again.",
                )
        handler = route.post if request.method == "POST" else route.get
        assert handler is not None
        await handler(page)


def find_visitor(house: House, request: web.Request) -> tuple[str | None, Session | None]:
    """The token of the session's cookie and the living session, both None if there is none."""
    token = request.cookies.get(cookie_name(SESSION_COOKIE, is_secure(house, request)))
    session = find_session(house.desk, token) if token else None
    return (token, session) if session is not None else (None, None)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _ask_to_sign_in(page: Page) -> None:
    if page.request.method == "POST":
        raise _signed_out()
    wanted = local_path(page.request.rel_url.raw_path_qs)
    await page.go(f"{LOGIN_PATH}?{urlencode({'next': wanted})}" if wanted != HOME_PATH else LOGIN_PATH)


def _signed_out() -> ClientError:
    return ClientError("unauthenticated", "Your session has ended, and nothing was changed. Sign in, and send this again.")
