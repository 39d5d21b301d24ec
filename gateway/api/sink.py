"""The client's side of one request, over aiohttp (proxy/ports.py, `Sink`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from gateway.api.guard import GuardedProtocol
from gateway.proxy.walk import Inbound
from gateway.upstreams.base import Headers

# A cut lets the client leave by itself for so long, and then read what was written for so long: one that stopped reading would
# keep its connection for ever.
LEAVE_WITHIN_S = 1
READ_WITHIN_S = 5
# An answer with a length must be taken within this time, and a second more for each 64 kB.
ANSWER_S = 30
ANSWER_BYTES_PER_S = 65_536


class HttpSink:
    """Sends the answer; the handler returns it (`response`) all the same, as aiohttp wants it."""

    def __init__(self, request: web.Request, inbound: Inbound) -> None:
        self._request = request
        self._inbound = inbound
        self._gone = False
        self.response: web.StreamResponse | None = None

    def on_gone(self, callback: Callable[[], None]) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            callback()
        else:
            protocol = self._request.protocol
            assert isinstance(protocol, GuardedProtocol)
            protocol.watchers.append(callback)

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        response = web.Response(status=status, body=body)
        self._add_headers(response, headers)
        self.response = response
        try:
            # Left to aiohttp, a client that does not read would keep it in memory for ever.
            async with asyncio.timeout(ANSWER_S + len(body) / ANSWER_BYTES_PER_S):
                await response.prepare(self._request)
                await response.write_eof()
        except TimeoutError:
            self.abort()
        except ConnectionError:
            self._gone = True

    async def start(self, status: int, headers: Headers) -> None:
        response = web.StreamResponse(status=status)
        self._add_headers(response, headers)
        self.response = response
        try:
            await response.prepare(self._request)
        except ConnectionError:
            self._gone = True

    async def write(self, data: bytes) -> None:
        assert self.response is not None
        if self._gone:
            return
        try:
            await self.response.write(data)
        except ConnectionError:
            self._gone = True

    async def end(self) -> None:
        assert self.response is not None
        if self._gone:
            return
        try:
            await self.response.write_eof()
        except ConnectionError:
            pass
        # A ping that is on its way has no place any more.
        self._gone = True

    async def cut(self) -> None:
        # Claude Code that sees the end of the connection together with an error event takes it for a lost connection, and
        # repeats the turn as a stream up to ten times (seen: 12 of 42; none when it could leave first, which took it 4 ms).
        left = asyncio.Event()
        self.on_gone(left.set)
        try:
            async with asyncio.timeout(LEAVE_WITHIN_S):
                await left.wait()
        except TimeoutError:
            pass
        # close() sends what is buffered; without the last chunk (or the announced length) no client takes it for an end.
        self._gone = True
        transport = self._request.transport
        if transport is not None and not transport.is_closing():
            transport.close()
            asyncio.get_running_loop().call_later(READ_WITHIN_S, transport.abort)

    def abort(self) -> None:
        self._gone = True
        if self._request.transport is not None:
            self._request.transport.abort()

    def _add_headers(self, response: web.StreamResponse, headers: Headers) -> None:
        for name, value in (*headers, *self._inbound.limit_headers):
            response.headers.add(name, value)
        response.headers["request-id"] = response.headers["x-request-id"] = self._inbound.text_id
