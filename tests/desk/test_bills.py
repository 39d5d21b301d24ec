"""The steps of a bill add up to what was charged, whatever the price is made of."""

from __future__ import annotations

import random
from decimal import Context, Decimal, localcontext
from typing import Any

from gateway.desk.bills import Bill, make_bill
from gateway.money import Factor
from gateway.pricing import Price, Rates, cost_nanos
from gateway.usage import Usage


def bill_of(price: Price, usage: Usage, charged: int | None = None) -> Bill:
    row: dict[str, Any] = {name: getattr(usage, name) for name in Usage.__slots__}
    return make_bill({**row, "terms": price.terms(), "cost_nanos": cost_nanos(price, usage) if charged is None else charged})


def test_the_steps_of_any_bill_add_up() -> None:
    dice = random.Random(11)

    def factor() -> Factor:
        return Factor.parse(f"{dice.randrange(1, 9)}.{dice.randrange(1_000_000):06d}")

    for _ in range(500):
        rates = [Rates(*(dice.randrange(0, 10**11) for _ in range(5))) for _ in range(2)]
        tier = dice.choice((None, 1_000, 200_000))
        price = Price(
            "any",
            rates[0],
            tier,
            rates[1] if tier else None,
            web_search=dice.choice((0, 10**13)),
            fast=dice.choice((None, factor())),
            us=dice.choice((None, factor())),
            batch=dice.choice((None, factor())),
            factors=tuple(factor() for _ in range(dice.randrange(3))),
        )
        counts = (dice.choice((0, dice.randrange(300_000))) for _ in range(5))
        served = (dice.choice(("", "fast")), dice.choice(("", "us")), dice.choice(("", "batch")))
        usage = Usage(*counts, dice.randrange(3), *served)
        bill = bill_of(price, usage)
        with localcontext(Context(prec=200)):  # so that adding up rounds nothing away
            listed = sum((item.amount_nanos for item in bill.items), Decimal(0))
            steps = bill.list_nanos + sum((change.amount_nanos for change in bill.changes), Decimal(0)) + bill.rounding_nanos
        assert listed == bill.list_nanos
        assert steps + bill.limited_nanos == bill.cost_nanos == cost_nanos(price, usage)
        assert 0 <= bill.rounding_nanos < 1 and bill.limited_nanos == 0
        assert (bill.tier_above_tokens is not None) == (tier is not None and usage.prompt_tokens > tier)
        for item in bill.items:
            assert item.count and item.amount_nanos * 1_000_000 == item.count * item.price_nanos_per_million


def test_what_was_limited_to_the_hold_is_a_step_of_its_own() -> None:
    price, usage = Price("any", Rates(3 * 10**9, 15 * 10**9, 0, 0, 0)), Usage(1_000, 1_000)
    bill = bill_of(price, usage, charged=10_000_000)
    assert (bill.list_nanos, bill.limited_nanos, bill.cost_nanos) == (18_000_000, -8_000_000, 10_000_000)


def test_what_the_cache_saved_is_counted_at_the_same_terms() -> None:
    price = Price("any", Rates(1_000, 5_000, 1_250, 2_000, 100), factors=(Factor.parse("0.5"),))
    bill = bill_of(price, Usage(0, 0, 0, 0, 10_000_000))
    assert (bill.cost_nanos, bill.uncached_nanos) == (500, 5_000)
