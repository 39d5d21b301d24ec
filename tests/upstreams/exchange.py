"""The two halves of a scripted answer: what was asked (`Seen`, a journal entry) and the means to answer it (`Exchange`).

Nothing here checks what a script sends: half of what the scripted upstream is for is nonsense.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.usage import Usage

# A reset overtakes what was sent before it: bytes that the peer's kernel holds are lost. So they get a moment to be read.
BEFORE_RESET_S = 0.02


@dataclass(frozen=True, slots=True)
class Billed:
    model: str
    usage: Usage


@dataclass(slots=True, eq=False)
class Seen:
    """One request as it arrived, and what came of it."""

    number: int  # from 1, over all connections
    connection: int  # from 1; two requests with the same number came over one connection
    method: str
    target: str
    headers: list[tuple[str, str]]  # lower-case names, in order, duplicates kept
    body: bytes
    billed: Billed | None = None
    events_sent: int = 0
    finished: bool = False  # the script came to its end
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # the client closed before that

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def is_chat(self) -> bool:
        """Whether it was asked in OpenAI's dialect, and is to be answered so."""
        return self.path.endswith("/chat/completions")

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def stream(self) -> bool:
        return bool(self.body) and self.json.get("stream") is True

    @property
    def model(self) -> str:
        return str(self.json["model"])

    def header(self, name: str) -> str | None:
        """The first of that name."""
        return next((value for header, value in self.headers if header == name), None)

    def bill(self, model: str, usage: Usage) -> None:
        """From now on this request costs that much (and no longer what was billed before)."""
        self.billed = Billed(model, usage)


class Exchange:
    """What a script answers with."""

    def __init__(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        self.seen = seen
        self._writer = writer
        self._chunked = False
        self.keep = False  # a proper end came, so the connection lives on

    async def head(self, status: int = 200, headers: Sequence[tuple[str, str]] = (), *, length: int | None = None) -> None:
        """The status line and headers. Without `length` the body is chunked: `send` frames it and `end` ends it."""
        self._chunked = length is None
        framing = ("transfer-encoding", "chunked") if length is None else ("content-length", str(length))
        lines = "".join(f"{name}: {value}\r\n" for name, value in [*headers, framing])
        await self.raw(f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode("latin-1"))

    async def send(self, data: bytes) -> None:
        """Some of the body; waits while the client does not read."""
        if data:
            await self.raw(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)

    async def end(self) -> None:
        """The proper end; the connection stays open for the next request."""
        if self._chunked:
            await self.raw(b"0\r\n\r\n")
        self.keep = True

    async def body(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        """A whole answer with its length."""
        await self.head(status, headers, length=len(body))
        await self.send(body)
        await self.end()

    async def raw(self, data: bytes) -> None:
        """Bytes on the wire as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def reset(self) -> None:
        """TCP RST, after what was sent had a moment to be read."""
        await asyncio.sleep(BEFORE_RESET_S)
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def close(self) -> None:
        """FIN, whatever was promised before."""
        self._writer.close()


Script = Callable[[Exchange], Awaitable[None]]
