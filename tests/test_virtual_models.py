"""Virtual models, tiers and multipliers, factors of routes and disabled upstreams: what a file that has them means, and what is
said of one that is wrong."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.catalog import Model
from gateway.config import ConfigError, Route, Settings, parse
from gateway.config.models import WEB_SEARCH_DEFAULT_NANOS
from gateway.money import Factor, parse_usd
from gateway.pricing import Rates, cost_nanos
from gateway.usage import Usage

MAIN = """
[[upstreams]]
name = "main"
kind = "anthropic"
api_key = "x"
"""
PRICES = 'input = "3"\noutput = "15"\ncache_write_5m = "3.75"\ncache_write_1h = "6"\ncache_read = "0.3"\n'
SIZES = "context_tokens = 300000\nmax_output_tokens = 70000\n"
TIER = 'tier = { input = "6", output = "22.5", cache_write_5m = "7.5", cache_write_1h = "12", cache_read = "0.6" }\n'
NEW = '[[models]]\nid = "house"\nroutes = [{ upstream = "main" }]\n' + PRICES + SIZES
TEXT_PRIME = '[[models]]\nid = "text-prime"\nserves = ["claude-sonnet-5-5", "claude-haiku-4-5"]\n'


def read(text: str, environ: Mapping[str, str] | None = None) -> Settings:
    return parse(text, "pagegrid.toml", environ or {})


def model_of(text: str, name: str) -> Model:
    model = read(text).catalog.find(name)
    assert model is not None
    return model


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [str(problem).removeprefix("pagegrid.toml:") for problem in caught.value.problems]


# Virtual models


def test_a_virtual_model_stands_for_others_in_order_at_their_price_and_smallest_sizes() -> None:
    settings = read(MAIN + TEXT_PRIME)
    virtual = settings.catalog.find("anthropic/text-prime")
    assert virtual is not None and list(settings.catalog)[-1] == virtual
    assert virtual.serves == ("claude-sonnet-5-5", "claude-haiku-4-5") and virtual.priced_as_served
    assert (virtual.context_tokens, virtual.max_output_tokens) == (200_000, 64_000)
    first, second = settings.catalog.members(virtual)
    assert virtual.price == first.price and [first.id, second.id] == list(virtual.serves)
    assert settings.catalog.members(first) == (first,)
    assert "text-prime" not in settings.routes and settings.warnings == ()


def test_it_may_have_sizes_names_and_five_prices_of_its_own() -> None:
    more = 'aliases = ["prime"]\ndisplay_name = "Prime"\nbatch = "0.6"\ntier_above_tokens = 100000\n' + TIER
    virtual = model_of(MAIN + TEXT_PRIME + PRICES + SIZES + more, "prime")
    assert (virtual.id, virtual.display_name, virtual.priced_as_served) == ("text-prime", "Prime", False)
    assert (virtual.context_tokens, virtual.max_output_tokens) == (300_000, 70_000)
    assert virtual.price.model == "text-prime" and virtual.price.web_search == WEB_SEARCH_DEFAULT_NANOS
    assert virtual.price.rates == Rates(*map(parse_usd, ("3", "15", "3.75", "6", "0.3")))
    assert (virtual.price.batch, virtual.price.us, virtual.price.fast) == (Factor(3, 5), None, None)
    assert virtual.price.rates_at(100_001).output == parse_usd("22.5")


def test_it_may_serve_models_that_stand_below_it_and_name_them_by_an_alias() -> None:
    text = '[[models]]\nid = "v"\nserves = ["mine", "claude-haiku-4-5-20251001"]\n' + NEW + 'aliases = ["mine"]\n'
    assert model_of(MAIN + text, "v").serves == ("house", "claude-haiku-4-5")


def test_it_is_assumed_if_a_price_of_those_it_serves_is() -> None:
    assert model_of(MAIN + '[[models]]\nid = "v"\nserves = ["claude-opus-5", "claude-fable-5-2"]\n', "v").price_assumed


def test_who_is_out_of_service_is_left_out_and_told() -> None:
    gone = '[[models]]\nid = "claude-sonnet-5-5"\nroutes = []\n'
    settings = read(MAIN + TEXT_PRIME + gone)
    virtual = settings.catalog.find("text-prime")
    assert virtual is not None and virtual.serves == ("claude-haiku-4-5",)
    assert settings.warnings == ("models[text-prime].serves: claude-sonnet-5-5 is out of service and left out.",)
    none = read(MAIN + gone + '[[models]]\nid = "text-prime"\nserves = ["claude-sonnet-5-5"]\n')
    assert none.catalog.find("text-prime") is None
    assert none.warnings[-1] == "models[text-prime] is not served: none of the models that it serves is in service."


VIRTUAL = "[[models]]\nid = 'v'\nserves = ['claude-opus-5']\n"
WRONG = [
    ("serves = []", "8: option models[v].serves: names no model; it takes the ids of one or more, the first preferred"),
    ("serves = 'claude-opus-5'", "8: option models[v].serves: expected a list, found a text in quotes"),
    (
        "serves = ['claude-opus-55']",
        '8: option models[v].serves[#1]: there is no model "claude-opus-55"; did you mean "claude-opus-5-5"?',
    ),
    ("serves = ['claude-opus-5', 'gpt']", '8: option models[v].serves[#2]: there is no model "gpt"'),
    ("serves = ['v']", "8: option models[v].serves[#1]: a virtual model cannot serve itself"),
    (
        "serves = ['w']\n[[models]]\nid = 'w'\nserves = ['claude-opus-5']",
        '8: option models[v].serves[#1]: "w" is virtual itself; name the models that it serves',
    ),
    (
        "serves = ['claude-opus-4-5', 'claude-opus-4-5-20251101']",
        '8: option models[v].serves[#2]: "claude-opus-4-5-20251101" is there twice',
    ),
    (
        "serves = ['claude-opus-5']\nroutes = [{ upstream = 'main' }]",
        "9: option models[v].routes: a virtual model goes where those that it serves go; remove routes, or serves",
    ),
    (
        "serves = ['claude-opus-5']\ninput = '3'\noutput = '4'",
        "6: models[v]: needs cache_write_5m, cache_write_1h, cache_read beside input: a virtual model has all five prices, or"
        " none and costs what was served",
    ),
    (
        "serves = ['claude-opus-5']\nbatch = '0.5'",
        "6: models[v]: needs input, output, cache_write_5m, cache_write_1h, cache_read beside batch: a virtual model has all five"
        " prices, or none and costs what was served",
    ),
    (
        "serves = ['claude-opus-5']\naliases = ['claude-opus-5']",
        '9: option models[v].aliases: "claude-opus-5" already names the model claude-opus-5',
    ),
]


@pytest.mark.parametrize(("text", "line"), WRONG, ids=[line for _, line in WRONG])
def test_what_is_wrong_with_a_virtual_model_is_told_by_line(text: str, line: str) -> None:
    assert problems(MAIN + "[[models]]\nid = 'v'\n" + text) == [line]


def test_a_model_of_the_catalogue_cannot_become_virtual() -> None:
    text = MAIN + "[[models]]\nid = 'claude-opus-5'\nserves = ['claude-opus-5-5']\n"
    assert problems(text) == [
        "8: option models[claude-opus-5].serves: claude-opus-5 is in the catalogue; a virtual model needs an id of its own"
    ]


def test_a_member_whose_own_entry_is_wrong_is_told_there_only() -> None:
    wrong = "[[models]]\nid = 'house'\nroutes = [{ upstream = 'main' }]\n"
    (line,) = problems(MAIN + wrong + "[[models]]\nid = 'v'\nserves = ['house', 'claude-opus-5']\n")
    assert line.startswith("6: models[house]: needs input")


# Tiers and multipliers


def test_a_new_model_may_have_a_tier_and_multipliers() -> None:
    price = model_of(MAIN + NEW + 'fast = "2.5"\nus = "1.2"\nbatch = "0.4"\ntier_above_tokens = 50000\n' + TIER, "house").price
    assert (price.fast, price.us, price.batch) == (Factor(5, 2), Factor(6, 5), Factor(2, 5))
    assert cost_nanos(price, Usage(input_tokens=50_000)) == parse_usd("0.15")
    assert cost_nanos(price, Usage(input_tokens=50_001)) == 50_001 * 6_000
    assert cost_nanos(price, Usage(1_000, speed="fast", geography="us", service_tier="batch")) == 3_000_000 * 6 // 5
    plain = model_of(MAIN + NEW, "house").price
    assert (plain.fast, plain.us, plain.batch, plain.tier_rates) == (None, None, None, None)


def test_multipliers_and_tier_of_a_catalogue_model_change_alone() -> None:
    before = model_of(MAIN, "claude-haiku-5-5").price
    entry = '[[models]]\nid = "claude-haiku-5-5"\n'
    after = model_of(MAIN + entry + 'batch = "0.75"\n', "claude-haiku-5-5").price
    assert (after.rates, after.tier_rates, after.us, after.batch) == (before.rates, before.tier_rates, before.us, Factor(3, 4))
    settings = read(MAIN + entry + PRICES + "tier_above_tokens = 200000\n" + TIER)
    model = settings.catalog.find("claude-haiku-5-5")
    assert model is not None and settings.warnings == ()
    assert (model.price.tier_above_tokens, model.price.rates_at(200_001).input) == (200_000, parse_usd("6"))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "tier_above_tokens = 5",
            "option models[house].tier_above_tokens: needs tier beside it: what the prices are, and above which prompt",
        ),
        (TIER, "option models[house].tier: needs tier_above_tokens beside it: what the prices are, and above which prompt"),
        ("tier_above_tokens = 5\ntier = { input = '1' }", "option models[house].tier.output: is missing"),
        ("tier_above_tokens = 5\n" + TIER.replace("output", "ouptut"), "unknown option; did you mean models[house].tier.output?"),
        ("tier_above_tokens = 0\n" + TIER, "option models[house].tier_above_tokens: must be at least 1"),
        (
            "tier_above_tokens = 5\ntier = '6'",
            "option models[house].tier: expected a table in braces, found a text in quotes",
        ),
        (
            "batch = 0.5",
            'option models[house].batch: expected a factor as a text in quotes, such as "1.1", found a number with decimals',
        ),
    ],
)
def test_what_is_wrong_with_a_tier_is_told(text: str, line: str) -> None:
    assert any(found.endswith(line) for found in problems(MAIN + NEW + text))


# Factors of routes, disabled upstreams


def test_a_route_may_have_a_factor_and_is_the_same_route_with_another() -> None:
    entry = '[[models]]\nid = "claude-opus-5"\nroutes = [{ upstream = "main", model = "b", factor = "0.9" }, %s]\n'
    assert read(MAIN + entry % '{ upstream = "main" }').routes["claude-opus-5"] == (
        Route("main", "b", Factor(9, 10)),
        Route("main", "claude-opus-5"),
    )
    (line,) = problems(MAIN + entry % '{ upstream = "main", model = "b" }')
    assert line == "8: option models[claude-opus-5].routes[#2]: the same route is written twice"
    (line,) = problems(MAIN + entry % '{ upstream = "main", factor = "11" }')
    assert "factor above 0 and at most 10" in line


DISABLED = '[[upstreams]]\nname = "spare"\nkind = "anthropic"\nenabled = false\n'


@pytest.mark.parametrize("secret", ['api_key_env = "NOT_SET"', 'api_key_file = "not-there.key"', 'api_key = "y"'])
def test_a_disabled_upstream_serves_nothing_and_its_secret_is_not_looked_for(secret: str) -> None:
    settings = read(MAIN + DISABLED + secret)
    assert [upstream.enabled for upstream in settings.upstreams] == [True, False]
    assert settings.routes["claude-opus-5"] == (Route("main", "claude-opus-5"),)
    assert settings.warnings == ()


def test_what_only_a_disabled_upstream_has_is_not_served_and_told() -> None:
    spare = DISABLED + 'api_key = "y"\n'
    routed = NEW.replace('"main"', '"spare"')
    settings = read(MAIN + spare + routed)
    assert settings.catalog.find("house") is None
    assert settings.warnings == ("models[house] is not served: every upstream that it is routed to is disabled.",)
    both = read(MAIN + spare + routed.replace("[{", '[{ upstream = "main" }, {'))
    assert both.routes["house"] == (Route("main", "house"),) and both.warnings == ()
    demo = read(
        spare
        + '[[upstreams]]\nname = "play"\nkind = "demo"\n[[models]]\nid = "claude-opus-5"\nroutes = [{ upstream = "play" }]\n'
    )
    # A real upstream that rests for a while does not make a demo answer in its place.
    assert [model.id for model in demo.catalog] == ["claude-opus-5"] and not demo.demo_only
    assert demo.warnings == ("14 of the catalogue's models are not served: every upstream of their kind is disabled.",)


def test_one_upstream_at_least_is_enabled() -> None:
    (line,) = problems(DISABLED + 'api_key = "y"')
    assert line.endswith("option upstreams: every one is disabled, so that nothing could be answered; enable at least one")
