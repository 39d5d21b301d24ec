"""All pages on their paths, beside the API. Where both have one (/models), whoever names text/html in `Accept` gets the page.

/  /models  /models/ID  /docs/…  /docs/….md  /llms.txt  /llms-full.txt  /static/…  /theme    and, of those who are signed in or
come to be: ROUTES
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

from aiohttp import web

from gateway.api.accept import prefers
from gateway.api.frame import Handler, framed
from gateway.api.sink import HttpSink
from gateway.desk.own_keys import newest_key
from gateway.desk.signin import look
from gateway.errors import ClientError
from gateway.house import House
from gateway.proxy.walk import Inbound
from gateway.web import admin, dashboard, entry, key_page
from gateway.web.forms import local_path, read_form
from gateway.web.hall import Hall, find_visitor
from gateway.web.live import Live
from gateway.web.manual import FIRST, GROUPS, ORDER, TITLES
from gateway.web.models import list_models, show_model
from gateway.web.page import Route
from gateway.web.pages import MARKDOWN, SECURITY_HEADERS, THEMES, Pages, answer_text, base_url
from gateway.web.static import Static

# Every page that knows whom it is for, each room's beside it.
ROUTES: tuple[Route, ...] = (*entry.ROUTES, *key_page.ROUTES, *dashboard.ROUTES, *admin.ROUTES)

AioHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_THEME_S = 365 * 24 * 3600


class Site:
    """The pages of one house. `models` and `model` answer where the API has the same paths; the others are added by `add_to`."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._static = Static()
        self._pages = Pages(house, self._static)
        self._hall = Hall(self._pages, Live(house, self._pages))
        self.models = self._page("GET", "page/models", functools.partial(list_models, self._pages))
        self.model = self._page("GET", "page/model", functools.partial(show_model, self._pages))
        self.not_found = self._page(None, "page/unknown", _raise_not_found)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """After the API's paths: of two that are the same, the first one added answers."""
        for route in ROUTES:
            handler = self._page(None, f"page/{route.name}", functools.partial(self._hall.serve, route))
            router.add_route("*", route.path, handler)
        for path, handler in (
            ("/", self._page("GET", "page/home", self._home)),
            ("/models", self.models),
            ("/models/{model:.+}", self.model),
            ("/docs", self._page("GET", "page/docs", self._first_page)),
            ("/docs/", self._page("GET", "page/docs", self._first_page)),
            ("/docs/{page}", self._page("GET", "page/docs", self._docs_page)),
            ("/llms.txt", self._page("GET", "page/llms", self._llms)),
            ("/llms-full.txt", self._page("GET", "page/llms", self._llms_full)),
            ("/static/{name}", self._page("GET", "page/static", self._static.serve)),
            ("/theme", self._page("POST", "page/theme", self._set_theme)),
        ):
            router.add_route("*", path, handler)

    def _page(self, method: str | None, endpoint: str, handler: Handler) -> AioHandler:
        return framed(method, endpoint, handler, self._pages.refuse)

    async def _home(self, house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
        if not wants_page(request):
            # A probe, or somebody with curl.
            line = (
                f"{house.settings.brand.name} is running. The API is under /v1, the docs are at {base_url(house, request)}/docs\n"
            )
            await answer_text(line.encode(), "text/plain; charset=utf-8", request, sink)
            return
        await self._pages.answer(
            "home.html", request, inbound, sink, base_url=base_url(house, request), models=len(house.walk.catalog)
        )

    async def _first_page(self, house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
        await sink.answer(302, [("location", f"/docs/{FIRST}"), *SECURITY_HEADERS], b"")

    async def _docs_page(self, house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
        asked = request.match_info["page"]
        slug = asked.removesuffix(".md")
        if slug not in TITLES:
            raise ClientError(
                "not_found", "The docs have no such page; its name may have changed. The list of pages is at /docs."
            )
        page = await asyncio.to_thread(self._pages.manual.page, slug)
        url = base_url(house, request)
        if asked.endswith(".md") or prefers(request.headers.getall("accept", []), "text/markdown", over="text/html"):
            await answer_text(page.markdown_for(url).encode(), MARKDOWN, request, sink)
            return
        _, session = find_visitor(house, request)
        mine = None
        if session is not None and page.shows_key:
            user_id, at_ms = session.user_id, house.desk.clock.at_ms()
            mine = await look(house.desk, lambda conn: newest_key(conn, user_id, at_ms), user_id)
        position = ORDER.index((slug, TITLES[slug]))
        await self._pages.answer(
            "docs.html",
            request,
            inbound,
            sink,
            page=page,
            body=page.html_for(url, f"{mine[1]}…" if mine else ""),
            key=mine,
            groups=GROUPS,
            group=next(group for group, pages in GROUPS if (slug, TITLES[slug]) in pages),
            before=ORDER[position - 1] if position else None,
            after=ORDER[position + 1] if position + 1 < len(ORDER) else None,
        )

    async def _llms(self, house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
        body = await asyncio.to_thread(self._pages.manual.llms_txt, base_url(house, request))
        await answer_text(body.encode(), "text/plain; charset=utf-8", request, sink)

    async def _llms_full(self, house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
        body = await asyncio.to_thread(self._pages.manual.llms_full, base_url(house, request))
        await answer_text(body.encode(), "text/plain; charset=utf-8", request, sink)

    async def _set_theme(self, house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
        """For browsers without script; with it the same cookie is set in the page."""
        form = await read_form(request)
        theme = form.get("theme", "")
        if theme not in THEMES:
            raise ClientError("invalid_request", f"The theme is one of {', '.join(THEMES)}.", param="theme")
        secure = "; Secure" if request.secure else ""
        cookie = f"theme={theme}; Path=/; Max-Age={_THEME_S}; SameSite=Lax{secure}"
        await sink.answer(303, [("location", local_path(form.get("next", "/"))), ("set-cookie", cookie), *SECURITY_HEADERS], b"")


def wants_page(request: web.Request) -> bool:
    """Browsers name text/html; API clients name JSON, or take anything."""
    return prefers(request.headers.getall("accept", []), "text/html", over="application/json")


async def _raise_not_found(house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    raise ClientError("not_found", "There is no page here. It may have moved; start again from one of these.")
