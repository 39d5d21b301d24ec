"""What is held: the table of LEDGER.md ("What is held"), and that it is enough for whatever stays within its estimate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.estimates import as_asked, covered_output_tokens, demand, input_tokens, running_output_tokens
from gateway.money import Factor
from gateway.pricing import Price, Rates, cost_nanos
from gateway.usage import Usage
from gateway.wire.call import Call

# claude-opus-5-5: nanos per million, so that a token costs 4,000 nanos and so on.
RATES = Rates(input=4 * 10**9, output=20 * 10**9, cache_write_5m=5 * 10**9, cache_write_1h=8 * 10**9, cache_read=2 * 10**8)
PRICE = Price("m", RATES, web_search=10**13, fast=Factor(2, 1), us=Factor(11, 10))
IN, OUT, WRITE_5M, WRITE_1H, READ, SEARCH = 4_000, 20_000, 5_000, 8_000, 200, 10_000_000
CALL = Call("anthropic", b"", "m", True, 128_000, text_bytes=3_000)
SIZES: dict[str, Any] = {
    "context_tokens": 1_000_000,
    "max_output_tokens": 64_000,
    "image_tokens": 1600,
    "output_hold_tokens": 4096,
}


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"text_bytes": 0}, 500),
        ({"text_bytes": 1}, 501),
        ({"text_bytes": 3}, 501),
        ({"text_bytes": 4}, 502),
        ({"text_bytes": 450_000}, 150_500),
        ({"text_bytes": 0, "images": 3}, 500 + 3 * 1600),
        ({"text_bytes": 0, "document_bytes": (0,)}, 500 + 2000),
        ({"text_bytes": 0, "document_bytes": (59_999, 60_030)}, 500 + 2000 + 2001),
        ({"text_bytes": 10**9}, 1_000_000),
        ({"text_bytes": 0, "images": 10**6}, 1_000_000),
    ],
)
def test_input_is_estimated_from_above(fields: dict[str, Any], tokens: int) -> None:
    assert input_tokens(replace(CALL, **fields), 1_000_000, 1600) == tokens


EST = 1_500  # of CALL: 3,000 bytes and the overhead
TABLE: list[tuple[str, dict[str, Any], dict[str, Any], int, int]] = [
    # name, the call's fields, demand's arguments, need, want
    ("a stream holds a slice of output", {}, {"watched": True}, EST * IN + 4096 * OUT, EST * IN + 4096 * OUT),
    ("or all of it if that is less", {"max_tokens": 100}, {"watched": True}, EST * IN + 100 * OUT, EST * IN + 100 * OUT),
    ("no max_tokens: the model's", {"max_tokens": None}, {"watched": False}, EST * IN + 4096 * OUT, EST * IN + 64_000 * OUT),
    ("unwatched wants all, the model's most", {}, {"watched": False}, EST * IN + 4096 * OUT, EST * IN + 64_000 * OUT),
    ("choices", {"choices": 3, "max_tokens": 10}, {"watched": False}, EST * IN + 30 * OUT, EST * IN + 30 * OUT),
    ("5m writes", {"cache": "5m", "max_tokens": 1}, {"watched": True}, EST * WRITE_5M + OUT, EST * WRITE_5M + OUT),
    ("1h writes", {"cache": "1h", "max_tokens": 1}, {"watched": True}, EST * WRITE_1H + OUT, EST * WRITE_1H + OUT),
    (
        "warm",
        {"cache": "5m", "max_tokens": 1},
        {"watched": True, "warm_tokens": 1_000},
        *(1000 * READ + 500 * WRITE_5M + OUT, 1000 * READ + 500 * WRITE_5M + OUT),
    ),
    (
        "warmer than it is long",
        {"cache": "1h", "max_tokens": 1},
        {"watched": True, "warm_tokens": 10**6},
        *[EST * READ + OUT] * 2,
    ),
    ("warm, but asks for no cache", {"max_tokens": 1}, {"watched": True, "warm_tokens": 1_000}, *[EST * IN + OUT] * 2),
    ("searches", {"searches_max": 5, "max_tokens": 1}, {"watched": True}, *[EST * IN + OUT + 5 * SEARCH] * 2),
    ("fast", {"fast": True, "max_tokens": 1}, {"watched": True}, *[2 * (EST * IN + OUT)] * 2),
    ("us", {"us": True, "max_tokens": 1}, {"watched": True}, *[(EST * IN + OUT) * 11 // 10] * 2),
    ("fast and us", {"fast": True, "us": True, "max_tokens": 1}, {"watched": True}, *[(EST * IN + OUT) * 22 // 10] * 2),
]


@pytest.mark.parametrize(("call", "arguments", "need", "want"), [case[1:] for case in TABLE], ids=[case[0] for case in TABLE])
def test_what_is_needed_and_what_is_wanted(call: dict[str, Any], arguments: dict[str, Any], need: int, want: int) -> None:
    found = demand(replace(CALL, **call), [PRICE], **SIZES, **arguments)
    assert (found.need_nanos, found.want_nanos, found.input_tokens) == (need, want, EST)


def test_the_dearest_deployment_counts_and_the_operators_factors_do() -> None:
    cheap, dear = replace(PRICE, factors=(Factor(1, 2),)), replace(PRICE, factors=(Factor(3, 2), Factor(11, 10)))
    call = replace(CALL, max_tokens=1)
    asked = demand(call, [cheap, dear, PRICE], **SIZES, watched=True)
    assert asked.need_nanos == (EST * IN + OUT) * 33 // 20
    assert asked == demand(call, [dear], **SIZES, watched=True)


def test_a_tier_is_judged_by_the_estimate() -> None:
    tiered = replace(PRICE, tier_above_tokens=1_499, tier_rates=replace_all(2))
    at = replace(tiered, tier_above_tokens=1_500)
    call = replace(CALL, max_tokens=1)
    assert demand(call, [tiered], **SIZES, watched=True).need_nanos == 2 * (EST * IN + OUT)
    assert demand(call, [at], **SIZES, watched=True).need_nanos == EST * IN + OUT


def replace_all(times: int) -> Rates:
    return Rates(*(getattr(RATES, name) * times for name in Rates.__slots__))


counts = st.integers(0, 200_000)
rates = st.builds(Rates, *[st.integers(0, 10**11)] * 5)
factors = st.builds(Factor, st.integers(1, 10), st.integers(1, 10))
prices = st.builds(
    Price,
    st.just("m"),
    rates,
    web_search=st.integers(0, 10**13),
    fast=st.none() | st.just(Factor(2, 1)),
    us=st.none() | st.just(Factor(11, 10)),
    factors=st.lists(factors, max_size=2).map(tuple),
)


@given(
    prices=st.lists(prices, min_size=1, max_size=3),
    which=st.integers(0, 2),
    call=st.builds(
        Call,
        st.just("anthropic"),
        st.just(b""),
        st.just("m"),
        st.booleans(),
        st.integers(1, 100_000),
        counts,
        images=st.integers(0, 5),
        cache=st.sampled_from(["none", "5m", "1h"]),
        searches_max=st.integers(0, 10),
        fast=st.booleans(),
        us=st.booleans(),
    ),
    split=st.lists(st.integers(0, 100), min_size=4, max_size=4),
    output=st.integers(0, 10_000),
    data=st.data(),
)
def test_what_is_needed_pays_for_whatever_stays_within_the_estimate(
    prices: list[Price], which: int, call: Call, split: list[int], output: int, data: st.DataObject
) -> None:
    """Of a cold conversation, at whichever deployment it ends, as long as writes cost no less than reads (as everywhere)."""
    prices = [
        replace(price, rates=replace(price.rates, cache_read=min(price.rates.cache_read, price.rates.input))) for price in prices
    ]
    asked = demand(call, prices, **SIZES, watched=True)
    price = prices[which % len(prices)]
    prompt, total = asked.input_tokens, sum(split) or 1
    parts = [prompt * part // total for part in split]
    writes = {"none": (0, 0), "5m": (parts[1], 0), "1h": (0, parts[1])}[call.cache]
    used = Usage(
        input_tokens=parts[0],
        output_tokens=min(output, asked.output_tokens),
        cache_write_5m_tokens=writes[0],
        cache_write_1h_tokens=writes[1],
        cache_read_tokens=parts[2] if call.cache != "none" else 0,
        web_searches=data.draw(st.integers(0, call.searches_max)),
        speed="fast" if call.fast else "",
        geography="us" if call.us else "",
    )
    assert cost_nanos(price, used) <= asked.need_nanos <= asked.want_nanos


@given(prices, counts, st.integers(0, 10**12), st.sampled_from(["", "fast"]), st.sampled_from(["", "us"]))
def test_covered_output_is_what_the_hold_pays_and_not_a_token_more(
    price: Price, prompt: int, amount: int, speed: str, geography: str
) -> None:
    usage = Usage(input_tokens=prompt, speed=speed, geography=geography)
    covered = covered_output_tokens(price, usage, amount)
    if cost_nanos(price, usage) > amount:
        assert covered == 0
    else:
        # Two roundings: at most a nano beyond, and short by no more than the price itself was rounded.
        assert cost_nanos(price, replace(usage, output_tokens=covered)) <= amount + 1
        if price.rates.output >= 10**6:
            assert cost_nanos(price, replace(usage, output_tokens=covered + covered // 10**4 + 2)) > amount - 1


def test_what_was_asked_holds_until_the_answer_says_otherwise() -> None:
    call = replace(CALL, fast=True, us=True)
    assert as_asked(Usage(), call) == Usage(speed="fast", geography="us")
    assert as_asked(Usage(speed="standard", geography="not_available"), call) == Usage(
        speed="standard", geography="not_available"
    )
    assert as_asked(Usage(), CALL) == Usage()


@pytest.mark.parametrize(
    ("visible", "silent_s", "reported", "tokens"),
    [(0, 0, 0, 0), (1, 0, 0, 1), (300, 0, 0, 100), (300, 1, 0, 150), (300, 0, 777, 777), (0, 10, 200, 1500)],
)
def test_running_output_is_the_most_that_any_sign_says(visible: int, silent_s: int, reported: int, tokens: int) -> None:
    assert running_output_tokens(visible, silent_s, 150, reported) == tokens
