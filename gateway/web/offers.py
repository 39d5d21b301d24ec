"""A model as it is offered here: where it stands, what it costs whoever has no other plan, and a request priced as an example."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.access import DEFAULT_PLAN
from gateway.catalog import Model
from gateway.house import House
from gateway.money import ONE
from gateway.pricing import Price, Rates, cost_nanos, derive, scale
from gateway.router import Deployment, for_key
from gateway.usage import Usage

# What one turn in the middle of an agent's work is like: little that is new, much that was read before.
EXAMPLE = Usage(input_tokens=2_000, cache_write_5m_tokens=4_000, cache_read_tokens=60_000, output_tokens=800)
UNCACHED_EXAMPLE = Usage(input_tokens=EXAMPLE.prompt_tokens, output_tokens=EXAMPLE.output_tokens)

CLASSES = {
    "input": "Input",
    "output": "Output",
    "cache_read": "Cache read",
    "cache_write_5m": "Cache write, 5 min",
    "cache_write_1h": "Cache write, 1 hour",
}
MULTIPLIERS = {"fast": "Fast mode", "us": "Served in the US only", "batch": "Batch"}


@dataclass(frozen=True, slots=True)
class Rate:
    """One class of tokens: nanos per million, as it is charged here and as the list has it."""

    name: str
    nanos: int
    list_nanos: int


@dataclass(frozen=True, slots=True)
class ExampleLine:
    name: str
    count: int
    nanos: int
    cost_nanos: int


@dataclass(frozen=True, slots=True)
class Example:
    """`EXAMPLE` as a request for it is charged; `adds_up`: the lines as they are shown give the charge as it is shown."""

    lines: tuple[ExampleLine, ...]
    cost_nanos: int
    uncached_nanos: int

    @property
    def adds_up(self) -> bool:
        return sum(line.cost_nanos for line in self.lines) == self.cost_nanos


@dataclass(frozen=True, slots=True)
class Offer:
    model: Model
    price: Price
    is_demo: bool
    has_other_plans: bool

    def rates(self) -> list[Rate]:
        return self._rates(self.price.rates, self.model.price.rates)

    def tier_rates(self) -> list[Rate]:
        """Above `price.tier_above_tokens`; empty where one price is for all."""
        if self.price.tier_rates is None:
            return []
        return self._rates(self.price.tier_rates, self.model.price.tier_rates or self.price.tier_rates)

    def rate(self, name: str) -> int:
        return per_million(self.price, getattr(self.price.rates, name))

    @property
    def web_search_nanos(self) -> int:
        """Per 1,000 searches."""
        return per_million(self.price, self.price.web_search) // 1000

    @property
    def differs_from_list(self) -> bool:
        return any(rate.nanos != rate.list_nanos for rate in (*self.rates(), *self.tier_rates()))

    @property
    def multipliers(self) -> list[tuple[str, str]]:
        found = [(label, getattr(self.price, name)) for name, label in MULTIPLIERS.items()]
        return [(label, f"× {factor}") for label, factor in found if factor is not None]

    def example(self) -> Example:
        derivation = derive(self.price, EXAMPLE)
        lines = tuple(
            ExampleLine(
                CLASSES[line.name],
                line.count,
                per_million(self.price, line.price_nanos_per_million),
                scale(line.count * line.price_nanos_per_million, self.price.factors),
            )
            for line in derivation.lines
            if line.count
        )
        return Example(lines, derivation.cost_nanos, cost_nanos(self.price, UNCACHED_EXAMPLE))

    def _rates(self, rates: Rates, listed: Rates) -> list[Rate]:
        return [
            Rate(label, per_million(self.price, getattr(rates, name)), getattr(listed, name)) for name, label in CLASSES.items()
        ]


def per_million(price: Price, nanos: int) -> int:
    return scale(nanos * 1_000_000, price.factors)


def offers(house: House) -> Iterator[Offer]:
    """All models that are served, in listing order."""
    for model in house.walk.catalog:
        yield offer_of(house, model)


def offer_of(house: House, model: Model, plan: str = DEFAULT_PLAN, deployment: Deployment | None = None) -> Offer:
    """As whoever has the plan pays for it, at the deployment that is asked first unless another is meant."""
    factor = house.settings.plans[plan].factor
    preferred = deployment or house.walk.router.preferred(model.id)
    kinds = {house.walk.stations[deployment.upstream].provider.kind for deployment in house.walk.router.deployments(model.id)}
    price = for_key(preferred, () if factor == ONE else (factor,)).price
    return Offer(model, price, "demo" in kinds, len(house.settings.plans) > 1)
