"""aiohttp's server with the limits it lacks: on slow heads and bodies, on what its own errors give away.

    TLS      10 s for the handshake, 5 s for the goodbye
    head     10 s from the connection, or from the first byte of a further request
    body     30 s and 1 s more per 64 kB
    errors   ours, as JSON, without an echo of the offending line and without a traceback in the log

Measured with aiohttp 3.14.5 (TRUST.md): half-sent requests stay open for ever, and its 400 page repeats the malformed header
line, a credential as likely as not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.errors import ClientError

logger = logging.getLogger("aiohttp.server")

# asyncio's own are 60 and 30 s: a stranger who says nothing would keep a connection that long.
TLS_HANDSHAKE_S = 10
TLS_GOODBYE_S = 5
HEAD_S = 10
BODY_S = 30
BODY_BYTES_PER_S = 65_536
KEEPALIVE_S = 75
# An honest client that is still sending its body when it is refused needs a moment to read the refusal; 0 would reset it.
LINGER_S = 2
SERVER_NAME = "pagegrid"


class GuardedProtocol(RequestHandler):
    """One connection. `watchers` are called once when the client is gone; they belong to the request under way."""

    __slots__ = ("_head_timer", "watchers")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.watchers: list[Callable[[], None]] = []
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._head_timer = self._loop.call_later(HEAD_S, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages or self._current_request is not None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
        elif self._head_timer is None and not self._request_in_progress:
            self._head_timer = self._loop.call_later(HEAD_S, self._head_is_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)
        watchers, self.watchers = self.watchers, []
        for watcher in watchers:
            watcher()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if status >= 500:
            logger.error("unhandled error", exc_info=exc)
        else:
            logger.info("malformed request from %s: %s", request.remote, type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; it cannot become an error")
        kind, text = ("api_error", "Internal error.") if status >= 500 else ("invalid_request_error", "This is not valid HTTP.")
        response = web.json_response(
            {"type": "error", "error": {"type": kind, "message": text}}, status=status, headers={"server": SERVER_NAME}
        )
        response.force_close()
        return response

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self._messages and self._current_request is None:
            self.force_close()


class _GuardedServer(web.Server):
    def __call__(self) -> RequestHandler:
        return GuardedProtocol(self, loop=self._loop, **self._kwargs)


class GuardedRunner(web.AppRunner):
    """An AppRunner whose connections are guarded."""

    def __init__(self, app: web.Application) -> None:
        super().__init__(
            app,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGER_S,
            # Unpacking a 1 MB gzip body costs seconds on the loop, even if the handler answers 415 first.
            auto_decompress=False,
            logger=logger,
            handle_signals=False,
            # The house has drained by then; what is still open has nothing to say.
            shutdown_timeout=1,
        )

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        return _GuardedServer(plain.request_handler, request_factory=plain.request_factory, **plain._kwargs)


class GuardedSite(web.TCPSite):
    """A TCPSite that bounds what TLS waits for, which aiohttp's hands no limit to (`start` is its own otherwise)."""

    async def start(self) -> None:
        await web.BaseSite.start(self)
        server, encrypted = self._runner.server, self._ssl_context is not None
        assert server is not None
        self._server = await asyncio.get_running_loop().create_server(
            *(server, self._host, self._port),
            backlog=self._backlog,
            ssl=self._ssl_context,
            # Without TLS a limit on it is an error.
            ssl_handshake_timeout=TLS_HANDSHAKE_S if encrypted else None,
            ssl_shutdown_timeout=TLS_GOODBYE_S if encrypted else None,
        )


async def read_body(request: web.Request, bytes_max: int) -> bytes:
    """The whole body within its time. Raises ClientError too_large, encoded_body, invalid_request."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ClientError("encoded_body", "Send the body as it is, without Content-Encoding.")
    if request.content_length is not None and request.content_length > bytes_max:
        raise too_large(bytes_max)
    if request.content.is_eof() and (request.content_length or 0) <= bytes_max:
        # It came together with its head, as most do.
        return request.content.read_nowait()
    loop = asyncio.get_running_loop()
    started = loop.time()
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S) as limit:
            while part := await request.content.readany():
                parts.append(part)
                size += len(part)
                if size > bytes_max:
                    raise too_large(bytes_max)
                limit.reschedule(started + BODY_S + size / BODY_BYTES_PER_S)
    except TimeoutError:
        raise ClientError("invalid_request", "The body did not arrive in time.") from None
    except (ConnectionError, web.HTTPException, ValueError, RuntimeError) as error:
        raise ClientError("invalid_request", "The body broke off.") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def has_c_extension() -> bool:
    """The pure Python parser has known smuggling holes that the C one has not."""
    return aiohttp.http_parser.HttpRequestParser is not aiohttp.http_parser.HttpRequestParserPy


def too_large(bytes_max: int) -> ClientError:
    return ClientError("too_large", f"The body is larger than this gateway's limit of {bytes_max // 2**20} MiB.")
