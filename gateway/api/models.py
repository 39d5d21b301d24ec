"""GET /v1/models and /v1/models/{id}: one object that satisfies both SDKs, and only what the key may use.

Fields of platform.claude.com/docs/en/api/models-list as the anthropic SDK 2.11 types them (`lifecycle` is required there) and of
platform.openai.com/docs/api-reference/models, read 2026-11-20; the rest (`description`, sizes, prices) is our own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from gateway.access import Key
from gateway.api.frame import answer_json
from gateway.api.sink import HttpSink
from gateway.catalog import Model
from gateway.errors import ClientError
from gateway.house import House
from gateway.money import format_usd
from gateway.pricing import Price, Rates, scale
from gateway.proxy.admission import authenticate, find_model
from gateway.proxy.walk import Inbound
from gateway.router import for_key
from gateway.upstreams.registry import KINDS

LIMIT_DEFAULT = 20
LIMIT_MAX = 1000
# "May be set to an epoch value if the release date is unknown" (anthropic SDK 2.11, ModelInfo.created_at).
UNKNOWN_RELEASE = "1970-01-01T00:00:00Z"


async def list_models(house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    key = authenticate(house.walk, inbound)
    allowed = [model for model in house.walk.catalog if key.models is None or model.id in key.models]
    # The anthropic SDKs page and say so by their version header; openai clients expect everything at once.
    if inbound.header("anthropic-version") or {"limit", "after_id", "before_id"} & request.query.keys():
        page, more = _page(allowed, request)
    else:
        page, more = allowed, False
    await answer_json(
        sink,
        {
            "object": "list",
            "data": [_shown(house, key, model) for model in page],
            "has_more": more,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        },
    )


async def get_model(house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    key: Key = authenticate(house.walk, inbound)
    await answer_json(sink, _shown(house, key, find_model(house.walk, key, request.match_info["model"])))


def _page(models: list[Model], request: web.Request) -> tuple[list[Model], bool]:
    limit = _limit(request.query.get("limit", str(LIMIT_DEFAULT)))
    ids = [model.id for model in models]
    after, before = request.query.get("after_id"), request.query.get("before_id")
    start, end = 0, len(models)
    if after is not None:
        start = _position(ids, after, "after_id") + 1
    if before is not None:
        end = _position(ids, before, "before_id")
        start = max(start, end - limit) if after is None else start
        return models[start : min(end, start + limit)], start > 0 if after is None else start + limit < end
    return models[start : start + limit], start + limit < end


def _limit(text: str) -> int:
    # Short first: int() itself refuses thousands of digits, with another exception.
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= LIMIT_MAX):
        raise ClientError("invalid_request", f"limit must be a whole number from 1 to {LIMIT_MAX}.", param="limit")
    return int(text)


def _position(ids: list[str], model_id: str, name: str) -> int:
    if model_id not in ids:
        raise ClientError("invalid_request", f"{name} names no model of this list.", param=name)
    return ids.index(model_id)


def _shown(house: House, key: Key, model: Model) -> dict[str, Any]:
    deployments = house.walk.router.deployments(model.id)
    preferred = house.walk.router.preferred(model.id)
    created_at = model.created_at or UNKNOWN_RELEASE
    kinds = {house.walk.stations[deployment.upstream].provider.kind for deployment in deployments}
    return {
        "id": model.id,
        "type": "model",
        "object": "model",
        "display_name": model.display_name,
        "description": model.description,
        "created_at": created_at,
        "created": int(datetime.fromisoformat(created_at).astimezone(UTC).timestamp()),
        # Who made what a server of one's own serves, its address does not tell: there it is the protocol's name.
        "owned_by": next(kind for kind in KINDS if kind in kinds),
        "demo": "demo" in kinds,
        "lifecycle": model.lifecycle,
        "deprecated_at": model.deprecated_at,
        "retires_at": model.retires_at,
        "max_input_tokens": model.context_tokens,
        "max_tokens": model.max_output_tokens,
        "context_window": model.context_tokens,
        "aliases": list(model.aliases),
        "list_price": _price(model.price),
        "price": _price(for_key(preferred, key.factors).price),
        "price_assumed": model.price_assumed,
        **({"serves": list(model.serves)} if model.serves else {}),
    }


def _price(price: Price) -> dict[str, Any]:
    """USD per million tokens (web search: per 1,000), as exact decimal texts, the operator's factors applied; and what they are
    multiplied by where an answer says that it was served so."""

    def rates(values: Rates) -> dict[str, str]:
        return {name: _usd(price, getattr(values, name)) for name in Rates.__slots__}

    shown: dict[str, Any] = {**rates(price.rates), "web_search_per_1000": _usd(price, price.web_search // 1000)}
    if price.tier_rates is not None:
        shown["above_prompt_tokens"] = {"tokens": price.tier_above_tokens, **rates(price.tier_rates)}
    served = (("fast", price.fast), ("us", price.us), ("batch", price.batch))
    shown["multipliers"] = {name: str(factor) for name, factor in served if factor is not None}
    return shown


def _usd(price: Price, nanos_per_million: int) -> str:
    return format_usd(scale(nanos_per_million * 1_000_000, price.factors))
