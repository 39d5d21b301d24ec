"""config.example.toml tells the truth: it loads, shows every option with its default, and explains each."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from gateway.config import Billing, Brand, Logging, Notices, Route, Server, Settings, Timeouts, Usage, Web, parse
from gateway.config.errors import options_of
from gateway.config.models import WEB_SEARCH_DEFAULT_NANOS
from gateway.config.sections import LISTS, NAMED, NESTED, SECTIONS, PlanOptions
from gateway.config.upstreams import ANTHROPIC_URL
from gateway.money import Factor

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"

SECRET = "sk-ant-api03-" + "S3cr3t" * 10
ENVIRONMENT = {"ANTHROPIC_API_KEY": SECRET, "OPENROUTER_API_KEY": SECRET}

MAIN = """
[[upstreams]]
name = "main"
kind = "anthropic"
api_key_env = "ANTHROPIC_API_KEY"
"""


def read(text: str, environ: Mapping[str, str] = ENVIRONMENT) -> Settings:
    return parse(text, "pagegrid.toml", environ)


def uncommented() -> str:
    """The example with its options in force: what is commented out without a space is TOML, what has one is prose."""
    return re.sub(r"^#(?=[\[a-z])", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.fixture
def whole_example(tmp_path: Path) -> Settings:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "reserve.key").write_text(SECRET)
    (tmp_path / "secrets" / "reserve.key").chmod(0o600)
    return parse(uncommented(), str(tmp_path / "pagegrid.toml"), ENVIRONMENT)


def test_the_example_as_shipped_is_the_defaults_and_one_upstream() -> None:
    settings = read(EXAMPLE.read_text(encoding="utf-8"))
    assert (settings.server, settings.brand, settings.billing) == (Server(), Brand(), Billing())
    assert (settings.timeouts, settings.logging) == (Timeouts(), Logging())
    assert (settings.usage, settings.notices, settings.web) == (Usage(), Notices(), Web())
    assert settings.plans == read(MAIN).plans
    assert settings.upstreams == read(MAIN).upstreams
    assert list(settings.catalog) == list(read(MAIN).catalog)


def test_the_example_loads_with_every_option_in_force(whole_example: Settings) -> None:
    assert (whole_example.server, whole_example.brand, whole_example.billing) == (Server(), Brand(), Billing())
    assert (whole_example.timeouts, whole_example.logging) == (Timeouts(), Logging())
    assert (whole_example.usage, whole_example.notices, whole_example.web) == (Usage(), Notices(), Web())
    assert whole_example.plans["default"].models == {"claude-sonnet-5-5", "claude-haiku-5-5"}
    cheaper = Route("main", "provider-model-7", Factor.parse("0.9"))
    assert whole_example.routes["house-model"] == (cheaper, Route("reserve", "house-model"))
    virtual = whole_example.catalog.find("house-text")
    assert virtual is not None and virtual.serves == ("house-model", "claude-haiku-5-5") and virtual.priced_as_served
    names = ["main", "reserve", "by-environment", "in-this-file", "openrouter"]
    assert [upstream.name for upstream in whole_example.upstreams] == names
    assert whole_example.routes["gpt-house"] == (Route("openrouter", "openai/gpt-5.6"),)
    assert whole_example.warnings == ()


def test_the_example_shows_every_option_of_every_section() -> None:
    data = tomllib.loads(uncommented())
    for name, shape in SECTIONS.items():
        assert list(data[name]) == options_of(shape), f"[{name}] has other options, or another order"
    for name, shape in LISTS.items():
        assert {option for entry in data[name] for option in entry} == set(options_of(shape)), name
    routes = [route for entry in data["models"] for route in entry.get("routes", ())]
    assert {option for route in routes for option in route} == set(options_of(NESTED["routes"]))
    tiers = [entry["tier"] for entry in data["models"] if "tier" in entry]
    assert [list(tier) for tier in tiers] == [options_of(NESTED["tier"])]
    assert list(data["plans"]["default"]) == options_of(NAMED["plans"])
    assert data.keys() == SECTIONS.keys() | LISTS.keys() | NAMED.keys()


def test_every_default_that_the_example_shows_is_the_codes(whole_example: Settings) -> None:
    written: dict[str, Any] = tomllib.loads(uncommented())
    for name, shape in SECTIONS.items():
        for option in options_of(shape):
            assert shape.model_validate({option: written[name][option]}) == shape(), f"{name}.{option}"
    for option in set(options_of(PlanOptions)) - {"models"}:
        assert PlanOptions.model_validate({option: written["plans"]["default"][option]}) == PlanOptions(), f"plans.{option}"
    reserve = next(entry for entry in written["upstreams"] if entry["name"] == "reserve")
    assert reserve["base_url"] == ANTHROPIC_URL
    bare = {"name": "reserve", "kind": "anthropic"}
    for option, field in LISTS["upstreams"].model_fields.items():
        if field.default not in (None, PydanticUndefined):
            assert LISTS["upstreams"].model_validate({**bare, option: reserve[option]}) == LISTS["upstreams"].model_validate(bare)
    model = whole_example.catalog.find("house-model")
    assert model is not None and model.price.web_search == WEB_SEARCH_DEFAULT_NANOS


def test_every_option_of_the_example_is_explained() -> None:
    explained, why = set(), False
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        option = re.match(r"#?([a-z_0-9]+) = ", line)
        if option and why:
            explained.add(option.group(1))
        # A remark holds for the options right below it.
        why = line.startswith("# ") or (why and option is not None)
    shapes = (*SECTIONS.values(), *LISTS.values(), *NAMED.values())
    assert explained >= {option for shape in shapes for option in options_of(shape)}
