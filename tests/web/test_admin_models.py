"""/admin/models: the same prices as those that are charged, and whose each value is."""

from __future__ import annotations

import html
import re
from pathlib import Path

from gateway.health import Failure
from gateway.money import Factor, parse_usd
from gateway.web.admin.models import change, product
from gateway.web.offers import CLASSES
from gateway.web.text import usd
from tests.desk_tools import act
from tests.gateway_tools import Gateway
from tests.web.tools import make_visitor, open_site

PATH = "/admin/models"
NASTY = "<img src=x onerror=alert(1)>'"
HOUSE = f"""
[billing]
factor = "1.25"
[plans.default]
factor = "0.5"
[plans.pro]
factor = "0.9"
[[upstreams]]
name = "spare"
kind = "demo"
priority = 7
factor = "1.1"
[[upstreams]]
name = "off"
kind = "demo"
enabled = false
[[models]]
id = "claude-opus-5"
display_name = "{NASTY}"
input = "4.5"
routes = [{{ upstream = "spare", model = "opus", factor = "1.333333" }}, {{ upstream = "demo" }}]
[[models]]
id = "two-tiers"
input = "1"
output = "2"
cache_write_5m = "3"
cache_write_1h = "4"
cache_read = "0.5"
context_tokens = 1000
max_output_tokens = 100
tier_above_tokens = 200
tier = {{ input = "2", output = "4", cache_write_5m = "6", cache_write_1h = "8", cache_read = "1" }}
routes = [{{ upstream = "demo" }}]
[[models]]
id = "one"
serves = ["two-tiers", "claude-haiku-5-5"]
"""


async def detail(gateway: Gateway, model_id: str) -> str:
    root = await make_visitor(gateway, f"root-{model_id}", role="admin")
    answer = await root.get(f"{PATH}?open={model_id}")
    assert answer.status == 200
    return answer.body.decode().partition('<tr class="detail">')[2].partition("</dl>")[0]


def row(page: str, name: str) -> str:
    found = re.search(rf'<tr[^>]*><th scope="row"[^>]*>{re.escape(name)}<(.*?)</tr>', page, re.DOTALL)
    assert found, name
    return found.group(1)


def figures(text: str) -> list[str]:
    """Prices in their order, without what the catalogue says beside them."""
    return re.findall(r"\$[\d.,]+", re.sub(r'<span class="sub">.*?</span>', "", text))


async def test_each_plan_pays_what_its_users_are_told_and_charged(tmp_path: Path) -> None:
    async with open_site(tmp_path, HOUSE) as gateway:
        users = {plan: await gateway.make_user(plan, plan=plan) for plan in ("default", "pro")}
        told = {
            plan: {model["id"]: model for model in (await gateway.get(user, "/v1/models")).json["data"]}
            for plan, user in users.items()
        }
        listed = {model["id"]: model for model in await act(gateway.house, "models.list")}
        for model_id in ("claude-opus-5-5", "claude-opus-5", "two-tiers", "one"):
            page = await detail(gateway, model_id)
            table = page.partition('<tr class="day">')
            for name, label in CLASSES.items():
                at_list = usd(parse_usd(listed[model_id]["prices_usd_per_mtok"][name]))
                paid = [usd(parse_usd(told[plan][model_id]["price"][name])) for plan in users]
                assert figures(row(table[0], label)) == [at_list, *paid], (model_id, name)
                if "above_prompt_tokens" in told["pro"][model_id]["price"]:
                    above = [usd(parse_usd(told[plan][model_id]["price"]["above_prompt_tokens"][name])) for plan in users]
                    assert figures(row(table[2], label))[1:] == above


