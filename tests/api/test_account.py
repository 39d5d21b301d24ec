"""GET /v1/key, /v1/credits, /v1/usage: what a key's owner may know, and nobody else."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from pathlib import Path

from gateway.access import Own
from gateway.desk import acts
from gateway.ids import render_id
from gateway.money import format_usd
from gateway.usage import Usage
from tests.gateway_tools import MODEL, ScriptedUpstream, open_gateway, until
from tests.upstreams import scripts
from tests.upstreams.replies import Reply


async def test_the_key_and_its_limits(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        own = Own((("rpm", 5), ("spend_per_day_nanos", 2 * 10**9)), frozenset({MODEL}), (ip_network("127.0.0.0/8"),))
        alice = await gateway.make_user("alice", own=own, expires_at_ms=4_102_444_800_000)
        await gateway.ask(alice)
        answer = await gateway.get(alice, "/v1/key")
        answer.assert_clean()
        assert answer.json == {
            "type": "key",
            "id": alice.key.id,
            "name": "alice's key",
            "hint": alice.secret[:17],
            "user": "alice",
            "plan": "default",
            "limits": {
                "rpm": {
                    "limit": 5,
                    "used": 1,
                    "reserved": 0,
                    "remaining": 4,
                    "resets_at": answer.json["limits"]["rpm"]["resets_at"],
                },
                "spend_per_day": {
                    "limit_usd": "2.00",
                    "used_usd": format_usd(10 * 10**9 - gateway.balance(alice)),
                    "reserved_usd": "0.00",
                    "remaining_usd": format_usd(gateway.balance(alice) - 8 * 10**9),
                    "resets_at": answer.json["limits"]["spend_per_day"]["resets_at"],
                },
            },
            "models": [MODEL],
            "addresses": ["127.0.0.0/8"],
            "expires_at": "2100-01-01T00:00:00Z",
        }
        assert answer.json["limits"]["spend_per_day"]["resets_at"].endswith("T00:00:00Z")
        assert alice.secret not in answer.body.decode()
        bob = await gateway.make_user("bob")
        answer = await gateway.get(bob, "/v1/key")
        assert (answer.json["limits"], answer.json["models"], answer.json["expires_at"]) == (
            {},
            None,
            None,
        )
        assert (await gateway.get(None, "/v1/key")).status == 401


async def test_credits_while_something_runs(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with ScriptedUpstream(default=scripts.answer(released=released)) as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        asking = asyncio.ensure_future(gateway.ask(alice))
        await up.arrived(1)
        credits = (await gateway.get(alice, "/v1/credits")).json
        assert credits["balance_nanos"] == 10 * 10**9 and credits["held_nanos"] > 0 and credits["currency"] == "USD"
        assert credits["available_nanos"] == credits["balance_nanos"] - credits["held_nanos"]
        assert credits["balance_micro"] == 10_000_000
        released.set()
        await asking
        assert (await gateway.get(alice, "/v1/credits")).json["held_nanos"] == 0
        await gateway.assert_settled()


async def test_usage_is_the_owners_and_there_at_once(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice, bob = await gateway.make_user("alice"), await gateway.make_user("bob")
        spent = Usage(
            input_tokens=1000, output_tokens=100, cache_read_tokens=50, cache_write_5m_tokens=7, cache_write_1h_tokens=3
        )
        up.script(scripts.answer(Reply(usage=spent)), scripts.answer(Reply(usage=spent)))
        for stream in (False, True):
            answer = await gateway.ask(alice, stream=stream)
            found = (await gateway.get(alice, f"/v1/usage/{answer.request_id}")).json
            assert (found["input_tokens"], found["output_tokens"], found["cache_read_input_tokens"]) == (1000, 100, 50)
            assert found["cache_creation"] == {"ephemeral_5m_input_tokens": 7, "ephemeral_1h_input_tokens": 3}
            assert (found["model"], found["source"], len(found["attempts"])) == (MODEL, "reported", 1)
            assert found["cost_nanos"] == 1000 * 2_000 + 100 * 10_000 + 50 * 100 + 7 * 2_500 + 3 * 4_000
            if not stream:
                assert str(found["cost_micro"]) == answer.headers["x-gateway-cost-micro"]
            for stranger in (bob, None):
                refused = await gateway.get(stranger, f"/v1/usage/{answer.request_id}")
                assert refused.status == (404 if stranger else 401)
        # By the provider's id too; ids that are none.
        assert (await gateway.get(alice, "/v1/usage/req_upstream_1")).json["cost_nanos"] == found["cost_nanos"]
        assert (await gateway.get(bob, "/v1/usage/req_upstream_1")).status == 404
        for nothing in ("req_0000000000000", "req_ZZZZZZZZZZZZZ", "x", "req_" + "1" * 5000, "%00", "'--"):
            assert (await gateway.get(alice, f"/v1/usage/{nothing}")).status == 404, nothing
        await gateway.assert_settled()


async def test_usage_tells_what_was_refunded_and_credits_have_it_back(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice")
        request = (await gateway.ask(alice)).request_id
        found = (await gateway.get(alice, f"/v1/usage/{request}")).json
        assert found["refunded_nanos"] == 0 and gateway.balance(alice) == 10 * 10**9 - found["cost_nanos"]
        await acts.perform(gateway.house.desk, "cli:tester", "wallets.refund", {"request_id": request})
        refunded = (await gateway.get(alice, f"/v1/usage/{request}")).json
        assert refunded == {**found, "refunded_nanos": found["cost_nanos"]}
        assert (await gateway.get(alice, "/v1/credits")).json["available_nanos"] == 10 * 10**9
        await gateway.assert_settled()


async def test_usage_of_a_running_request_and_of_one_that_is_just_being_settled(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice, bob = await gateway.make_user("alice"), await gateway.make_user("bob")
        up.script(scripts.answer(pause=(3, go_on)))
        asking = asyncio.ensure_future(gateway.ask(alice, stream=True))
        await until(lambda: bool(up.journal) and up.journal[0].events_sent == 3)
        (request_id,) = (render_id(number) for number in gateway.house.walk.running)
        assert (await gateway.get(alice, f"/v1/usage/{request_id}")).json["status"] == "running"
        assert (await gateway.get(bob, f"/v1/usage/{request_id}")).status == 404
        async with gateway.writer_held_back():
            go_on.set()
            answer = await asking
            assert answer.request_id == request_id
            # The settle waits in the queue; whoever asks waits for it.
            looking = asyncio.ensure_future(gateway.get(alice, f"/v1/usage/{request_id}"))
            await asyncio.sleep(0.1)
            assert not looking.done()
        assert (await looking).json["source"] == "reported"
        await gateway.assert_settled()
