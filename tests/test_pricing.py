"""What tokens cost: tables worked out by hand, and properties against exact fractions."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.money import Factor
from gateway.money import parse_usd as usd
from gateway.pricing import Price, Rates, cost_nanos, derive, parse_terms
from gateway.usage import Usage, tokens_of_bytes

OPUS = Rates(input=usd("5"), output=usd("25"), cache_write_5m=usd("6.25"), cache_write_1h=usd("10"), cache_read=usd("0.5"))
LONG = Rates(input=usd("10"), output=usd("37.5"), cache_write_5m=usd("12.5"), cache_write_1h=usd("20"), cache_read=usd("1"))
PRICE = Price(
    "claude-opus-5-5",
    OPUS,
    tier_above_tokens=200_000,
    tier_rates=LONG,
    web_search=usd("10000"),
    fast=Factor.parse("2"),
    us=Factor.parse("1.1"),
    batch=Factor.parse("0.5"),
)

COSTS = [
    ("nothing", Usage(), "0"),
    ("one input token", Usage(input_tokens=1), "0.000005"),
    ("one output token", Usage(output_tokens=1), "0.000025"),
    ("a 5m cache write is dearer than input", Usage(cache_write_5m_tokens=1_000), "0.00625"),
    ("a 1h cache write is not a 5m one", Usage(cache_write_1h_tokens=1_000), "0.01"),
    ("a cache read is a tenth of input", Usage(cache_read_tokens=1_000), "0.0005"),
    ("one search is a cent", Usage(web_searches=1), "0.01"),
    ("all of it", Usage(1_000, 2_000, 300, 40, 50_000, 2), "0.102275"),
    ("fast costs twice", Usage(output_tokens=1_000, speed="fast"), "0.05"),
    ("in the US a tenth more", Usage(output_tokens=1_000, geography="us"), "0.0275"),
    ("a batch costs half", Usage(output_tokens=1_000, service_tier="batch"), "0.0125"),
    ("multipliers stack", Usage(output_tokens=1_000, speed="fast", geography="us"), "0.055"),
    ("all three of them", Usage(output_tokens=1_000, speed="fast", geography="us", service_tier="batch"), "0.0275"),
    ("what is served normally is not multiplied", Usage(output_tokens=1_000, speed="standard", geography="global"), "0.025"),
    ("other tiers cost the list price", Usage(output_tokens=1_000, service_tier="priority"), "0.025"),
    ("at the threshold the lower tier holds", Usage(input_tokens=200_000), "1"),
    ("one above it all is dearer", Usage(input_tokens=200_001, output_tokens=1_000), "2.03751"),
    ("reads and writes count towards the tier", Usage(1, 0, 100_000, 50_000, 50_000), "2.30001"),
    ("output does not count towards the tier", Usage(input_tokens=200_000, output_tokens=500_000), "13.5"),
]


@pytest.mark.parametrize(("what", "usage", "dollars"), COSTS, ids=[case[0] for case in COSTS])
def test_the_price_list_is_applied_as_on_paper(what: str, usage: Usage, dollars: str) -> None:
    assert cost_nanos(PRICE, usage) == usd(dollars)
    assert derive(PRICE, usage).cost_nanos == usd(dollars)


def test_every_class_has_its_own_rate_and_none_is_forgotten_or_counted_twice() -> None:
    primes = Rates(input=2, output=3, cache_write_5m=5, cache_write_1h=7, cache_read=11)
    price = Price("m", replace(primes), web_search=13)
    million = 1_000_000
    usage = Usage(million, million * 100, million * 10**4, million * 10**6, million * 10**8, million * 10**10)
    assert cost_nanos(price, usage) == 13_11_07_05_03_02


def test_there_is_one_rounding_upwards_however_many_lines_and_factors() -> None:
    tiny = Price("m", Rates(1, 1, 1, 1, 1), web_search=1, factors=(Factor.parse("0.1"), Factor.parse("0.000001")))
    assert cost_nanos(tiny, Usage(1, 1, 1, 1, 1, 1)) == 1  # six lines of next to nothing are one nano, not six
    assert cost_nanos(tiny, Usage()) == 0
    assert cost_nanos(Price("m", Rates(1, 1, 1, 1, 1)), Usage(input_tokens=1_000_000)) == 1
    assert cost_nanos(Price("m", Rates(1, 1, 1, 1, 1)), Usage(input_tokens=1_000_001)) == 2


rates = st.builds(Rates, *[st.integers(0, 10**12)] * 5)
factors = st.integers(1, 10 * 10**6).map(lambda millionths: Factor(*Fraction(millionths, 10**6).as_integer_ratio()))
prices = st.builds(
    Price,
    model=st.sampled_from(["a", "b", 'c"\\\ud800']),
    rates=rates,
    tier_above_tokens=st.none() | st.integers(0, 10**6),
    tier_rates=st.none() | rates,
    web_search=st.integers(0, 10**14),
    fast=st.none() | factors,
    us=st.none() | factors,
    batch=st.none() | factors,
    factors=st.lists(factors, max_size=3).map(tuple),
)
counts = st.integers(0, 10**7)
usages = st.builds(
    Usage,
    counts,
    counts,
    counts,
    counts,
    counts,
    counts,
    st.sampled_from(["", "fast"]),
    st.sampled_from(["", "us", "eu"]),
    st.sampled_from(["", "standard", "batch"]),
)


@given(prices, usages)
def test_a_cost_is_never_below_the_exact_value_and_less_than_a_nano_above(price: Price, usage: Usage) -> None:
    prompt = usage.input_tokens + usage.cache_write_5m_tokens + usage.cache_write_1h_tokens + usage.cache_read_tokens
    tiered = price.tier_rates is not None and price.tier_above_tokens is not None and prompt > price.tier_above_tokens
    rate = price.tier_rates if tiered and price.tier_rates else price.rates
    applied = [*price.factors]
    applied += [price.fast] if usage.speed == "fast" and price.fast else []
    applied += [price.us] if usage.geography == "us" and price.us else []
    applied += [price.batch] if usage.service_tier == "batch" and price.batch else []
    exact = Fraction(
        usage.input_tokens * rate.input
        + usage.output_tokens * rate.output
        + usage.cache_write_5m_tokens * rate.cache_write_5m
        + usage.cache_write_1h_tokens * rate.cache_write_1h
        + usage.cache_read_tokens * rate.cache_read
        + usage.web_searches * price.web_search,
        1_000_000,
    ) * prod((Fraction(*factor) for factor in applied), start=Fraction(1))
    assert 0 <= cost_nanos(price, usage) - exact < 1
    assert cost_nanos(price, usage) == ceil(exact)


@given(prices, usages)
def test_the_derivation_shown_adds_up_to_what_is_charged(price: Price, usage: Usage) -> None:
    derivation = derive(price, usage)
    lines = Fraction(sum(line.count * line.price_nanos_per_million for line in derivation.lines), 1_000_000)
    exact = lines * prod((Fraction(*factor) for _, factor in derivation.multipliers), start=Fraction(1))
    assert derivation.cost_nanos == cost_nanos(price, usage)
    assert 0 <= derivation.cost_nanos - exact < 1


@given(prices, prices)
def test_interned_terms_are_equal_exactly_if_the_prices_are(one: Price, other: Price) -> None:
    assert (one.terms() == other.terms()) == (one == other)
    assert one.terms() == replace(one).terms()
    assert one.terms().isascii()
    assert parse_terms(one.terms()) == one


def test_terms_that_were_interned_before_there_was_a_batch_price_are_the_same_price_and_the_same_row() -> None:
    rates = '{"cache_read":5,"cache_write_1h":4,"cache_write_5m":3,"input":1,"output":2}'
    tier = '"tier_above_tokens":null,"tier_rates":null'
    text = f'{{"factors":["1.1"],"fast":"2","model":"m","rates":{rates},{tier},"us":null,"web_search":0}}'
    price = Price("m", Rates(1, 2, 3, 4, 5), fast=Factor.parse("2"), factors=(Factor.parse("1.1"),))
    assert parse_terms(text) == price and price.terms() == text


def test_a_derivation_names_what_applied() -> None:
    price = replace(PRICE, factors=(Factor.parse("0.9"),))
    usage = Usage(1, speed="fast", geography="us", service_tier="batch")
    assert [(name, str(factor)) for name, factor in derive(price, usage).multipliers] == [
        ("fast", "2"),
        ("us", "1.1"),
        ("batch", "0.5"),
        ("factor", "0.9"),
    ]
    assert derive(PRICE, Usage(1, service_tier="standard")).multipliers == ()


@pytest.mark.parametrize(
    "change",
    [
        {"model": "x"},
        {"rates": LONG},
        {"tier_above_tokens": 200_001},
        {"tier_above_tokens": None},
        {"tier_rates": None},
        {"tier_rates": OPUS},
        {"web_search": 1},
        {"fast": None},
        {"fast": Factor.parse("2.000001")},
        {"us": None},
        {"us": Factor.parse("2")},
        {"batch": None},
        {"batch": Factor.parse("0.25")},
        {"factors": (Factor.parse("1"),)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_change_of_a_price_is_another_row(change: dict[str, object]) -> None:
    assert replace(PRICE, **change).terms() != PRICE.terms()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("output_bytes", "tokens"), [(0, 0), (1, 1), (3, 1), (4, 2), (7, 2), (8, 3), (35, 10), (36, 11), (3_500_000, 10**6)]
)
def test_bytes_become_tokens_upwards(output_bytes: int, tokens: int) -> None:
    assert tokens_of_bytes(output_bytes) == tokens
