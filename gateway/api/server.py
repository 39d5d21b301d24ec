"""The HTTP server: the API's endpoints on all their paths, probes, the pages, and what is not found."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from gateway.api.account import get_credits, get_key, get_usage
from gateway.api.admin import admin_api
from gateway.api.frame import HOUSE, Handler, answer_json, framed
from gateway.api.guard import SERVER_NAME, GuardedRunner, GuardedSite
from gateway.api.metrics import get_metrics
from gateway.api.models import get_model, list_models
from gateway.api.paths import Endpoint, endpoint_paths, is_api_path
from gateway.api.sink import HttpSink
from gateway.api.tls import Tls
from gateway.api.usage import REPORTS, REPORTS_AT_ONCE, report_usage
from gateway.errors import ClientError, HouseError
from gateway.house import House
from gateway.proxy.counting import count_tokens
from gateway.proxy.exchange import exchange
from gateway.proxy.walk import Inbound
from gateway.web.site import AioHandler, Site, wants_page


@asynccontextmanager
async def serving(house: House, host: str, port: int, tls: Tls | None = None) -> AsyncIterator[int]:
    """Serve the house over HTTP, or HTTPS with `tls`; gives the port that was bound. At the end requests are drained before
    connections close."""
    runner = GuardedRunner(build_app(house))
    await runner.setup()
    try:
        site = GuardedSite(runner, host, port, ssl_context=tls.context if tls else None)
        await site.start()
        yield runner.addresses[0][1]
        # Stop accepting first; then what runs may end.
        await site.stop()
        await house.drain(house.settings.timeouts.shutdown_s)
        await house.notifier.look()
    finally:
        await runner.cleanup()


def build_app(house: House) -> web.Application:
    app = web.Application()
    app[HOUSE] = house
    app[REPORTS] = asyncio.Semaphore(REPORTS_AT_ONCE)
    handlers: dict[Endpoint, tuple[str, Handler]] = {
        "messages": ("POST", _ask_model),
        "count_tokens": ("POST", _count_tokens),
        "models": ("GET", list_models),
        "model": ("GET", get_model),
        "usage": ("GET", get_usage),
        "usage_report": ("GET", report_usage),
        "key": ("GET", get_key),
        "credits": ("GET", get_credits),
        "hello": ("GET", _hello),
    }
    framed_handlers = {name: framed(method, name, handler) for name, (method, handler) in handlers.items()}
    framed_handlers["chat"] = framed("POST", "chat", _ask_model, dialect="openai")
    site = Site(house)
    for endpoint, path in endpoint_paths(house.settings.server.mounts):
        handler: AioHandler = framed_handlers[endpoint]
        if path.startswith("/models"):
            # What clients append to a base URL is what people type.
            handler = _by_reader(site.models if endpoint == "models" else site.model, handler)
        app.router.add_route("*", path, handler)
    app.router.add_route("*", "/healthz", framed("GET", "healthz", _healthz))
    app.router.add_route("*", "/readyz", framed("GET", "readyz", _readyz))
    app.router.add_route("*", "/metrics", framed("GET", "metrics", get_metrics))
    site.add_to(app.router)
    elsewhere = functools.partial(_elsewhere, house, site)
    administration = admin_api(elsewhere)
    for path in ("/admin/api", "/admin/api/{act:.*}"):
        app.router.add_route("*", path, administration)
    app.router.add_route("*", "/{path:.*}", elsewhere)
    app.on_response_prepare.append(_finish_headers)
    return app


async def _ask_model(house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    await exchange(house.walk, inbound, sink)


async def _count_tokens(house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    await count_tokens(house.walk, inbound, sink)


async def _hello(house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    await answer_json(sink, {"gateway": house.settings.brand.name})


async def _healthz(house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    """The process answers."""
    await answer_json(sink, {"status": "ok"})


async def _readyz(house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    """New requests can be charged: the writer commits, and we are not shutting down."""
    if not house.walk.store.accepting:
        raise HouseError("unavailable", "The ledger cannot be written right now.", retry_after_s=2)
    await answer_json(sink, {"status": "ready"})


def _by_reader(page: AioHandler, handler: AioHandler) -> AioHandler:
    """The page for a browser, the endpoint for everybody else."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await (page if wants_page(request) else handler)(request)

    return handle


async def _elsewhere(house: House, site: Site, request: web.Request) -> web.StreamResponse:
    """Everything that is neither endpoint nor page: told in JSON where API clients ask, as a page elsewhere."""
    if is_api_path(request.path, house.settings.server.mounts):
        return await _not_found_json(request)
    return await site.not_found(request)


async def _raise_not_found(house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    raise ClientError(
        "not_found",
        "There is no such endpoint. Offered are POST /v1/messages, /v1/messages/count_tokens and /v1/chat/completions, "
        "GET /v1/models, /v1/models/ID, "
        "/v1/key, /v1/credits, /v1/usage and /v1/usage/ID.",
    )


async def _not_found_json(request: web.Request) -> web.StreamResponse:
    return await framed(request.method, "unknown", _raise_not_found)(request)


async def _finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["server"] = SERVER_NAME
