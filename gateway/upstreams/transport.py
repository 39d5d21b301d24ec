"""The only file in the house that opens outward connections: aiohttp's client, with its habits turned off.

It knows HTTP and nothing of providers: an `Outgoing` in; a head and bytes as they arrive out; every failure an `UpstreamError`.
Left alone aiohttp follows redirects (re-sending the credential to another origin), keeps one customer's cookies for the next,
reads proxies from the environment, unpacks gzip and adds headers; none of that happens here (measured with 3.14.5, TRUST.md).

    pool ──lend──▶ connection ──send──▶ head ──read()──▶ … ──▶ b""  (back to the pool)
                       └─ reused, and dead before a byte came: once more on a fresh one (neither an attempt nor a failure)
"""

from __future__ import annotations

import asyncio
import functools
import io
from contextvars import ContextVar

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError
from aiohttp.tracing import Trace
from multidict import CIMultiDict
from yarl import URL

from gateway.errors import UpstreamError
from gateway.upstreams.base import Outgoing

# A handshake costs two round trips; an idle connection costs a file descriptor. Providers close theirs later than this.
KEEPALIVE_S = 60
DNS_TTL_S = 30
# A pooled connection that was closed meanwhile says so at once. One that dies later may have died at work, and the provider
# may bill what it did: that is a failure like any other.
STALE_WITHIN_S = 5
# Providers send about 25 headers; the longest usual one (a Content-Security-Policy) has 3 kB.
HEADERS_MAX = 100
HEADER_BYTES_MAX = 8190
# aiohttp writes bytes in one go, and warns above this size; larger bodies are read from a BytesIO, piece by piece.
BODY_IN_PIECES_ABOVE_BYTES = 2**20
# Host and Content-Length remain: HTTP needs them. Every other header is the provider file's own choice.
AUTO_HEADERS_SKIPPED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class _Loan:
    """One request's time on one connection; travels to the connector in a context variable."""

    __slots__ = ("broken", "complete", "fresh", "heard", "reused", "wire")

    def __init__(self, *, fresh: bool) -> None:
        self.fresh = fresh  # only a connection that was never used will do
        self.wire: _Wire | None = None  # None until connected
        self.reused = False
        self.heard = False  # any byte of an answer came
        self.complete = False  # the answer's last byte came
        self.broken = False  # the connection was lost by an error before that

    def completed(self) -> None:
        self.complete = True


_loan: ContextVar[_Loan] = ContextVar("_loan")


class _Wire(ResponseHandler):
    """A connection that tells its present loan what aiohttp would forget."""

    loan: _Loan | None = None

    def data_received(self, data: bytes) -> None:
        if data:  # without, it is aiohttp itself, making its parser go on
            if self.loan is None or self.loan.complete:
                # Nobody asked. aiohttp would hand these bytes to the next customer as the answer to another request.
                self.abort()
                return
            self.loan.heard = True
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        # A body without length or chunks ends with its connection: to aiohttp it is complete even if that was a reset.
        if self.loan is not None:
            self.loan.broken = exc is not None and not self.loan.complete
        super().connection_lost(exc)


