"""/models and /models/ID: what is offered here, and what it costs. The same paths answer API clients, who ask for JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiohttp import web

from gateway.api.sink import HttpSink
from gateway.errors import ClientError
from gateway.house import House
from gateway.proxy.walk import Inbound
from gateway.web.offers import Offer, offer_of, offers
from gateway.web.pages import Pages, base_url

SORTS: dict[str, tuple[str, Callable[[Offer], int]]] = {
    "listed": ("as listed", lambda offer: 0),
    "input": ("input price", lambda offer: offer.rate("input")),
    "output": ("output price", lambda offer: offer.rate("output")),
    "context": ("largest context", lambda offer: -offer.model.context_tokens),
}
CONTEXTS = {"0": "any", "200000": "200 k or more", "1000000": "1 M or more"}
_QUERY_CHARS_MAX = 100


async def list_models(pages: Pages, house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    words = request.query.get("q", "")[:_QUERY_CHARS_MAX].strip()
    context = request.query.get("context", "0")
    sort = request.query.get("sort", "listed")
    context = context if context in CONTEXTS else "0"
    sort = sort if sort in SORTS else "listed"
    offered = list(offers(house))
    found = [offer for offer in offered if offer.model.context_tokens >= int(context) and _matches(offer, words.lower().split())]
    await pages.answer(
        "models.html",
        request,
        inbound,
        sink,
        offers=sorted(found, key=SORTS[sort][1]),
        total=len(offered),
        asked={"q": words, "context": context, "sort": sort},
        contexts=CONTEXTS,
        sorts={name: label for name, (label, _) in SORTS.items()},
        differs=any(offer.differs_from_list for offer in offered),
    )


async def show_model(pages: Pages, house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    """By its id or an alias. Raises ClientError not_found, with the nearest name."""
    catalog = house.walk.catalog
    name = request.match_info["model"]
    model = catalog.find(name)
    if model is None:
        near = catalog.nearest(name)
        raise ClientError("not_found", f"No model of this name is offered here. Did you mean {near}?" if near else _NO_MODEL)
    offer = offer_of(house, model)
    await pages.answer(
        "model.html",
        request,
        inbound,
        sink,
        offer=offer,
        model=model,
        serves=[member for member in catalog.members(model) if model.serves],
        example=offer.example(),
        base_url=base_url(house, request),
    )


_NO_MODEL = "No model of this name is offered here. The page of models lists them all."


def _matches(offer: Offer, words: Sequence[str]) -> bool:
    model = offer.model
    text = " ".join((*model.names, model.display_name, model.description)).lower()
    return all(word in text for word in words)
