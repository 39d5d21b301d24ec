"""The catalogue: every figure against a table typed here, and names that mean exactly one model."""

from __future__ import annotations

import pytest

from gateway.catalog import Catalog, Model, load_builtin
from gateway.money import parse_usd
from gateway.pricing import Price, Rates, cost_nanos
from gateway.usage import Usage

# USD per million tokens: input, output, cache write 5m, cache write 1h, cache read; then context, max output, fast, us.
# As of 2026-11-20. Typed by hand: a slip in the data file must not repeat itself here.
FACTS = """
claude-opus-5-5    4     20    5      8     0.20   1000000  128000  2  1.1
claude-opus-5      5     25    6.25   10    0.50   1000000  128000  2  1.1
claude-opus-4-8    5     25    6.25   10    0.50   1000000  128000  2  1.1
claude-opus-4-7    5     25    6.25   10    0.50   1000000  128000  -  1.1
claude-opus-4-6    5     25    6.25   10    0.50   1000000  128000  -  1.1
claude-opus-4-5    5     25    6.25   10    0.50   200000   64000   -  -
claude-sonnet-5-5  2     10    2.5    4     0.10   1000000  128000  -  1.1
claude-sonnet-5    2     10    2.5    4     0.20   1000000  128000  -  1.1
claude-sonnet-4-6  3     15    3.75   6     0.30   1000000  128000  -  1.1
claude-sonnet-4-5  3     15    3.75   6     0.30   200000   64000   -  -
claude-haiku-5-5   0.10  0.50  0.125  0.20  0.01   1000000  128000  -  1.1
claude-haiku-4-5   1     5     1.25   2     0.10   200000   64000   -  -
claude-fable-5-2   10    50    12.5   20    0.25   1000000  128000  -  1.1
claude-fable-5-1   10    50    12.5   20    0.25   1000000  128000  -  1.1
claude-fable-5     10    50    12.5   20    1.00   1000000  128000  -  1.1
"""
ROWS = [line.split() for line in FACTS.strip().splitlines()]

ALIASES = {
    "claude-opus-4-7": ("claude-opus-4-7-20260416",),
    "claude-opus-4-6": ("claude-opus-4-6-20260205",),
    "claude-opus-4-5": ("claude-opus-4-5-20251101",),
    "claude-sonnet-4-5": ("claude-sonnet-4-5-20250929",),
    "claude-haiku-4-5": ("claude-haiku-4-5-20251001",),
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog(load_builtin())


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_every_figure_is_the_providers(catalog: Catalog, row: list[str]) -> None:
    model = catalog.find(row[0])
    assert model is not None and model.id == row[0] and model.price.model == row[0]
    assert model.price.rates == Rates(*(parse_usd(price) for price in row[1:6]))
    assert [model.context_tokens, model.max_output_tokens] == [int(size) for size in row[6:8]]
    assert [str(factor) if factor else "-" for factor in (model.price.fast, model.price.us)] == row[8:10]
    assert model.price.web_search == 10_000 * 10**9
    assert str(model.price.batch) == "0.5"
    assert model.price.factors == ()
    assert model.aliases == ALIASES.get(row[0], ())
    assert model.image_tokens == 1600
    assert model.kinds == ("anthropic",)
    assert model.price_read_on == "2026-11-20"


def test_the_table_here_names_every_model_in_listing_order(catalog: Catalog) -> None:
    assert [model.id for model in catalog] == [row[0] for row in ROWS]
    assert len(catalog) == 15


def test_only_haiku_has_a_tier_and_it_changes_all_five_prices(catalog: Catalog) -> None:
    tiered = [model for model in catalog if model.price.tier_rates is not None or model.price.tier_above_tokens is not None]
    assert [model.id for model in tiered] == ["claude-haiku-5-5"]
    price = tiered[0].price
    assert price.tier_above_tokens == 100_000
    assert price.tier_rates == Rates(*map(parse_usd, ("0.50", "2.50", "0.625", "1.00", "0.05")))
    assert cost_nanos(price, Usage(input_tokens=100_000)) == parse_usd("0.01")
    assert cost_nanos(price, Usage(input_tokens=100_000, cache_read_tokens=1)) == parse_usd("0.05") + 50


def test_a_thousand_searches_cost_ten_dollars(catalog: Catalog) -> None:
    for model in catalog:
        assert cost_nanos(model.price, Usage(web_searches=1000)) == parse_usd("10")


@pytest.mark.parametrize("name", ["claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-fable-5-2"])
def test_what_claude_code_calls_its_models_is_listed_under_its_own_id(catalog: Catalog, name: str) -> None:
    model = catalog.find(name)
    assert model is not None and model.id == name and model in list(catalog)


def test_only_the_price_that_nobody_published_is_marked_as_assumed(catalog: Catalog) -> None:
    assert [model.id for model in catalog if model.price_assumed] == ["claude-fable-5-2"]


def test_only_sonnet_4_5_is_on_its_way_out(catalog: Catalog) -> None:
    leaving = [
        (model.id, model.lifecycle, model.retires_at) for model in catalog if model.lifecycle != "active" or model.retires_at
    ]
    assert leaving == [("claude-sonnet-4-5", "deprecated", "2026-11-30T00:00:00Z")]


def test_every_model_says_in_a_sentence_or_two_what_it_is_best_for(catalog: Catalog) -> None:
    for model in catalog:
        assert model.description.startswith("Best for ") and model.description.endswith(".")
        assert len(model.description) <= 200


def test_ids_and_aliases_are_unique(catalog: Catalog) -> None:
    names = [name for model in catalog for name in model.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("claude-opus-4-5", "claude-opus-4-5"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5"),
        ("anthropic/claude-opus-4-5", "claude-opus-4-5"),
        ("anthropic/claude-opus-4-5-20251101", "claude-opus-4-5"),
        ("anthropic/anthropic/claude-opus-4-5", None),
        ("openai/claude-opus-4-5", None),
        ("Claude-Opus-4-5", None),
        ("claude-opus-4-5 ", None),
        ("claude-opus", None),
        ("", None),
        ("anthropic/", None),
    ],
)
def test_look_up_is_exact(catalog: Catalog, name: str, found: str | None) -> None:
    model = catalog.find(name)
    assert (model.id if model else None) == found


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("claude-opus-5.5", "claude-opus-5-5"),
        ("anthropic/claude-sonet-4-6", "claude-sonnet-4-6"),
        ("CLAUDE-HAIKU-4-5", "claude-haiku-4-5"),
        ("gpt-4o", None),
        ("", None),
        ("claude-opus-5-5" * 10, None),
    ],
)
def test_a_wrong_name_learns_its_neighbour(catalog: Catalog, name: str, near: str | None) -> None:
    assert catalog.nearest(name) == near


def test_two_models_of_one_name_make_no_catalogue() -> None:
    price = Price("a", Rates(0, 0, 0, 0, 0))
    one = Model("a", "A", "", price, 1, 1, aliases=("b",))
    with pytest.raises(AssertionError):
        Catalog([one, Model("b", "B", "", price, 1, 1)])
