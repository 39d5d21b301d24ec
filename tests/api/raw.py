"""A client that says exactly what a test tells it, and hears exactly what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.gateway_tools import Gateway


class RawClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: str | bytes) -> None:
        self.writer.write(data.encode("latin-1") if isinstance(data, str) else data)
        await self.writer.drain()

    async def answer(self, limit_s: float = 3) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one answer with a length, while the connection may stay open."""
        async with asyncio.timeout(limit_s):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
            return int(status_line.split(" ")[1]), headers, body

    async def rest(self, limit_s: float = 5) -> bytes:
        """Everything until the gateway closes."""
        async with asyncio.timeout(limit_s):
            return await self.reader.read()


@asynccontextmanager
async def raw_client(gateway: Gateway) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()
