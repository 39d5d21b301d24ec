"""One request told to people: every figure, and a cost whose lines add up."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from gateway.desk.usage import find_usage_of, render_usage
from gateway.errors import ClientError
from gateway.house import House
from gateway.ids import render_id
from gateway.money import Factor
from gateway.pricing import Price, Rates
from gateway.storage.calls import find_usage
from gateway.storage.database import open_reader
from tests.desk_tools import MODEL, USAGE, act, desk_house, make_ada, open_request, settle_request, void_request
from tests.fakes import FakeClock


async def test_a_settled_request_tells_what_it_used_and_cost(house: House, clock: FakeClock) -> None:
    key = await make_ada(house)
    request_id, live = await open_request(house, key["secret"])
    cost = await settle_request(house, request_id, live, upstream_id="msg_upstream")
    shown = await find_usage_of(house.reader, render_id(request_id), live.user_id)
    assert shown == {
        "request_id": render_id(request_id),
        "status": "settled",
        "model": MODEL,
        "key_id": live.id,
        "created_at_ms": clock.at_ms(),
        "input_tokens": 1_001,
        "output_tokens": 33,
        "cache_read_input_tokens": 501,
        "cache_creation": {"ephemeral_5m_input_tokens": 7, "ephemeral_1h_input_tokens": 5},
        "web_search_requests": 0,
        "cost_micro": (cost + 500) // 1000,
        "cost_nanos": cost,
        "refunded_nanos": 0,
        "source": "reported",
        "flags": ["model_mismatch", "unknown_usage:x"],
        "attempts": [
            {"number": 1, "status": 529, "reason": "status_529", "duration_ms": 5},
            {"number": 2, "status": 200, "reason": "ok", "duration_ms": 20},
        ],
        "timings": {"admitted_ms": 1, "first_byte_ms": 20, "total_ms": 30},
        "upstream_model": "theirs",
    }


async def test_a_request_is_found_by_its_owner_only_and_by_either_id(house: House) -> None:
    key = await make_ada(house)
    request_id, live = await open_request(house, key["secret"])
    await settle_request(house, request_id, live, upstream_id="msg_upstream")
    for text in (render_id(request_id), render_id(request_id).lower().replace("req_", "req_"), "msg_upstream"):
        found = await find_usage_of(house.reader, text, live.user_id)
        assert found is not None and found["request_id"] == render_id(request_id)
        assert await find_usage_of(house.reader, text, live.user_id + 1) is None
    for text in ("", "msg_other", "req_0000000000000", "req_"):
        assert await find_usage_of(house.reader, text, live.user_id) is None


async def test_an_upstream_id_that_two_users_share_leads_each_to_their_own(house: House) -> None:
    """A deterministic upstream (the demo) may give one id twice."""
    ada = await make_ada(house)
    await act(house, "users.create", name="bob")
    await act(house, "wallets.topup", user="bob", amount="1", reference="b")
    bob = await act(house, "keys.create", user="bob")
    for secret in (ada["secret"], bob["secret"]):
        request_id, live = await open_request(house, secret)
        await settle_request(house, request_id, live, upstream_id="msg_same")
        found = await find_usage_of(house.reader, "msg_same", live.user_id)
        assert found is not None and found["request_id"] == render_id(request_id)


async def test_a_running_request_has_no_figures_yet_and_a_void_one_says_why(house: House) -> None:
    key = await make_ada(house)
    request_id, live = await open_request(house, key["secret"])
    running = await act(house, "usage.get", request_id=render_id(request_id))
    assert (running["status"], running["user"], "cost_nanos" in running) == ("running", "ada", False)
    await void_request(house, request_id, live, "upstream_failed")
    void = await act(house, "usage.get", request_id=render_id(request_id))
    assert (void["status"], void["reason"], void["cost_nanos"], void["input_tokens"]) == ("void", "upstream_failed", 0, 0)
    assert void["source"] is None and "upstream_model" not in void


async def test_the_derivation_adds_up_to_the_cost(house: House) -> None:
    key = await make_ada(house)
    request_id, live = await open_request(house, key["secret"])
    cost = await settle_request(house, request_id, live)
    shown = await act(house, "usage.get", request_id=render_id(request_id))
    lines = shown["derivation"]["lines"]
    assert [line["name"] for line in lines] == ["input", "cache_write_5m", "cache_write_1h", "cache_read", "output", "rounding"]
    assert lines[0]["count"] == USAGE.input_tokens
    assert sum(Decimal(line["amount_nanos"]) for line in lines) == cost == shown["cost_nanos"]
    assert 0 <= Decimal(lines[-1]["amount_nanos"]) < 1


async def test_a_charge_limited_to_its_hold_says_what_was_taken_off(house: House) -> None:
    key = await make_ada(house)
    request_id, live = await open_request(house, key["secret"], hold_nanos=1_000)
    assert await settle_request(house, request_id, live, limit_nanos=1_000) == 1_000
    lines = (await act(house, "usage.get", request_id=render_id(request_id)))["derivation"]["lines"]
    assert lines[-2]["name"] == "limited_to_hold" and int(lines[-2]["amount_nanos"]) < 0
    assert sum(Decimal(line["amount_nanos"]) for line in lines) == 1_000


async def test_factors_of_many_decimals_stay_exact(tmp_path: Path, clock: FakeClock) -> None:
    price = Price(
        MODEL,
        Rates(3_000_000_001, 15_000_000_007, 3, 5, 7),
        100,
        Rates(1, 2, 3, 4, 5),
        10**13,
        Factor.parse("2"),
        Factor.parse("1.1"),
        Factor.parse("0.5"),
        (Factor.parse("1.000001"), Factor.parse("0.333333")),
    )
    async with desk_house(tmp_path, clock) as house:
        key = await make_ada(house)
        request_id, live = await open_request(house, key["secret"])
        deployment = house.walk.router.deployments(MODEL)[0]
        object.__setattr__(deployment, "price", price)
        object.__setattr__(deployment, "terms", price.terms())
        cost = await settle_request(house, request_id, live)
        derivation = (await act(house, "usage.get", request_id=render_id(request_id)))["derivation"]
    assert derivation["multipliers"] == [{"name": "factor", "factor": "1.000001"}, {"name": "factor", "factor": "0.333333"}]
    assert sum(Decimal(line["amount_nanos"]) for line in derivation["lines"]) == cost
    assert 0 <= Decimal(derivation["lines"][-1]["amount_nanos"]) < 1


async def test_an_unknown_request_says_where_ids_stand(house: House) -> None:
    with pytest.raises(ClientError, match="request-id header") as caught:
        await act(house, "usage.get", request_id="nonsense")
    assert caught.value.code == "not_found" and "nonsense" not in caught.value.message


async def test_what_ails_the_operators_accounts_is_not_told_to_users(house: House) -> None:
    key = await make_ada(house)
    request_id, live = await open_request(house, key["secret"])
    await settle_request(house, request_id, live)
    with closing(open_reader(house.desk.database)) as conn:
        row = find_usage(conn, request_id)
    assert row is not None
    ailing = [("secret_refused", 401), ("credit_exhausted", 400), ("credit_exhausted", 429), ("status_403", 403)]
    row["attempts"] = [{**row["attempts"][0], "reason": reason, "status": status} for reason, status in ailing]
    told = render_usage(row)["attempts"]
    assert {(each["reason"], each["status"]) for each in told} == {("upstream_failed", None)}
    # The operator is told all of it.
    shown = await act(house, "usage.get", request_id=render_id(request_id))
    assert [each["upstream"] for each in shown["attempts"]] == ["first", "demo"]
