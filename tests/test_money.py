"""Whole nano-dollars: what people may type, what they are shown, and the one rounding."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.money import ONE, BadAmount, Factor, ceil_div, format_usd, parse_deposit, parse_usd, to_micros

# text, nanos, the same amount as we show it
AMOUNTS = [
    ("0", 0, "0.00"),
    ("0.000000001", 1, "0.000000001"),
    ("1", 10**9, "1.00"),
    ("12.50", 12_500_000_000, "12.50"),
    ("12.5", 12_500_000_000, "12.50"),
    ("007.100", 7_100_000_000, "7.10"),
    ("0.123456789", 123_456_789, "0.123456789"),
    ("1000000", 10**15, "1000000.00"),
    ("999999999999.999999999", 10**21 - 1, "999999999999.999999999"),
]
NO_AMOUNTS = [
    *(
        "",
        " ",
        ".",
        "1.",
        ".5",
        "+1",
        "-1",
        "1e3",
        "1E3",
        "0x10",
        "1_000",
        "1,000",
        "1,5",
        "$1",
        "1 ",
        " 1",
        "1\n",
        "1.0000000001",
    ),
    *("1234567890123", "nan", "inf", "Infinity", "١", "１", "²", "1.٢", "one", "1.2.3", "--1", "1/2", "\x001"),
]


@pytest.mark.parametrize(("text", "nanos", "shown"), AMOUNTS)
def test_an_amount_is_read_exactly_and_shown_exactly(text: str, nanos: int, shown: str) -> None:
    assert parse_usd(text) == nanos == int(Decimal(text) * 10**9)
    assert format_usd(nanos) == shown
    assert format_usd(-nanos) == ("-" + shown if nanos else shown)


@pytest.mark.parametrize("text", [*NO_AMOUNTS, 1, 1.5, True, None, b"1", Decimal(1)])
def test_what_is_no_amount_is_refused_and_never_rounded(text: str) -> None:
    for parse in (parse_usd, parse_deposit, Factor.parse):
        with pytest.raises(BadAmount):
            parse(text)


@pytest.mark.parametrize("text", ["0", "0.00", "0.000000000", "1000000.000000001", "1000001", "999999999999"])
def test_a_deposit_is_above_zero_and_at_most_a_million(text: str) -> None:
    with pytest.raises(BadAmount, match="out of range"):
        parse_deposit(text)


@pytest.mark.parametrize(("text", "nanos"), [("1000000", 10**15), ("1000000.000000000", 10**15), ("0.000000001", 1)])
def test_a_deposit_may_reach_its_bounds(text: str, nanos: int) -> None:
    assert parse_deposit(text) == nanos


@given(st.integers(0, 10**21 - 1))
def test_what_is_shown_reads_back_as_the_same(nanos: int) -> None:
    shown = format_usd(nanos)
    assert parse_usd(shown) == nanos
    assert len(shown.split(".")[1]) >= 2


@given(st.text())
def test_whatever_is_typed_is_an_exact_amount_or_refused(text: str) -> None:
    try:
        nanos = parse_usd(text)
    except BadAmount:
        return
    assert Fraction(nanos, 10**9) == Fraction(text) and text.isascii()


@given(st.integers(), st.integers(1, 10**12))
def test_division_rounds_upwards_by_less_than_one(dividend: int, divisor: int) -> None:
    assert 0 <= ceil_div(dividend, divisor) - Fraction(dividend, divisor) < 1


@pytest.mark.parametrize(
    ("nanos", "micros"), [(0, 0), (1, 0), (499, 0), (500, 1), (999, 1), (1_499, 1), (1_500, 2), (10**18, 10**15)]
)
def test_micros_are_rounded_half_up(nanos: int, micros: int) -> None:
    assert to_micros(nanos) == micros


@pytest.mark.parametrize(
    ("text", "factor"),
    [("1", ONE), ("1.0", ONE), ("01.000000", ONE), ("1.1", (11, 10)), ("0.5", (1, 2)), ("0.000001", (1, 10**6)), ("10", (10, 1))],
)
def test_a_factor_is_an_exact_fraction_in_lowest_terms(text: str, factor: tuple[int, int]) -> None:
    assert Factor.parse(text) == factor


@pytest.mark.parametrize("text", ["0", "0.0", "10.000001", "11", "99", "100", "0.0000001"])
def test_a_factor_lies_above_zero_and_at_most_at_ten(text: str) -> None:
    with pytest.raises(BadAmount):
        Factor.parse(text)


@given(st.integers(1, 10 * 10**6))
def test_a_factor_is_shown_as_it_would_be_typed(millionths: int) -> None:
    factor = Factor.parse(str(Decimal(millionths) / 10**6) if millionths >= 10 else f"0.{millionths:06d}")
    assert Fraction(*factor) == Fraction(millionths, 10**6)
    assert Factor.parse(str(factor)) == factor
