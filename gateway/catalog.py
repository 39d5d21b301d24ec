"""Which models there are: their names, sizes and list prices, and the exact look-up by id or alias.

The built-in models are data (`data/catalog.toml`, with the date and the sources they were read from). Knows nothing of upstreams
(who serves a model is decided by the configuration), of keys (who may use it), or of what an operator adds to a list price.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from gateway.money import Factor, parse_usd
from gateway.pricing import Price, Rates

Lifecycle = Literal["active", "deprecated", "retired"]

# LiteLLM, OpenClaw and Cline write a model as provider/model.
PROVIDER_PREFIX = "anthropic/"

# The longest name that a request may carry (TRUST.md, "JSON"); nothing longer is worth a search for its neighbour.
NAME_CHARS_MAX = 128


@dataclass(frozen=True, slots=True)
class Model:
    """One model as it is listed and priced.

    `price` is the list price, without the operator's factors. Times are RFC 3339 texts; `created_at` is "" where nobody told us.
    `price_read_on` is the day on which the price was read at its source, "" for a price that the operator set.
    `price_assumed` marks a price that was taken from another model because its own is not known yet. `image_tokens` is what an
    image counts when an input is estimated. `kinds` are the kinds of upstream that serve the model unless it is routed.

    A virtual model `serves` other models of the house (their ids, the first preferred); all others serve none. `priced_as_served`
    marks one without a price of its own: it costs what was served, and `price` is that of the first.
    """

    id: str
    display_name: str
    description: str
    price: Price
    context_tokens: int
    max_output_tokens: int
    aliases: tuple[str, ...] = ()
    created_at: str = ""
    lifecycle: Lifecycle = "active"
    deprecated_at: str | None = None
    retires_at: str | None = None
    price_assumed: bool = False
    price_read_on: str = ""
    image_tokens: int = 1600
    kinds: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    priced_as_served: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.id, *self.aliases)


class Catalog:
    """The models of one house, in listing order. No two of them share a name."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = tuple(models)
        self._by_name = {name: model for model in self._models for name in model.names}
        assert len(self._by_name) == sum(len(model.names) for model in self._models), "a name means one model"

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def find(self, name: str) -> Model | None:
        """The model of exactly this id or alias, with or without `anthropic/` before it."""
        return self._by_name.get(name) or self._by_name.get(name.removeprefix(PROVIDER_PREFIX))

    def members(self, model: Model) -> tuple[Model, ...]:
        """Those that a virtual model serves, the first preferred; of any other model itself."""
        return tuple(self._by_name[model_id] for model_id in model.serves) or (model,)

    def nearest(self, name: str) -> str | None:
        """The known name that looks most like `name`, for a "did you mean"; None if none is near."""
        if len(name) > NAME_CHARS_MAX:
            return None
        matches = difflib.get_close_matches(name.removeprefix(PROVIDER_PREFIX).lower(), self._by_name, n=1, cutoff=0.8)
        return matches[0] if matches else None


def load_builtin() -> tuple[Model, ...]:
    """The models of `data/catalog.toml`, in its order. A mistake in that file is our bug and raises as it comes."""
    data = _read()
    return tuple(_model(entry, read_on=data["read_on"]) for entry in data["models"])


def load_sources() -> tuple[str, tuple[str, ...]]:
    """The day on which `data/catalog.toml` was compared with its sources, and what they are."""
    data = _read()
    return data["read_on"], tuple(data["sources"])


def _read() -> dict[str, Any]:
    return tomllib.loads(resources.files("gateway").joinpath("data", "catalog.toml").read_text(encoding="utf-8"))


def _model(entry: dict[str, Any], *, read_on: str) -> Model:
    tier: dict[str, Any] | None = entry.get("tier")
    price = Price(
        model=entry["id"],
        rates=_rates(entry["rates"]),
        tier_above_tokens=tier["above_tokens"] if tier else None,
        tier_rates=_rates(tier) if tier else None,
        web_search=parse_usd(entry["web_search"]),
        fast=_factor(entry.get("fast")),
        us=_factor(entry.get("us")),
        batch=_factor(entry.get("batch")),
    )
    return Model(
        id=entry["id"],
        display_name=entry["display_name"],
        description=entry["description"],
        price=price,
        context_tokens=entry["context_tokens"],
        max_output_tokens=entry["max_output_tokens"],
        aliases=tuple(entry.get("aliases", ())),
        lifecycle=entry.get("lifecycle", "active"),
        retires_at=entry.get("retires_at"),
        price_assumed=entry.get("price_assumed", False),
        price_read_on=read_on,
        kinds=("anthropic",),
    )


def _rates(prices: dict[str, Any]) -> Rates:
    return Rates(**{name: parse_usd(prices[name]) for name in Rates.__slots__})


def _factor(text: str | None) -> Factor | None:
    return None if text is None else Factor.parse(text)
