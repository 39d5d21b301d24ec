"""Upstreams: how they stand in the running house, and whether they can be reached."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.desk.desk import Desk


async def list_upstreams(desk: Desk, actor: str) -> list[dict[str, Any]]:
    return desk.upstreams.show()


async def test_upstreams(desk: Desk, actor: str, *, name: str | None = None) -> list[dict[str, Any]]:
    """One upstream, or all that are enabled at once; each result has `ok`, `status`, `ms` and `detail`."""
    enabled = [upstream["name"] for upstream in desk.upstreams.show() if upstream["state"] != "disabled"]
    names = enabled if name is None else [name]
    return list(await asyncio.gather(*(desk.upstreams.test(each) for each in names)))
