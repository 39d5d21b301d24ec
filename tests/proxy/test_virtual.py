"""One name for several models, at several upstreams of several kinds: who is asked, whose price is charged, what clients see."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from gateway.config import parse
from gateway.desk import acts
from gateway.errors import ClientError
from gateway.house import build_deployments
from gateway.ids import parse_id
from gateway.pricing import cost_nanos, parse_terms
from gateway.usage import Usage
from tests.fakes import FakeClock
from tests.gateway_tools import Answer, ScriptedUpstream, open_gateway, settings_text
from tests.upstream import Script, contains
from tests.upstreams import scripts
from tests.upstreams.replies import Reply

FIRST, THEN = "claude-sonnet-5-5", "claude-haiku-4-5"
# Nanos per token, input and output (data/catalog.toml), and what 1,000 and 100 of them cost.
SPENT = Usage(input_tokens=1000, output_tokens=100)
FIRST_COST, THEN_COST = 1000 * 2_000 + 100 * 10_000, 1000 * 1_000 + 100 * 5_000
OK = scripts.answer(Reply(usage=SPENT))

VIRTUAL = f"""
[[models]]
id = "text-prime"
aliases = ["prime"]
serves = ["{FIRST}", "{THEN}"]
"""
OWN_PRICE = 'input = "7"\noutput = "70"\ncache_write_5m = "7"\ncache_write_1h = "7"\ncache_read = "7"\n'
THINKING = {"type": "thinking", "thinking": "hm", "signature": "EqQBCgIYAhIM"}
SIGNED = [{"role": "user", "content": "a"}, {"role": "assistant", "content": [THINKING]}, {"role": "user", "content": "b"}]


def asks(model: str) -> Any:
    return contains(f'"{model}"'.encode())


def shown_model(answer: Answer, stream: bool) -> str:
    shown: str = answer.events[0][1]["message"]["model"] if stream else answer.json["model"]
    return shown


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("asked", ["text-prime", "prime", "anthropic/text-prime"])
async def test_a_virtual_model_is_shown_by_the_name_that_was_asked_for_and_costs_what_served(
    tmp_path: Path, asked: str, stream: bool
) -> None:
    async with ScriptedUpstream(OK) as up, open_gateway(tmp_path, up.url, more=VIRTUAL) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(OK, scripts.refuse(529), OK)
        for served, cost in ((FIRST, FIRST_COST), (THEN, THEN_COST)):
            answer = await gateway.ask(alice, model=asked, stream=stream)
            assert (answer.status, answer.headers["x-gateway-model"], shown_model(answer, stream)) == (200, served, asked)
            assert up.journal[-1].model == served
            row = (await gateway.usage_rows())[-1]
            assert (row["model"], row["upstream_model"], row["cost_nanos"], row["flags"]) == ("text-prime", served, cost, "")
            answer.assert_clean()
        assert await gateway.table("select upstream_model, reason, cost_nanos from attempts order by request_id, number") == [
            (FIRST, "ok", FIRST_COST),
            (FIRST, "overloaded", 0),
            (THEN, "ok", THEN_COST),
        ]
        await gateway.assert_settled()


async def test_its_own_five_prices_are_charged_whoever_serves_and_what_we_pay_is_told_beside(tmp_path: Path) -> None:
    more = "[billing]\nfactor = '1.5'\n" + VIRTUAL + OWN_PRICE
    async with ScriptedUpstream(OK) as up, open_gateway(tmp_path, up.url, more=more) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(OK, scripts.refuse(500), OK)
        for _ in range(2):
            await gateway.ask(alice, model="text-prime")
        own = (1000 * 7_000 + 100 * 70_000) * 3 // 2
        assert [(row["upstream_model"], row["cost_nanos"]) for row in await gateway.usage_rows()] == [(FIRST, own), (THEN, own)]
        assert await gateway.table("select cost_nanos from attempts where reason = 'ok' order by request_id") == [
            (FIRST_COST,),
            (THEN_COST,),
        ]
        await gateway.assert_settled()


async def test_every_upstream_of_the_first_model_comes_before_the_next_model(tmp_path: Path) -> None:
    more = VIRTUAL + f'[[models]]\nid = "{THEN}"\nroutes = [{{ upstream = "up1", model = "their-haiku", factor = "0.9" }}]\n'
    async with (
        ScriptedUpstream(OK) as one,
        ScriptedUpstream(OK) as two,
        open_gateway(tmp_path, one.url, two.url, more=more) as gateway,
    ):
        alice = await gateway.make_user("alice", "10")
        one.when(asks(FIRST), scripts.refuse(429))
        first = await gateway.ask(alice, model="text-prime")
        # up2 is the reserve, and has the first model: it comes before the next model at up1.
        assert first.headers["x-gateway-model"] == FIRST and len(two.journal) == 1
        two.when(asks(FIRST), scripts.refuse(429))
        second = await gateway.ask(alice, model="text-prime")
        assert second.headers["x-gateway-model"] == "their-haiku"
        assert (await gateway.usage_rows())[-1]["cost_nanos"] == THEN_COST * 9 // 10
        assert [found[:2] for found in await gateway.attempts()] == [
            ("up1", 429),
            ("up2", 200),
            ("up2", 429),
            ("up1", 200),
        ]
        # The real model has no such fallback: nobody else answers for it.
        alone = await gateway.ask(alice, model=FIRST)
        assert alone.status == 429 and "x-gateway-model" not in alone.headers
        await gateway.assert_settled()


async def test_a_conversation_that_went_over_stays_and_a_new_one_starts_at_the_first(tmp_path: Path) -> None:
    clock = FakeClock()
    async with ScriptedUpstream(OK) as up, open_gateway(tmp_path, up.url, more=VIRTUAL, clock=clock) as gateway:
        alice = await gateway.make_user("alice", "10")
        old = [{"role": "user", "content": "old talk"}]
        up.script(scripts.refuse(429, retry_after="5"))
        served = [(await gateway.ask(alice, model="text-prime", messages=old)).headers["x-gateway-model"]]
        await gateway.house.writer.run(lambda ledger: None)
        clock.advance(60_000)
        served += [(await gateway.ask(alice, model="text-prime", messages=old)).headers["x-gateway-model"] for _ in range(3)]
        served += [(await gateway.ask(alice, model="text-prime")).headers["x-gateway-model"]]
        assert served == [THEN] * 4 + [FIRST]
        await gateway.assert_settled()


async def test_a_full_upstream_is_no_reason_to_wait_where_another_model_is_free(tmp_path: Path) -> None:
    released = asyncio.Event()
    more = VIRTUAL + "".join(
        f'[[models]]\nid = "{model}"\nroutes = [{{ upstream = "{upstream}" }}]\n'
        for model, upstream in ((FIRST, "small"), (THEN, "up1"))
    )
    small = '[[upstreams]]\nname = "small"\nkind = "anthropic"\nbase_url = "{}"\napi_key = "x"\nmax_concurrent = 1\n'
    async with (
        ScriptedUpstream(scripts.answer(released=released)) as busy,
        ScriptedUpstream(OK) as up,
        open_gateway(tmp_path, up.url, more=more + small.format(busy.url)) as gateway,
    ):
        alice = await gateway.make_user("alice", "10")
        running = asyncio.ensure_future(gateway.ask(alice, model="text-prime"))
        await busy.arrived(1)
        assert (await gateway.ask(alice, model="text-prime", max_tokens=7)).headers["x-gateway-model"] == THEN
        released.set()
        assert (await running).headers["x-gateway-model"] == FIRST
        await gateway.assert_settled()


async def test_the_hold_is_for_the_dearest_and_largest_of_those_it_may_end_on(tmp_path: Path) -> None:
    """haiku-4-5 writes at most 64,000 tokens and is what the list says of the virtual model; sonnet-5-5 may write 128,000."""
    async with ScriptedUpstream(OK) as up, open_gateway(tmp_path, up.url, more=VIRTUAL) as gateway:
        alice = await gateway.make_user("alice", "10")
        await gateway.ask(alice, model="text-prime", max_tokens=128_000)
        ((held,),) = await gateway.table("select amount_nanos from holds")
        assert held >= 128_000 * 10_000
        await gateway.assert_settled()


async def test_only_what_a_key_may_ask_for_counts_not_what_serves_it(tmp_path: Path) -> None:
    async with ScriptedUpstream(OK) as up, open_gateway(tmp_path, up.url, more=VIRTUAL) as gateway:
        alice = await gateway.make_user("alice", "10", models=frozenset({"text-prime"}))
        assert (await gateway.ask(alice, model="prime")).status == 200
        assert (await gateway.ask(alice, model=FIRST)).status == 403
        bob = await gateway.make_user("bob", "10", models=frozenset({FIRST}))
        assert (await gateway.ask(bob, model="text-prime")).status == 403
        await gateway.assert_settled()


async def test_tokens_are_counted_under_the_upstreams_name(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=VIRTUAL) as gateway:
        alice = await gateway.make_user("alice", "10")
        answer = await gateway.ask(alice, path="/v1/messages/count_tokens", model="text-prime", max_tokens=None)
        assert answer.status == 200 and up.journal[0].model == FIRST


async def test_the_list_shows_what_it_serves_both_prices_and_what_multiplies_them(tmp_path: Path) -> None:
    more = "[billing]\nfactor = '2'\n" + VIRTUAL
    more += f'[[models]]\nid = "{FIRST}"\nroutes = [{{ upstream = "up2" }}, {{ upstream = "up1", factor = "0.5" }}]\n'
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, up.url, more=more) as gateway:
        alice = await gateway.make_user("alice")
        shown = (await gateway.get(alice, "/v1/models/text-prime")).json
        assert (shown["serves"], shown["aliases"], shown["max_input_tokens"]) == ([FIRST, THEN], ["prime"], 200_000)
        assert shown["list_price"]["input"] == "2.00" and shown["list_price"]["multipliers"] == {"us": "1.1", "batch": "0.5"}
        # Of the upstream that is asked first: up1, at half of twice the list price.
        assert shown["price"]["input"] == "2.00"
        assert "serves" not in (await gateway.get(alice, f"/v1/models/{FIRST}")).json
        listed = {model["id"]: model["serves"] for model in await acts.perform(gateway.house.desk, "test", "models.list", {})}
        assert (listed["text-prime"], listed[FIRST]) == ([FIRST, THEN], [])


# ── whatever happens ─────────────────────────────────────────────────────────────────────────────────────────────────

MISHAPS: list[Script] = [
    *(scripts.refuse(status) for status in (400, 404, 429, 500, 529)),
    scripts.cut("head"),
    scripts.cut("middle", reply=Reply(usage=SPENT)),
    scripts.error_first(),
    scripts.html(),
]


ROUTES = f"""
[[models]]
id = "{FIRST}"
routes = [{{ upstream = "up1" }}, {{ upstream = "up2", model = "their-sonnet", factor = "1.3" }}]
[[models]]
id = "{THEN}"
routes = [{{ upstream = "up1" }}, {{ upstream = "up3", factor = "0.7" }}]
"""
MEMBERS = {FIRST: FIRST, "their-sonnet": FIRST, THEN: THEN}


@pytest.mark.parametrize("seed", range(6))
async def test_a_request_is_never_charged_for_a_deployment_that_did_not_serve_it(tmp_path: Path, seed: int) -> None:
    """Random failures at three upstreams of two models: each row is one answer of the upstream and model that it names."""
    fate = random.Random(seed)
    clock = FakeClock()
    async with (
        ScriptedUpstream() as one,
        ScriptedUpstream() as two,
        ScriptedUpstream() as three,
        open_gateway(tmp_path, one.url, two.url, three.url, more=VIRTUAL + ROUTES, clock=clock) as gateway,
    ):
        alice = await gateway.make_user("alice", "10")
        ups = {"up1": one, "up2": two, "up3": three}
        told: dict[str, Answer] = {}
        for number in range(40):
            for up in ups.values():
                up.default = fate.choice(MISHAPS) if fate.random() < 0.6 else OK
            answer = await gateway.ask(
                alice,
                model=fate.choice(["text-prime", FIRST]),
                stream=fate.random() < 0.5,
                messages=[{"role": "user", "content": f"talk {number}."}],
                headers={"x-claude-code-session-id": f"session-{fate.randrange(8)}"},
            )
            told[f"talk {number}."] = answer
            await gateway.house.writer.run(lambda ledger: None)
            clock.advance(fate.choice([10, 1_000, 20_000]))
        await gateway.assert_settled()
        rows = {row["request_id"]: row for row in await gateway.usage_rows()}
        prices = {price_id: parse_terms(terms) for price_id, terms in await gateway.table("select id, terms from prices")}
        assert len(rows) > 10 and {row["upstream"] for row in rows.values()} == set(ups)
        for text, answer in told.items():
            row = rows.get(parse_id(answer.request_id) or 0)
            if row is None:
                assert answer.status != 200 or answer.cut
                continue
            price = prices[row["price_id"]]
            billed = [
                (name, seen.billed.model)
                for name, up in ups.items()
                for seen in up.journal
                if text.encode() in seen.body and seen.billed is not None
            ]
            assert (row["upstream"], row["upstream_model"]) in billed
            deployments = gateway.house.walk.router.deployments(row["model"])
            served = next(each for each in deployments if each.place == (row["upstream"], row["upstream_model"]))
            assert price == served.price and price.model == MEMBERS[row["upstream_model"]]
            assert row["cost_nanos"] == cost_nanos(price, Usage(**{name: row[name] for name in Usage.__slots__}))
            assert answer.headers["x-gateway-model"] == row["upstream_model"]


async def test_a_price_change_touches_no_row_and_no_request_in_flight(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with ScriptedUpstream(OK) as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        before = await gateway.ask(alice)
        up.script(scripts.answer(Reply(usage=SPENT), pause=(3, released)))
        running = asyncio.ensure_future(gateway.ask(alice, stream=True))
        await up.arrived(2)
        # As a reload does it: other deployments, for whatever is chosen from now on.
        dearer = parse(settings_text(up.url, more="[billing]\nfactor = '3'"), str(tmp_path / "pagegrid.toml"), {})
        router = gateway.house.walk.router
        router._deployments = build_deployments(dearer, gateway.house.walk.stations)
        after = await gateway.ask(alice)
        released.set()
        assert (await running).status == 200
        rows = await gateway.usage_rows()
        costs = {row["request_id"]: row["cost_nanos"] for row in rows}
        asked = (before, await running, after)
        assert [costs[parse_id(answer.request_id)] for answer in asked] == [FIRST_COST, FIRST_COST, 3 * FIRST_COST]
        first = await acts.perform(gateway.house.desk, "test", "usage.get", {"request_id": before.request_id})
        assert (first["derivation"]["multipliers"], first["derivation"]["cost_nanos"]) == ([], FIRST_COST)
        await gateway.assert_settled()
    async with open_gateway(tmp_path, "http://127.0.0.1:9", more="[billing]\nfactor = '5'") as gateway:
        assert await gateway.usage_rows() == rows
        await gateway.assert_settled()


# ── signed thinking ──────────────────────────────────────────────────────────────────────────────────────────────────

DEMO = '[[upstreams]]\nname = "play"\nkind = "demo"\npriority = 5\n'
BOTH_KINDS = f'{DEMO}[[models]]\nid = "{FIRST}"\nroutes = [{{ upstream = "up1" }}, {{ upstream = "play" }}]\n'


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_signed_thinking_is_refused_rather_than_moved_to_another_kind(tmp_path: Path, stream: bool) -> None:
    async with ScriptedUpstream(scripts.refuse(529)) as up, open_gateway(tmp_path, up.url, more=BOTH_KINDS) as gateway:
        alice = await gateway.make_user("alice", "10")
        refused = await gateway.ask(alice, messages=SIGNED, stream=stream)
        assert refused.status == 529 and refused.error["message"].endswith(
            "It was not moved to an upstream of another kind, which could not read this conversation's signed thinking."
        )
        # Without the signature the other kind takes over, and says what it is.
        plain = [message for message in SIGNED if message["role"] == "user"]
        moved = await gateway.ask(alice, messages=plain, stream=stream)
        assert moved.status == 200 and b"demo" in moved.body
        # It comes back to the kind that signed, although the conversation was served elsewhere meanwhile.
        up.default = OK
        assert b"demo" not in (await gateway.ask(alice, messages=SIGNED, stream=stream)).body
        assert [(row["upstream"], row["cost_nanos"] > 0) for row in await gateway.usage_rows()] == [("play", True), ("up1", True)]
        await gateway.assert_settled()


async def test_while_its_kind_rests_the_client_is_told_when_it_is_back(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(scripts.refuse(429, retry_after="40")) as up,
        open_gateway(tmp_path, up.url, more=BOTH_KINDS) as gateway,
    ):
        alice = await gateway.make_user("alice", "10")
        answers = [await gateway.ask(alice, messages=SIGNED) for _ in range(3)]
        assert [answer.status for answer in answers] == [429] * 3 and len(up.journal) == 2
        assert all("signed thinking" in answer.error["message"] for answer in answers)
        assert 35 <= int(answers[-1].headers["retry-after"]) <= 40
        assert await gateway.attempts() == [("up1", 429, "rate_limited")] * 2
        await gateway.assert_settled()


async def test_a_signature_is_no_hindrance_within_its_kind(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(scripts.refuse(500)) as bad,
        ScriptedUpstream() as good,
        open_gateway(tmp_path, bad.url, good.url) as gateway,
    ):
        alice = await gateway.make_user("alice", "10")
        assert (await gateway.ask(alice, messages=SIGNED)).status == 200 and len(good.journal) == 1
        await gateway.assert_settled()


async def test_a_signature_is_no_hindrance_where_nobody_signs(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, more=DEMO) as gateway:
        alice = await gateway.make_user("alice", "10")
        assert (await gateway.ask(alice, messages=SIGNED)).status == 200
        await gateway.assert_settled()


async def test_thinking_whose_signer_left_the_model_is_told_so(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=BOTH_KINDS) as gateway:
        alice = await gateway.make_user("alice", "10")
        session = {"x-claude-code-session-id": "s"}
        assert (await gateway.ask(alice, headers=session)).status == 200
        router = gateway.house.walk.router
        router._deployments = {FIRST: tuple(each for each in router.deployments(FIRST) if not each.signer)}
        gone = await gateway.ask(alice, messages=SIGNED, headers=session)
        assert (gone.status, gone.error["type"]) == (400, "invalid_request_error")
        assert "without its thinking blocks" in gone.error["message"]
        await gateway.assert_settled()


# ── disabled upstreams ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_disabled_upstream_is_shown_and_never_asked(tmp_path: Path) -> None:
    spare = '[[upstreams]]\nname = "spare"\nkind = "anthropic"\nbase_url = "{}"\nenabled = false\napi_key_env = "NOT_SET"\n'
    async with (
        ScriptedUpstream() as off,
        ScriptedUpstream(scripts.refuse(500)) as up,
        open_gateway(tmp_path, up.url, more=spare.format(off.url)) as gateway,
    ):
        alice = await gateway.make_user("alice", "10")
        assert (await gateway.ask(alice)).status == 502
        desk = gateway.house.desk
        shown = await acts.perform(desk, "test", "upstreams.list", {})
        assert [(each["name"], each["state"], each["models"] > 0) for each in shown] == [
            ("spare", "disabled", False),
            ("up1", "serving", True),
        ]
        assert [each["name"] for each in await acts.perform(desk, "test", "upstreams.test", {})] == ["up1"]
        with pytest.raises(ClientError, match="disabled"):
            await acts.perform(desk, "test", "upstreams.test", {"name": "spare"})
        assert off.journal == []
        await gateway.assert_settled()