async def test_who_says_so(tmp_path: Path) -> None:
    async with open_site(tmp_path, HOUSE) as gateway:
        root = await make_visitor(gateway, "root", role="admin")
        whole = (await root.get(PATH)).body.decode()
        assert "read on 2026-11-20" in whole
        told = {
            re.findall(r'<tr id="([^"]+)"', line)[0]: re.findall(r'<td class="hide-s">(?:<span class="tag">)?([a-z ,]+)', line)[0]
            for line in re.findall(r"<tr id=.*?</tr>", whole, re.DOTALL)
        }
        assert told["claude-opus-5-5"] == "catalogue" and told["claude-opus-5"] == "catalogue, changed"
        assert told["two-tiers"] == "configuration" and told["one"] == "as what it serves"
        assert len(told) == len(list(gateway.house.walk.catalog))
        page = await detail(gateway, "claude-opus-5")
        assert "catalogue $5.00" in row(page, "Input") and '<span class="tag">configuration</span>' in row(page, "Input")
        assert "configuration" not in row(page, "Output") and "the catalogue says “Claude Opus 5”" in page


async def test_routes_stand_in_the_order_in_which_they_are_asked_with_their_factors_and_states(tmp_path: Path) -> None:
    async with open_site(tmp_path, HOUSE) as gateway:
        page = await detail(gateway, "claude-opus-5")
        assert re.findall(r'href="/admin/upstreams#(\w+)"', page) == ["demo", "spare"]
        assert "house × 1.25" in row_of_route(page, "demo") and "route" not in row_of_route(page, "demo")
        assert "house × 1.25, upstream × 1.1, route × 1.333333" in row_of_route(page, "spare")
        # 4.5 × 1.25 × 1.1 × 1.333333 × 0.5
        assert "$4.124998969" in row_of_route(page, "spare") and "$4.50 · $25.00" in row_of_route(page, "spare")
        assert page.count("Serving") == 2
        router = gateway.house.walk.router
        spare = next(each for each in router.deployments("claude-opus-5") if each.upstream == "spare")
        now_ms = gateway.house.walk.clock.now_ms()
        router.failed("claude-opus-5", "c", spare, Failure("limited", "rate_limited", "c", 1, 900_000), now_ms)
        root = await make_visitor(gateway, "root", role="admin")
        page = (await root.get(f"{PATH}?open=claude-opus-5")).body.decode()
        assert "Cooling" in row_of_route(page, "spare") and "429 rate limited, for 15 min" in row_of_route(page, "spare")
        assert "1 of 2 serving" in page
        # Another of its models serves on.
        page = (await root.get(f"{PATH}?open=claude-opus-5-5")).body.decode()
        assert "Cooling" not in row_of_route(page, "spare")
        spare = next(each for each in router.deployments("claude-opus-5-5") if each.upstream == "spare")
        router.failed("claude-opus-5-5", "c", spare, Failure("secret", "secret_refused", "c", 1), now_ms)
        page = (await root.get(f"{PATH}?open=claude-opus-5-5")).body.decode()
        assert "the provider does not accept the key" in row_of_route(page, "spare")


def row_of_route(page: str, upstream: str) -> str:
    found = re.search(rf'<tr><th scope="row" class="any"><a href="/admin/upstreams#{upstream}">.*?</tr>', page, re.DOTALL)
    assert found
    return found.group(0)


async def test_a_virtual_model_goes_where_its_models_go(tmp_path: Path) -> None:
    async with open_site(tmp_path, HOUSE) as gateway:
        page = await detail(gateway, "one")
        assert re.findall(r'href="/admin/upstreams#(\w+)"', page) == ["demo", "demo", "spare"]
        assert "Stands for" in page and "A request costs what the model that served it costs." in page


async def test_names_are_shown_as_they_are_written_and_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    async with open_site(tmp_path, HOUSE) as gateway:
        root = await make_visitor(gateway, "root", role="admin")
        for path in (PATH, f"{PATH}?open=claude-opus-5"):
            page = (await root.get(path)).body.decode()
            assert NASTY not in page and html.escape(NASTY).replace("&#x27;", "&#39;") in page
        assert (await root.get(f"{PATH}?open=gpt-2")).status == 404
        assert b"upstream-secret" not in (await root.get(PATH)).body


def test_words_for_factors() -> None:
    assert product([Factor.parse("1.25"), Factor.parse("0.9")]) == "1.125"
    assert product([]) == "1" and product([Factor.parse("10"), Factor.parse("10")]) == "100"
    assert [change(9, 10), change(11, 10), change(1125, 1000), change(5, 0)] == ["−10 %", "+10 %", "+12.5 %", "not on the list"]
