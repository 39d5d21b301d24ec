"""What the walk asks of the world, as small protocols declared where they are used: a client to answer, a wire to an upstream.

The face gives a `Sink`, `upstreams/transport.py` (and the demo) give a `Transport`; tests give their own of each.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from typing import Protocol

from gateway.storage.rows import Row
from gateway.upstreams.base import Headers, Outgoing


class Incoming(Protocol):
    """An upstream's answer whose head has arrived."""

    status: int
    headers: tuple[tuple[str, str], ...]

    async def read(self) -> bytes:
        """The next bytes of the body as they arrive; b"" is its proper end. Raises UpstreamError when it breaks off."""
        ...

    def abort(self) -> None:
        """Close the connection now; a `read` under way raises UpstreamError (reason "aborted"). Harmless when ended."""
        ...


class Transport(Protocol):
    async def open(self, outgoing: Outgoing, *, connect_s: float, head_s: float) -> Incoming:
        """Send, and return once the head is there, whatever its status.

        Raises UpstreamError, reason "connect" (nothing was sent), "timeout" (no head within `head_s`), "reset", "protocol".
        """
        ...


class Sink(Protocol):
    """The client's side of one request: either one `answer`, or `start`, any number of `write`, and `end`."""

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Call `callback` (once, on the loop) when the client's connection is lost; at once if it is lost already."""
        ...

    async def answer(self, status: int, headers: Headers, body: bytes) -> None: ...

    async def start(self, status: int, headers: Headers) -> None: ...

    async def write(self, data: bytes) -> None:
        """Returns when the client took enough of it; silently does nothing once the client is gone."""
        ...

    async def end(self) -> None:
        """A clean end of a started answer."""
        ...

    async def cut(self) -> None:
        """Let the client leave with what was written, then close without a proper end, so that nothing looks like a clean one."""
        ...

    def abort(self) -> None:
        """Close the connection now, unsent bytes and all: for a client that stopped reading."""
        ...


class Store(Protocol):
    """The writer, as the walk sees it: facts in, in the order in which the book decided them."""

    @property
    def accepting(self) -> bool:
        """False while commits fail or stall: admit nothing."""
        ...

    def submit(self, row: Row) -> None: ...

    def submit_acknowledged(self, row: Row) -> Future[None]:
        """Done once the row is on disk; raises LedgerRefused if the database refused it."""
        ...
