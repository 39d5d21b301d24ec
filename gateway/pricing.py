"""What tokens cost: exact, in whole nano-dollars, rounded once and upwards.

    cost = ⌈ Σ count × price × Π numerators ÷ (10⁶ × Π denominators) ⌉        (LEDGER.md, "Arithmetic")

A price is data: five rates per model that cannot be derived from one another, an optional tier that changes all of them above a
prompt size, and multipliers that the *response* asks for. Knows nothing of wallets, holds or where prices come from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Price:
    """All that is needed to price one model at one deployment, and so what the ledger interns.

    `tier_rates` replace `rates` when the prompt (input + cache reads + writes) exceeds `tier_above_tokens`. `web_search` is
    nano-USD per million searches. `fast` and `us` apply only where the answer says so. `factors` are the operator's own.
    """

    model: str
    rates: Rates
    tier_above_tokens: int | None = None
    tier_rates: Rates | None = None
    web_search: int = 0
    fast: Factor | None = None
    us: Factor | None = None
    factors: tuple[Factor, ...] = ()

    def rates_at(self, prompt_tokens: int) -> Rates:
        if self.tier_rates is not None and self.tier_above_tokens is not None and prompt_tokens > self.tier_above_tokens:
            return self.tier_rates
        return self.rates

    def multipliers(self, *, fast: bool, us: bool) -> tuple[Factor, ...]:
        served = []
        if fast and self.fast is not None:
            served.append(self.fast)
        if us and self.us is not None:
            served.append(self.us)
        return (*served, *self.factors)

    def terms(self) -> str:
        """The canonical text under which the ledger interns this price; equal prices give equal texts."""

        def of(rates: Rates | None) -> dict[str, int] | None:
            if rates is None:
                return None
            return {name: getattr(rates, name) for name in Rates.__slots__}

        return json.dumps(
            {
                "model": self.model,
                "rates": of(self.rates),
                "tier_above_tokens": self.tier_above_tokens,
                "tier_rates": of(self.tier_rates),
                "web_search": self.web_search,
                "fast": str(self.fast) if self.fast else None,
                "us": str(self.us) if self.us else None,
                "factors": [str(factor) for factor in self.factors],
            },
            separators=(",", ":"),
            sort_keys=True,
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
    multipliers: tuple[Factor, ...]
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
    multipliers = price.multipliers(fast=usage.speed == "fast", us=usage.geography == "us")
    total = sum(line.count * line.price_nanos_per_million for line in lines)
    return Derivation(lines, multipliers, scale(total, multipliers))


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
    return scale(total, price.multipliers(fast=usage.speed == "fast", us=usage.geography == "us"))


def scale(count_times_price: int, multipliers: tuple[Factor, ...]) -> int:
    """Nanos of Σ count × price-per-million under the multipliers: one division, one rounding, upwards."""
    numerator, denominator = count_times_price, TOKENS_PER_PRICE
    for factor in multipliers:
        numerator *= factor.numerator
        denominator *= factor.denominator
    return ceil_div(numerator, denominator)
