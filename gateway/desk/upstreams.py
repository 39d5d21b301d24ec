"""Upstreams: how they stand in the running house, and whether they can be reached."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.desk.desk import Desk


async def list_upstreams(desk: Desk, actor: str) -> list[dict[str, Any]]:
    return desk.upstreams.show()


async def test_upstreams(desk: Desk, actor: str, *, name: str | None = None) -> list[dict[str, Any]]:
    """One upstream, or all of them at once; each result has `ok`, `status`, `ms` and `detail`."""
    names = [name] if name is not None else [upstream["name"] for upstream in desk.upstreams.show()]
    return list(await asyncio.gather(*(desk.upstreams.test(each) for each in names)))
