"""A running house with its door open, and who comes to it: commands in other processes, and visitors who speak by hand."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.api.door import serve_door
from gateway.clock import SystemClock
from gateway.house import House
from gateway.storage.folder import socket_path
from tests.cli.tools import Shell
from tests.desk_tools import desk_house

REPOSITORY = Path(__file__).parent.parent.parent


@asynccontextmanager
async def open_door(data: Path, port: int | None = None) -> AsyncIterator[House]:
    async with desk_house(data, SystemClock()) as house, serve_door(house.desk, data, port):
        yield house


async def type_in(shell: Shell, *words: str) -> Any:
    """A command in another process; (exit code, stdout, stderr)."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *words, "--data-dir", str(shell.data)),
        cwd=shell.folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode(), err.decode()


class Visitor:
    """Somebody who speaks with the door by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, line: bytes) -> Any:
        self.writer.write(line)
        return await self.receive()

    async def act(self, name: str, /, **arguments: Any) -> Any:
        return await self.send(json.dumps({"act": name, "actor": "cli:mallory", "arguments": arguments}).encode() + b"\n")

    async def receive(self) -> Any:
        """The next message; None if the door has hung up."""
        line = await asyncio.wait_for(self.reader.readline(), 10)
        return json.loads(line) if line else None


@asynccontextmanager
async def visit(data: Path) -> AsyncIterator[Visitor]:
    reader, writer = await asyncio.open_unix_connection(socket_path(data))
    try:
        yield Visitor(reader, writer)
    finally:
        writer.close()
