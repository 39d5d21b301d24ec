"""A gateway whose models are the built-in demo's, and what pages of it are asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.gateway_tools import Answer, Gateway, open_gateway

DEMO = '[[upstreams]]\nname = "demo"\nkind = "demo"\n'
BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@asynccontextmanager
async def open_site(folder: Path, more: str = "") -> AsyncIterator[Gateway]:
    async with open_gateway(folder, more=more + "\n" + DEMO) as gateway:
        yield gateway


async def look(gateway: Gateway, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
    """A page as a browser asks for it."""
    return await gateway.request(method, path, headers={**BROWSER, **(headers or {})})
