"""One request of a page: who asks, what their form says, and the ways to answer. Every room of pages is made of these.

    Route("/dashboard/keys", "keys", "user", get=show_keys, post=create_key)

A handler ends in `show` (a page, perhaps with the form that was refused), `go` (after something was done: POST, redirect, GET) or
`send` (a file). Who gets this far, and that a form is one of ours, is `hall.py`'s to see to. Nothing of a signed-in page is kept
by anybody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from aiohttp import web

from gateway.api.sink import HttpSink
from gateway.desk.desk import Desk
from gateway.desk.operation import broken_invariants
from gateway.desk.signin import Visit, find_session, look, sign_out
from gateway.desk.users import Member
from gateway.errors import ClientError
from gateway.house import House
from gateway.proxy.walk import Inbound
from gateway.sessions import ABSOLUTE_MS, Session, csrf_token, make_token
from gateway.upstreams.base import Headers
from gateway.web.forms import Form, parse_number
from gateway.web.live import EVENT_STREAM, Live, Part, Read, Stamp
from gateway.web.notes import Note, Notes, Tone
from gateway.web.pages import HTML, SECURITY_HEADERS, Pages, base_url
from gateway.web.standing import needs_attention

T = TypeVar("T")

Who = Literal["anyone", "user", "admin"]
# Where an admin without a second factor may go while one is required of admins.
TOTP_PATH = "/dashboard/settings/two-factor"
LOGIN_PATH = "/login"
HOME_PATH = "/dashboard"
NO_STORE = ("cache-control", "no-store")
# A proxy that packed a stream would hold it back.
NO_TRANSFORM = ("cache-control", "no-store, no-transform")
# A form that nobody is signed in for carries the token of a cookie of its own.
FORM_COOKIE = "form"
SESSION_COOKIE = "session"


@dataclass(frozen=True, slots=True)
class Route:
    """A path of pages: as aiohttp writes it, under which name it is logged and counted, who may, and what answers."""

    path: str
    name: str
    who: Who
    get: PageHandler | None = None
    post: PageHandler | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(method for method, handler in (("GET", self.get), ("POST", self.post)) if handler is not None)


@dataclass(slots=True)
class Page:
    """`token` is that of the session's cookie, `form_token` that of the cookie for forms before a sign-in; `form` is what was
    sent, empty for a GET."""

    house: House
    pages: Pages
    notes: Notes
    request: web.Request
    inbound: Inbound
    sink: HttpSink
    live: Live
    token: str | None
    session: Session | None
    form_token: str
    form: Form = field(default_factory=Form)
    visitor: Member | None = None
    _cookies: list[tuple[str, str]] = field(default_factory=list)

    # ── who and what ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def desk(self) -> Desk:
        return self.house.desk

    @property
    def me(self) -> Session:
        """The session of a page that is not for everybody."""
        assert self.session is not None
        return self.session

    @property
    def has_ended(self) -> bool:
        """Whether the session has, since the page was asked for."""
        return self.token is not None and find_session(self.desk, self.token) is None

    @property
    def visit(self) -> Visit:
        return Visit(self.inbound.address, self.request.headers.get("user-agent", ""))

    @property
    def actor(self) -> str:
        """Whom audit rows name."""
        return self.me.actor(self.inbound.address)

    @property
    def member(self) -> Member:
        """The signed-in user as the database has them now: plan, wallet, e-mail."""
        assert self.visitor is not None
        return self.visitor

    @property
    def query(self) -> Mapping[str, str]:
        """What stands behind the "?"; of a name that stands there twice the first."""
        return self.request.rel_url.query

    @property
    def now_ms(self) -> int:
        """The wall clock."""
        return self.desk.clock.at_ms()

    def number(self, name: str) -> int:
        """A number in the path. Raises ClientError `not_found` for what is none of ours."""
        text = self.request.match_info[name]
        if (number := parse_number(text)) is None:
            raise ClientError("not_found", "There is no page here. It may have moved; start again from one of these.")
        return number

    async def look(self, read: Callable[[Any], T]) -> T:
        """What `read` finds on a connection of its own, in a thread: pages never read on the loop."""
        return await look(self.desk, read, self.session.user_id if self.session is not None else None)

    # ── the ways to answer ───────────────────────────────────────────────────────────────────────────────────────────

    async def show(self, template: str, *, status: int = 200, **values: Any) -> None:
        """A page. What the last act left for it (a message, a secret that is shown once) is `note`, and gone with it."""
        note = None
        if self.session is not None and self.request.method == "GET":
            note = self.notes.take(self.session.id, self.request.path, self.desk.clock.now_ms())
        page = self.pages.render(template, self.inbound, self.request.path, **{"note": note, **self._frame(), **values})
        await self.send(page, HTML, status=status)

    async def refuse(self, template: str, error: ClientError, *, also: Collection[str] = (), **values: Any) -> None:
        """The page again, with the form as it was typed and the refusal beside its field (`Form.refuse`). Its status is the
        refusal's."""
        self.form.refuse(error, also)
        status = error.status if error.status != 401 else 400  # 401 asks a browser for a scheme that we do not offer
        retry = [("retry-after", str(error.retry_after_s))] if error.retry_after_s is not None else []
        page = self.pages.render(template, self.inbound, self.request.path, **{"note": None, **self._frame(), **values})
        await self.send(page, HTML, status=status, headers=retry)

    async def go(self, path: str, message: str = "", tone: Tone = "ok", /, **shown: Any) -> None:
        """To a page of ours by GET; `message` and what is `shown` once there wait for it."""
        if self.session is not None and (message or shown):
            note = Note(message, tone, shown)
            self.notes.put(self.session.id, path.partition("?")[0].partition("#")[0], note, self.desk.clock.now_ms())
        await self.send(b"", None, status=303, headers=[("location", path)])

    async def send(self, body: bytes, content_type: str | None, *, status: int = 200, headers: Headers = ()) -> None:
        """Anything that is ready, such as a CSV file; never kept by anybody."""
        told = [("content-type", content_type)] if content_type else []
        await self.sink.answer(status, [*told, *headers, *self._cookies, *SECURITY_HEADERS, NO_STORE], body)

    async def keep_up_to_date(self, part: Part) -> None:
        """A stream of what the part shows, to a page that has its script; to anybody else what it shows now."""
        if EVENT_STREAM in self.request.headers.get("accept", "") and self.request.method == "GET":
            assert self.token is not None
            await self.live.stream(part, self.member, self.token, (*SECURITY_HEADERS, NO_TRANSFORM), self.sink)
        else:
            await self.send(await self.live.render(part, self.member), HTML)

    # ── signing in and out ───────────────────────────────────────────────────────────────────────────────────────────

    async def enter(self, token: str, session: Session) -> None:
        """From here on the browser is signed in with this session; the one that it had before has ended."""
        if self.session is not None and self.session.id != session.id:
            await sign_out(self.desk, self.visit, self.session)
        self.token, self.session = token, session
        self._set_cookie(SESSION_COOKIE, token, f"; Max-Age={ABSOLUTE_MS // 1000}")
        self._set_cookie(FORM_COOKIE, "", "; Max-Age=0")

    def leave(self) -> None:
        self.token = self.session = None
        self._set_cookie(SESSION_COOKIE, "", "; Max-Age=0")

    # ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _frame(self) -> dict[str, Any]:
        """What the layout of every page needs."""
        if self.session is None and not self.form_token:
            self.form_token = make_token()
            self._set_cookie(FORM_COOKIE, self.form_token)
        member = self.visitor
        return {
            "csrf": csrf_token((self.token if self.session is not None else None) or self.form_token),
            "form": self.form,
            "member": member,
            "wallet": self.desk.book.wallet(member.wallet_id) if member is not None else None,
            "base_url": base_url(self.house, self.request),
            "now_ms": self.now_ms,
            "query": self.query,
            "attention": _attention(self.house) if member is not None and member.role == "admin" else {},
        }

    @property
    def _secure(self) -> bool:
        return is_secure(self.house, self.request)

    def _set_cookie(self, name: str, value: str, more: str = "") -> None:
        secure = "; Secure" if self._secure else ""
        cookie = f"{cookie_name(name, self._secure)}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{more}"
        self._cookies.append(("set-cookie", cookie))


PageHandler = Callable[[Page], Awaitable[None]]


def live_route(
    path: str, name: str, who: Literal["user", "admin"], template: str, read: Read, stamp: Stamp | None = None
) -> Route:
    """The path from which a part of a page is kept up to date (`live.py` says how)."""
    part = Part(name, who, template, read, stamp)

    async def keep_up_to_date(page: Page) -> None:
        await page.keep_up_to_date(part)

    return Route(path, name, who, get=keep_up_to_date)


def cookie_name(name: str, secure: bool) -> str:
    """Over TLS such that no other host and no plain HTTP can have set it (RFC 6265bis §4.1.3.2)."""
    return f"__Host-{name}" if secure else name


def is_secure(house: House, request: web.Request) -> bool:
    """Whether the reader's own way here is TLS, be it that of a proxy."""
    return base_url(house, request).startswith("https:")


def _attention(house: House) -> dict[str, int]:
    """How many things an admin should look at, by the path of the page that has them; from memory alone, as every page asks."""
    upstreams = house.desk.upstreams.show()
    return {
        "/admin/upstreams": sum(needs_attention(each) for each in upstreams),
        "/admin/ledger": broken_invariants() + (not house.writer.accepting),
    }
