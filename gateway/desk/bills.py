"""How the price of one request came about, step by step as a bill has it, from what the ledger keeps with it.

    classes × prices = list price        at the rates of the tier that the prompt fell into
    then each multiplier                 what it adds or takes off
    then the one rounding, upwards       less than one nano
    = charged                            the ledger's figure

Everything is exact: the steps add up to what was charged, or this is our bug. Nothing here asks for today's prices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from typing import Any

from gateway.pricing import TOKENS_PER_PRICE, Line, Price, cost_nanos, derive, parse_terms
from gateway.usage import Usage

# count (9 digits) × price (up to 21) × factors of 6 decimals each: exact with room to spare.
_DIGITS = 100


@dataclass(frozen=True, slots=True)
class Item:
    """One class: `count` × the price of a million = `amount_nanos`, before multipliers."""

    name: str
    count: int
    price_nanos_per_million: int
    amount_nanos: Decimal


@dataclass(frozen=True, slots=True)
class Change:
    """A multiplier, and what it adds (or takes off: negative)."""

    name: str
    factor: Decimal
    amount_nanos: Decimal


@dataclass(frozen=True, slots=True)
class Bill:
    """`tier_above_tokens`: the prompt was larger, and the items are at the rates for that. `limited_nanos` (never positive) was
    taken off where no more than the hold could be charged. `uncached_nanos`: what all this had cost without a cache."""

    items: tuple[Item, ...]
    tier_above_tokens: int | None
    list_nanos: Decimal
    changes: tuple[Change, ...]
    rounding_nanos: Decimal
    limited_nanos: int
    cost_nanos: int
    uncached_nanos: int


def make_bill(row: Mapping[str, Any]) -> Bill:
    """Of a settled request, from a row of `storage.calls.find_usage`."""
    price, usage = parse_terms(row["terms"]), usage_of(row)
    derivation = derive(price, usage)
    charged: int = row["cost_nanos"]
    with localcontext(prec=_DIGITS):
        items = tuple(_item(line) for line in derivation.lines if line.count)
        running = list_nanos = sum((item.amount_nanos for item in items), Decimal(0))
        changes = []
        for name, factor in derivation.multipliers:
            after = running * factor.numerator / factor.denominator
            changes.append(Change(name, Decimal(factor.numerator) / factor.denominator, after - running))
            running = after
        rounding = derivation.cost_nanos - running
    return Bill(
        items,
        _tier(price, usage),
        list_nanos,
        tuple(changes),
        rounding,
        charged - derivation.cost_nanos,
        charged,
        cost_nanos(price, _uncached(usage)),
    )


def usage_of(row: Mapping[str, Any]) -> Usage:
    return Usage(**{name: row[name] for name in Usage.__slots__})


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _item(line: Line) -> Item:
    return Item(
        line.name, line.count, line.price_nanos_per_million, Decimal(line.count * line.price_nanos_per_million) / TOKENS_PER_PRICE
    )


def _tier(price: Price, usage: Usage) -> int | None:
    return price.tier_above_tokens if price.rates_at(usage.prompt_tokens) is not price.rates else None


def _uncached(usage: Usage) -> Usage:
    return replace(usage, input_tokens=usage.prompt_tokens, cache_write_5m_tokens=0, cache_write_1h_tokens=0, cache_read_tokens=0)