def _new_wire(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return _Wire(loop)


class _Connector(aiohttp.TCPConnector):
    """The pool, telling reused connections from fresh ones, and giving a fresh one on demand (which a trace config could not)."""

    def __init__(self) -> None:
        # No limit of its own: the house bounds what is in flight, and a pool that queues would look like a slow upstream.
        super().__init__(limit=0, keepalive_timeout=KEEPALIVE_S, ttl_dns_cache=DNS_TTL_S)
        # The one private name we use; `connect` below and test_transport_reuse.py notice if it stops working.
        self._factory = functools.partial(_new_wire, asyncio.get_running_loop())

    async def connect(self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:
        loan = _loan.get()
        while True:
            connection = await super().connect(req, traces, timeout)
            wire = connection.protocol
            assert isinstance(wire, _Wire)
            reused = wire.loan is not None
            # should_close: an answer that nobody asked for came glued to the last one. fresh: one idle connection was found
            # dead, so its neighbours are suspect as well; each round takes one from the pool, so this ends.
            if reused and (loan.fresh or wire.should_close):
                connection.close()
                continue
            loan.wire, loan.reused = wire, reused
            wire.loan = loan
            return connection


class HttpIncoming:
    """An answer whose head is there (proxy/ports.py). Nothing is decoded: a Content-Encoding is for the caller to see."""

    __slots__ = ("_aborted", "_loan", "_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse, loan: _Loan) -> None:
        self.status: int = response.status
        # latin-1 cannot fail, and no header that we act on has other characters than ASCII.
        self.headers: tuple[tuple[str, str], ...] = tuple(
            (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.raw_headers
        )
        self._response = response
        self._loan = loan
        self._aborted = False
        response.content.on_eof(loan.completed)

    async def read(self) -> bytes:
        if self._aborted:
            raise _aborted()
        try:
            data = await self._response.content.readany()
        except (aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError) as exc:
            # RuntimeError is what aiohttp raises for a read after the session was closed.
            if self._aborted:
                raise _aborted() from None
            self._response.close()
            raise _broken_off(type(exc).__name__) from None
        if not data and self._loan.broken:
            raise _broken_off("connection lost before the end of a body without length")
        return data

    def abort(self) -> None:
        self._aborted = True
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            # A mere close() would first finish sending a body that is still on its way.
            connection.transport.abort()
        self._response.close()


class HttpTransport:
    """All upstreams share one pool (proxy/ports.py, `Transport`). Build it on the running loop; `close` it at the end."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=_Connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=AUTO_HEADERS_SKIPPED,
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None),
            max_headers=HEADERS_MAX,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
        )

    async def open(self, outgoing: Outgoing, *, connect_s: float, head_s: float) -> HttpIncoming:
        """Send and return once the head is there; `head_s` bounds it all: connecting, sending, a second try, waiting.

        Raises UpstreamError with reason "connect" (nothing was sent), "timeout", "reset" or "protocol" (not HTTP as we take it).
        """
        loan = _Loan(fresh=False)
        try:
            async with asyncio.timeout(head_s):
                sent_at = asyncio.get_running_loop().time()
                try:
                    return await self._send(outgoing, connect_s, loan)
                except (aiohttp.ClientConnectionError, OSError):
                    late = asyncio.get_running_loop().time() - sent_at > STALE_WITHIN_S
                    if not loan.reused or loan.heard or late:
                        raise
                # Most likely it was closed while it lay in the pool, and the request never arrived.
                loan = _Loan(fresh=True)
                return await self._send(outgoing, connect_s, loan)
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as exc:
            # `from None`: aiohttp's exceptions carry the request's headers, and with them the secret, into any repr.
            raise _not_answered(exc, outgoing, connected=loan.wire is not None) from None

    async def _send(self, outgoing: Outgoing, connect_s: float, loan: _Loan) -> HttpIncoming:
        body = outgoing.body
        token = _loan.set(loan)
        try:
            response = await self._session.request(
                outgoing.method,
                # encoded: the path and query go out exactly as the provider file wrote them.
                URL(outgoing.url, encoded=True),
                headers=CIMultiDict(outgoing.headers),
                data=body if len(body) <= BODY_IN_PIECES_ABOVE_BYTES else io.BytesIO(body),
                timeout=aiohttp.ClientTimeout(total=None, connect=connect_s),
                allow_redirects=False,
            )
        finally:
            _loan.reset(token)
        if response.status < 200:
            response.close()
            raise HttpProcessingError(message="switching protocols")
        return HttpIncoming(response, loan)

    async def close(self) -> None:
        """Close every connection; a `read` under way raises UpstreamError."""
        await self._session.close()


def _not_answered(exc: Exception, outgoing: Outgoing, *, connected: bool) -> UpstreamError:
    late = isinstance(exc, TimeoutError)
    if not isinstance(exc, aiohttp.ClientConnectionError | OSError):
        reason = "protocol"
    elif not connected:
        reason = "connect"
    else:
        reason = "timeout" if late else "reset"
    # The operating system's own words ("Connection refused", "certificate verify failed") hold nothing of the request.
    cause = exc.os_error if isinstance(exc, aiohttp.ClientConnectorError) else exc
    words = cause.strerror if isinstance(cause, OSError) else None
    host = outgoing.url.partition("://")[2].partition("/")[0]
    return UpstreamError(
        "upstream_timeout" if late else "upstream_failed",
        "The provider did not answer in time." if late else "The provider did not answer.",
        reason=reason,
        detail=": ".join(part for part in (host, type(exc).__name__, words) if part),
    )


def _broken_off(detail: str) -> UpstreamError:
    return UpstreamError("upstream_failed", "The provider broke off its answer.", reason="reset", detail=detail)


def _aborted() -> UpstreamError:
    return UpstreamError("upstream_failed", "The request to the provider was given up.", reason="aborted")
