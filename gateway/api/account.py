"""What a key's owner may know: GET /v1/key, GET /v1/credits, GET /v1/usage/{request_id}."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from gateway.api.frame import answer_json
from gateway.api.sink import HttpSink
from gateway.clock import rfc3339
from gateway.desk.usage import find_usage_of
from gateway.errors import ClientError, HouseError
from gateway.house import House
from gateway.ids import parse_id
from gateway.limits import Level
from gateway.money import format_usd, to_micros
from gateway.proxy.admission import authenticate
from gateway.proxy.walk import Inbound

# A settle is on disk some milliseconds after its answer; whoever asks at once waits for it.
SETTLE_WAIT_S = 5


async def get_key(house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    walk = house.walk
    key = authenticate(walk, inbound)
    levels = walk.limits.levels(key.root_id, key.terms, walk.clock.at_ms(), walk.clock.now_ms())
    await answer_json(
        sink,
        {
            "type": "key",
            "id": key.id,
            "name": key.name,
            "hint": key.hint,
            "user": key.user_name,
            "plan": key.plan,
            "limits": {level.name.removesuffix("_nanos"): _level(level) for level in levels},
            "models": None if key.models is None else sorted(key.models),
            "addresses": [str(network) for network in key.addresses] or None,
            "expires_at": None if key.dead_at_ms is None else rfc3339(key.dead_at_ms),
        },
    )


def _level(level: Level) -> dict[str, Any]:
    """Money as decimal texts of US dollars; `reserved` is what running requests hold."""
    amounts: dict[str, Any] = {
        "limit": level.limit,
        "used": level.used,
        "reserved": level.reserved,
        "remaining": max(0, level.limit - level.used - level.reserved),
    }
    if level.name.endswith("_nanos"):
        amounts = {f"{name}_usd": format_usd(nanos) for name, nanos in amounts.items()}
    return {**amounts, "resets_at": None if level.resets_at_ms is None else rfc3339(level.resets_at_ms)}


async def get_credits(house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    wallet = house.walk.book.wallet(authenticate(house.walk, inbound).wallet_id)
    amounts = {"balance": wallet.balance_nanos, "held": wallet.held_nanos, "available": wallet.available_nanos}
    shown: dict[str, Any] = {"type": "credits", "currency": "USD"}
    for name, nanos in amounts.items():
        shown |= {f"{name}_micro": to_micros(nanos), f"{name}_nanos": nanos}
    await answer_json(sink, shown)


async def get_usage(house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    """By our request id or the provider's; whoever is not the owner finds nothing."""
    walk = house.walk
    key = authenticate(walk, inbound)
    asked = request.match_info["request_id"]
    request_id = parse_id(asked)
    running = None if request_id is None else walk.running.get(request_id)
    if running is not None and running.key.user_id == key.user_id:
        await answer_json(sink, {"request_id": asked, "status": "running", "model": running.model.id})
        return
    settling = None if request_id is None else walk.settling.get(request_id)
    if settling is not None:
        done, _ = await asyncio.wait([settling], timeout=SETTLE_WAIT_S)
        if not done:
            raise HouseError("unavailable", "The ledger is not written yet; ask again.", retry_after_s=2)
    usage = await find_usage_of(house.reader, asked, key.user_id)
    if usage is None:
        raise ClientError("not_found", "No request of yours has this id.")
    await answer_json(sink, usage)
