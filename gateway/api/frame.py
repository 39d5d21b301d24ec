"""What every API answer has around it: an id, one place where refusals are rendered, one log line.

A handler gets an `Exchange` (its request, its sink, its record) and either answers on the sink or raises; a GatewayError
becomes its status and body here and nowhere else, anything else is logged whole and told only as an internal error.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import orjson
from aiohttp import web

from gateway import metrics
from gateway.api import log
from gateway.api.guard import GuardedProtocol, read_body
from gateway.api.sink import HttpSink
from gateway.errors import ClientError, GatewayError, HouseError
from gateway.house import House
from gateway.ids import render_id
from gateway.proxy.walk import Inbound
from gateway.upstreams.base import Headers
from gateway.wire.call import Dialect
from gateway.wire.speech import SPEECHES

logger = logging.getLogger(__name__)

HOUSE = web.AppKey("house", House)
JSON = ("content-type", "application/json")

Handler = Callable[[House, web.Request, Inbound, HttpSink], Awaitable[None]]
# (the refusal, its request) → the headers and the body that tell it.
Render = Callable[[GatewayError, Inbound], tuple[Headers, bytes]]


def in_json(render: Callable[[GatewayError, str], bytes]) -> Render:
    """What a refusal's JSON is made of, from the refusal and the request's id, as a `Render`."""
    return lambda error, inbound: ([JSON], render(error, inbound.text_id))


class MethodNotAllowed(ClientError):
    """RFC 9110 §15.5.6: whoever is told that the method is wrong is told which is right."""

    def __init__(self, asked: str, *offered: str) -> None:
        super().__init__("method_not_allowed", f"{asked} is not offered here; use {' or '.join(offered)}.")
        self.allow = ", ".join("GET, HEAD" if method == "GET" else method for method in offered)


def framed(
    method: str | None, endpoint: str, handler: Handler, render: Render | None = None, dialect: Dialect = "anthropic"
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The aiohttp handler of one endpoint; HEAD is answered wherever GET is. A `method` of None is left to the handler.

    Refusals are told as `render` has it, else in the dialect of the endpoint.
    """
    render = render or in_json(SPEECHES[dialect].render_error)

    async def handle(request: web.Request) -> web.StreamResponse:
        house = request.app[HOUSE]
        walk = house.walk
        inbound = _inbound(house, request, dialect)
        sink = HttpSink(request, inbound)
        task = asyncio.current_task()
        assert task is not None
        walk.tasks.add(task)
        try:
            if house.closing:
                raise HouseError("unavailable", "The gateway is shutting down.", retry_after_s=2)
            if method is not None:
                check_method(request, method)
            await handler(house, request, inbound, sink)
        except GatewayError as error:
            inbound.record.error = error.code
            if sink.response is None:
                allow = [("allow", error.allow)] if isinstance(error, MethodNotAllowed) else []
                await refuse(sink, _with_support(house, error), inbound, allow, render)
            else:
                await sink.cut()  # what began must not look complete
        except Exception:
            logger.exception("%s failed", inbound.text_id)
            inbound.record.error = "internal"
            if sink.response is None:
                await refuse(sink, HouseError("internal", "Internal error."), inbound, (), render)
            else:
                await sink.cut()
        finally:
            walk.tasks.discard(task)
            if isinstance(request.protocol, GuardedProtocol):
                request.protocol.watchers.clear()
        response = sink.response
        assert response is not None
        total_ms = walk.clock.now_ms() - inbound.received_ms
        log.log_request(inbound.text_id, request.method, endpoint, response.status, total_ms, inbound.record)
        metrics.answered(endpoint, response.status, inbound.record.error, inbound.record.stream, total_ms)
        return response

    return handle


async def refuse(sink: HttpSink, error: GatewayError, inbound: Inbound, more_headers: Headers, render: Render) -> None:
    """Render a refusal: status, body, and the headers that tell a client when to come back."""
    told, body = render(error, inbound)
    headers = [*told, *more_headers]
    retry_after_s = error.retry_after_s
    if retry_after_s is None and error.status == 502:
        retry_after_s = 1  # kinder than the back-off of a client that is told nothing (PROTOCOL.md, trap 10)
    if retry_after_s is not None:
        headers.append(("retry-after", str(retry_after_s)))
    if error.should_retry is not None:
        headers.append(("x-should-retry", "true" if error.should_retry else "false"))
    await sink.answer(error.status, headers, body)


def _with_support(house: House, error: GatewayError) -> GatewayError:
    """What only the operator can mend says how to reach them."""
    support = house.settings.brand.support
    if support and error.code in ("unauthenticated", "balance_too_low", "cap_reached", "forbidden", "rate_limited"):
        error.message = f"{error.message} {support}"
    return error


async def answer_json(sink: HttpSink, value: object, headers: tuple[tuple[str, str], ...] = ()) -> None:
    await sink.answer(200, [JSON, *headers], orjson.dumps(value))


def _inbound(house: House, request: web.Request, dialect: Dialect) -> Inbound:
    walk = house.walk
    headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in request.raw_headers)
    request_id = walk.ids.next(walk.clock.at_ms())
    return Inbound(
        request_id=request_id,
        text_id=render_id(request_id),
        headers=headers,
        query=request.rel_url.raw_query_string,
        address=client_address(house, request, headers),
        body_bytes=request.content_length,
        read_body=functools.partial(read_body, request),
        received_ms=walk.clock.now_ms(),
        dialect=dialect,
    )


def check_method(request: web.Request, *offered: str) -> None:
    if request.method not in offered and not ("GET" in offered and request.method == "HEAD"):
        raise MethodNotAllowed(request.method, *offered)


def client_address(house: House, request: web.Request, headers: tuple[tuple[str, str], ...]) -> str:
    """The peer's address; what a proxy says of its client counts only if the proxy is one of `server.trusted_proxies`."""
    peer = request.remote or ""
    trusted = house.settings.server.trusted_proxies
    if not trusted or not is_within(peer, trusted):
        return peer
    forwarded = [part.strip() for name, value in headers if name == "x-forwarded-for" for part in value.split(",")]
    # From the nearest hop outwards: the first one that is not our own proxy is the client.
    for address in reversed(forwarded):
        if not _is_address(address):
            break
        peer = address
        if not is_within(address, trusted):
            break
    return peer


def client_is_trusted_proxy(house: House, request: web.Request) -> bool:
    """Whether what the peer says of its client (X-Forwarded-*) counts."""
    return is_within(request.remote or "", house.settings.server.trusted_proxies)


def came_by_a_stranger(house: House, request: web.Request) -> bool:
    """Whether somebody stands between the client and us whom we are not told to believe: `client_address` is theirs then.

    A proxy on this machine that nobody named would make all the world look local.
    """
    if not any(name in request.headers for name in FORWARDING):
        return False
    hops = ",".join(request.headers.getall("x-forwarded-for", [])).split(",")
    return not client_is_trusted_proxy(house, request) or not _is_address(hops[-1].strip())


# What proxies say of their clients (RFC 7239, RFC 9110 §7.6.3, nginx's and Caddy's habits); only the first is read.
FORWARDING = ("x-forwarded-for", "forwarded", "x-real-ip", "x-forwarded-host", "x-forwarded-proto", "via")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_within(address: str, networks: tuple[object, ...]) -> bool:
    """Whether a text is an address in one of the networks; what is no address is in none."""
    return _is_address(address) and any(ip_address(address) in network for network in networks)  # type: ignore[operator]
