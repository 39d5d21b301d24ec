"""The frame of every page: layout, what the reader prefers, security headers, and refusals as pages.

A page's values are ready when they come here; templates loop, choose and format. Autoescape is on and a name that is not there is
an error (StrictUndefined): nothing of what a template shows can become markup, and nothing is left out in silence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import jinja2
from aiohttp import web

from gateway.api.frame import client_is_trusted_proxy
from gateway.api.sink import HttpSink
from gateway.desk.signin import find_session
from gateway.errors import GatewayError
from gateway.house import House
from gateway.proxy.walk import Inbound
from gateway.upstreams.base import Headers
from gateway.web import text
from gateway.web.manual import Manual
from gateway.web.static import Static, etag_of, is_known

HTML = "text/html; charset=utf-8"
MARKDOWN = "text/markdown; charset=utf-8"

# No inline script or style anywhere, nothing from elsewhere, in no frame (TRUST.md, "Keys and sign-in").
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
SECURITY_HEADERS = (
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    # Not no-referrer: browsers then send "Origin: null" with our own forms.
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
# Kept, but asked for again each time: a reload of the configuration shows at once, and nothing of one reader reaches another.
CACHING = (("cache-control", "private, no-cache"), ("vary", "accept, cookie"))

THEMES = ("system", "light", "dark")
_THEME = re.compile(r"(?:^|;)\s*theme=(light|dark)\s*(?:;|$)")
_SESSION = re.compile(r"(?:^|;)\s*(__Host-)?session=([A-Za-z0-9_-]+)\s*(?=;|$)")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?", re.ASCII)

# What people are told by status, where the error's own message is for programs.
_TITLES = {
    400: "That cannot be read",
    401: "Signed out",
    403: "Not allowed",
    404: "Not found",
    405: "Not offered",
    413: "Too much",
    429: "Too fast",
    500: "Something broke here",
    503: "Not ready",
}


@dataclass(frozen=True, slots=True)
class Reader:
    """Who looks at a page: the theme that they chose ("system": as their device has it), and as whom they are signed in, ""
    for nobody. It says what a page of everybody's shows in its corner, and opens nothing."""

    theme: str
    user_name: str

    @classmethod
    def of(cls, house: House, inbound: Inbound) -> Reader:
        cookies = inbound.header("cookie")
        chosen, token = _THEME.search(cookies), _token_of(cookies)
        session = find_session(house.desk, token) if token else None
        return cls(chosen.group(1) if chosen else "system", session.user_name if session else "")


class Pages:
    def __init__(self, house: House, static: Static) -> None:
        self._house = house
        self.manual = Manual(house)
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("gateway.web", "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals |= {"static": static.url, "themes": THEMES}
        self._environment.filters |= text.FILTERS

    def render(self, template: str, inbound: Inbound, here: str = "", **values: object) -> bytes:
        """`here` is the page's own path, to which the theme's form returns; "" for a page that has none."""
        settings = self._house.settings
        shown = self._environment.get_template(template).render(
            brand=settings.brand, demo=settings.demo_only, reader=Reader.of(self._house, inbound), here=here, **values
        )
        return shown.encode()

    def render_part(self, template: str, **values: object) -> bytes:
        """A piece of a page by itself, without what only a page has."""
        return self._environment.get_template(template).render(brand=self._house.settings.brand, **values).encode()

    async def answer(self, template: str, request: web.Request, inbound: Inbound, sink: HttpSink, **values: Any) -> None:
        await answer_text(self.render(template, inbound, request.path, **values), HTML, request, sink)

    def refuse(self, error: GatewayError, inbound: Inbound) -> tuple[Headers, bytes]:
        """A refusal as a page (api/frame.py, `Render`). Nothing of the request is repeated in it but its id."""
        title = _TITLES.get(error.status, "This did not work")
        message = error.message if error.status != 500 else "The error is in this server's log, under the id below."
        page = self.render("error.html", inbound, title=title, message=message, status=error.status, request_id=inbound.text_id)
        return [("content-type", HTML), *SECURITY_HEADERS, ("cache-control", "no-store")], page


async def answer_text(body: bytes, content_type: str, request: web.Request, sink: HttpSink) -> None:
    """A page or a text, or 304 to whoever has it."""
    etag = etag_of(body)
    headers = [("content-type", content_type), ("etag", etag), *SECURITY_HEADERS, *CACHING]
    if is_known(request, etag):
        await sink.answer(304, headers, b"")
    else:
        await sink.answer(200, headers, body)


def base_url(house: House, request: web.Request) -> str:
    """How this reader reaches the house: `server.public_url`, else what their request says."""
    server = house.settings.server
    if server.public_url:
        return server.public_url
    scheme = request.scheme
    if client_is_trusted_proxy(house, request) and request.headers.get("x-forwarded-proto") in ("http", "https"):
        scheme = request.headers["x-forwarded-proto"]
    host = request.headers.get("host", "")
    # What is no host is not repeated; HTTP/1.0 names none.
    return f"{scheme}://{host if _HOST.fullmatch(host) else f'{server.host}:{server.port}'}"


def _token_of(cookies: str) -> str:
    """Of two sessions, one of which somebody else has put there, the one whose pages are opened (page.py, `find_visitor`)."""
    found: dict[str, str] = dict(_SESSION.findall(cookies))  # of one name the last, as it is read there
    return found.get("__Host-") or found.get("", "")
