"""What tokens cost: exact, in whole nano-dollars, rounded once and upwards.

    cost = ⌈ Σ count × price × Π numerators ÷ (10⁶ × Π denominators) ⌉        (LEDGER.md, "Arithmetic")

A price is data: five rates per model that cannot be derived from one another, an optional tier that changes all of them above a
prompt size, and multipliers that the *response* asks for. Knows nothing of wallets, holds or where prices come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from gateway.money import Factor, ceil_div
from gateway.usage import Usage

TOKENS_PER_PRICE = 1_000_000


@dataclass(frozen=True, slots=True)
class Rates:
    """Nano-USD per million tokens, by price class."""

    input: int
    output: int
    cache_write_5m: int
    cache_write_1h: int
    cache_read: int


class Multiplier(NamedTuple):
    """A factor on every line, and what it is for: fast, us, batch, or "factor" for one of the operator's own."""

    name: str
    factor: Factor


@dataclass(frozen=True, slots=True)
class Price:
    """All that is needed to price one model at one deployment, and so what the ledger interns.

    `tier_rates` replace `rates` when the prompt (input + cache reads + writes) exceeds `tier_above_tokens`. `web_search` is
    nano-USD per million searches. `fast`, `us` and `batch` apply only where the answer says so. `factors` are the operator's own.
    """

    model: str
    rates: Rates
    tier_above_tokens: int | None = None
    tier_rates: Rates | None = None
    web_search: int = 0
    fast: Factor | None = None
    us: Factor | None = None
    batch: Factor | None = None
    factors: tuple[Factor, ...] = ()

    def rates_at(self, prompt_tokens: int) -> Rates:
        if self.tier_rates is not None and self.tier_above_tokens is not None and prompt_tokens > self.tier_above_tokens:
            return self.tier_rates
        return self.rates

    def multipliers(self, *, fast: bool, us: bool, batch: bool = False) -> tuple[Multiplier, ...]:
        """What applies to every line: by how it is served, then the operator's own factors."""
        served = []
        if fast and self.fast is not None:
            served.append(Multiplier("fast", self.fast))
        if us and self.us is not None:
            served.append(Multiplier("us", self.us))
        if batch and self.batch is not None:
            served.append(Multiplier("batch", self.batch))
        return (*served, *(Multiplier("factor", factor) for factor in self.factors))

    def multipliers_of(self, usage: Usage) -> tuple[Multiplier, ...]:
        """The multipliers of what an answer says was served."""
        return self.multipliers(fast=usage.speed == "fast", us=usage.geography == "us", batch=usage.service_tier == "batch")

    def terms(self) -> str:
        """The canonical text under which the ledger interns this price; equal prices give equal texts."""

        def of(rates: Rates | None) -> dict[str, int] | None:
            if rates is None:
                return None
            return {name: getattr(rates, name) for name in Rates.__slots__}

        terms = {
            "model": self.model,
            "rates": of(self.rates),
            "tier_above_tokens": self.tier_above_tokens,
            "tier_rates": of(self.tier_rates),
            "web_search": self.web_search,
            "fast": str(self.fast) if self.fast else None,
            "us": str(self.us) if self.us else None,
            "factors": [str(factor) for factor in self.factors],
        }
        # Left out where there is none: what was interned before there was a batch price is the same price, and the same text.
        if self.batch is not None:
            terms["batch"] = str(self.batch)
        return json.dumps(terms, separators=(",", ":"), sort_keys=True)


def parse_terms(text: str) -> Price:
    """The price that `Price.terms` interned."""
    terms = json.loads(text)
    tier = terms["tier_rates"]
    return Price(
        model=terms["model"],
        rates=Rates(**terms["rates"]),
        tier_above_tokens=terms["tier_above_tokens"],
        tier_rates=Rates(**tier) if tier else None,
        web_search=terms["web_search"],
        fast=Factor.parse(terms["fast"]) if terms["fast"] else None,
        us=Factor.parse(terms["us"]) if terms["us"] else None,
        batch=Factor.parse(terms["batch"]) if "batch" in terms else None,
        factors=tuple(Factor.parse(factor) for factor in terms["factors"]),
    )


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a price derivation: `count` × `price_nanos` per million, before and after the multipliers."""

    name: str
    count: int
    price_nanos_per_million: int


@dataclass(frozen=True, slots=True)
class Derivation:
    """How a cost came about: the lines, the multipliers that applied to all of them, and the exact rounded sum."""

    lines: tuple[Line, ...]
    multipliers: tuple[Multiplier, ...]
    cost_nanos: int


def derive(price: Price, usage: Usage) -> Derivation:
    rates = price.rates_at(usage.prompt_tokens)
    lines = (
        Line("input", usage.input_tokens, rates.input),
        Line("cache_write_5m", usage.cache_write_5m_tokens, rates.cache_write_5m),
        Line("cache_write_1h", usage.cache_write_1h_tokens, rates.cache_write_1h),
        Line("cache_read", usage.cache_read_tokens, rates.cache_read),
        Line("output", usage.output_tokens, rates.output),
        Line("web_search", usage.web_searches, price.web_search),
    )
    multipliers = price.multipliers_of(usage)
    total = sum(line.count * line.price_nanos_per_million for line in lines)
    return Derivation(lines, multipliers, scale(total, [multiplier.factor for multiplier in multipliers]))


def cost_nanos(price: Price, usage: Usage) -> int:
    """The exact cost of `usage`; all counts are ≥ 0."""
    rates = price.rates_at(usage.prompt_tokens)
    total = (
        usage.input_tokens * rates.input
        + usage.cache_write_5m_tokens * rates.cache_write_5m
        + usage.cache_write_1h_tokens * rates.cache_write_1h
        + usage.cache_read_tokens * rates.cache_read
        + usage.output_tokens * rates.output
        + usage.web_searches * price.web_search
    )
    return scale(total, [multiplier.factor for multiplier in price.multipliers_of(usage)])


def scale(count_times_price: int, factors: Iterable[Factor]) -> int:
    """Nanos of Σ count × price-per-million under the factors: one division, one rounding, upwards."""
    numerator, denominator = count_times_price, TOKENS_PER_PRICE
    for factor in factors:
        numerator *= factor.numerator
        denominator *= factor.denominator
    return ceil_div(numerator, denominator)
