"""What is offered, and what it costs: the same figures as the API's, and sums that add up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.web.offers import EXAMPLE, offers
from tests.gateway_tools import Gateway
from tests.web.tools import look, open_site

HOUSE = """
[billing]
factor = "1.25"
[plans.default]
factor = "0.5"
[[models]]
id = "one"
display_name = "One"
serves = ["claude-haiku-5-5", "claude-sonnet-5-5"]
aliases = ["uno"]
[[models]]
id = "claude-opus-5"
routes = [{ upstream = "demo", factor = "1.333333" }]
"""


async def names(gateway: Gateway, query: str) -> list[str]:
    text = (await look(gateway, "/models" + query)).body.decode()
    return re.findall(r'<th scope="row"><a href="/models/([^"]+)"', text)


async def test_the_page_and_the_api_say_the_same_price(tmp_path: Path) -> None:
    async with open_site(tmp_path, HOUSE) as gateway:
        alice = await gateway.make_user("alice")
        told = {model["id"]: model for model in (await gateway.get(alice, "/v1/models")).json["data"]}
        text = (await look(gateway, "/models")).body.decode()
        rows = re.findall(r'<tr>\n<th scope="row"><a href="/models/([^"]+)".*?</tr>', text, re.DOTALL)
        assert rows == list(told)
        for model_id, model in told.items():
            page = (await look(gateway, f"/models/{model_id}")).body.decode()
            for name, label in (("input", "Input"), ("cache_write_1h", "Cache write, 1 hour")):
                row = re.search(rf'<th scope="row">{label}</th>(.*?)</tr>', page)
                assert row is not None
                figures = re.findall(r"\$[\d.]+", row.group(1))
                assert figures[:2] == [f"${model['list_price'][name]}", f"${model['price'][name]}"], model_id
                if "above_prompt_tokens" in model["price"]:
                    assert figures[2] == f"${model['price']['above_prompt_tokens'][name]}"


async def test_the_example_adds_up_or_does_not_say_so(tmp_path: Path) -> None:
    async with open_site(tmp_path, HOUSE) as gateway:
        proven = 0
        for offer in offers(gateway.house):
            example = offer.example()
            assert sum(line.count for line in example.lines) == EXAMPLE.prompt_tokens + EXAMPLE.output_tokens
            # Each line is rounded upwards as the charge is.
            assert 0 <= sum(line.cost_nanos for line in example.lines) - example.cost_nanos < len(example.lines)
            assert example.cost_nanos < example.uncached_nanos
            page = (await look(gateway, f"/models/{offer.model.id}")).body
            assert (b'class="proof"' in page) == example.adds_up
            proven += example.adds_up
        assert proven >= 14


async def test_filters(tmp_path: Path) -> None:
    async with open_site(tmp_path, HOUSE) as gateway:
        everything = await names(gateway, "")
        assert len(everything) == 16 and everything[-1] == "one"
        assert await names(gateway, "?q=HAIKU+5.5") == ["claude-haiku-5-5", "claude-haiku-4-5"]  # the description of 4.5 names it
        assert await names(gateway, "?q=uno") == ["one"]
        assert set(await names(gateway, "?context=1000000")) == set(everything) - {
            *("claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5")
        }
        cheap = await names(gateway, "?sort=output")
        assert cheap[:2] == ["claude-haiku-5-5", "one"] and set(cheap) == set(everything)
        assert await names(gateway, "?q=nothing+like+it") == []
        assert b"No model fits" in (await look(gateway, "/models?q=nothing+like+it")).body
        # What is no choice is none.
        assert await names(gateway, "?sort=constructor&context=-1") == everything


@pytest.mark.parametrize("name", ["one", "uno", "anthropic/one", "anthropic%2Funo"])
async def test_a_model_is_found_by_every_name(tmp_path: Path, name: str) -> None:
    async with open_site(tmp_path, HOUSE) as gateway:
        text = (await look(gateway, f"/models/{name}")).body.decode()
        assert "<h1>One</h1>" in text and "A request costs what the model that served it costs." in text
        assert 'href="/models/claude-haiku-5-5">Claude Haiku 5.5</a>, else <a' in text


async def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    async with open_site(tmp_path, HOUSE) as gateway:
        near = await look(gateway, "/models/claude-haiku-55")
        assert near.status == 404 and b"Did you mean claude-haiku-5-5?" in near.body
        for name in ("zzz", "x" * 5000, "<script>", "a/b/c"):
            answer = await look(gateway, f"/models/{name}")
            assert answer.status == 404 and b"No model of this name" in answer.body and b"<script>" not in answer.body
