"""Failover as clients live it: what fails rests, others take over, it comes back, and one alone is never closed by us."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from tests.fakes import FakeClock
from tests.gateway_tools import Gateway, ScriptedUpstream, open_gateway
from tests.upstreams import scripts
from tests.upstreams.exchange import Script

STORMS: list[tuple[str, Script]] = [
    ("429", scripts.refuse(429)),
    ("529", scripts.refuse(529)),
    ("500", scripts.refuse(500)),
    ("401", scripts.refuse(401)),
    ("credit", scripts.refuse(400, scripts.CREDIT_EXHAUSTED)),
    ("cut before", scripts.cut("head")),
    ("error event", scripts.error_first()),
]


async def pass_time(gateway: Gateway, clock: FakeClock, ms: int) -> None:
    """What is queued is written first: to a writer that waits, an hour that passes at once is a stall."""
    await gateway.house.writer.run(lambda ledger: None)
    clock.advance(ms)


@pytest.mark.parametrize("storm", [script for _, script in STORMS], ids=[name for name, _ in STORMS])
async def test_a_storm_at_one_upstream_is_felt_by_it_and_not_by_clients(tmp_path: Path, storm: Script) -> None:
    """The failing one sees less than a tenth of the load, and is asked again when its rest is over."""
    clock = FakeClock()
    async with (
        ScriptedUpstream(default=storm) as bad,
        ScriptedUpstream() as good,
        open_gateway(tmp_path, bad.url, good.url, clock=clock) as gateway,
    ):
        users = [await gateway.make_user(name, "10") for name in ("alice", "bob", "carol")]
        statuses: Counter[int] = Counter()
        for number in range(120):
            await pass_time(gateway, clock, 10)
            answer = await gateway.ask(users[number % 3], stream=True, messages=[{"role": "user", "content": f"talk {number}"}])
            statuses[answer.status] += 1
        assert statuses == {200: 120}
        assert 0 < len(bad.journal) < 12
        seen = len(bad.journal)
        bad.default = scripts.ordinary()
        await pass_time(gateway, clock, 3_600_000)
        assert (await gateway.ask(users[0])).status == 200
        assert len(bad.journal) == seen + 1
        await gateway.assert_settled()


async def test_an_upstream_that_is_dead_from_the_start_costs_one_attempt(tmp_path: Path) -> None:
    async with ScriptedUpstream() as good, open_gateway(tmp_path, "http://127.0.0.1:9", good.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        for _ in range(5):
            assert (await gateway.ask(alice)).status == 200
        assert Counter(reason for _, _, reason in await gateway.attempts()) == {"connect": 1, "ok": 5}
        await gateway.assert_settled()


async def test_one_alone_that_blips_shows_its_real_status_and_nothing_of_ours(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.refuse(529), scripts.refuse(500))
        assert [(await gateway.ask(alice)).status for _ in range(4)] == [529, 502, 200, 200]
        await gateway.assert_settled()


async def test_one_alone_that_is_limited_is_asked_once_a_second_and_the_rest_is_told_how_long(tmp_path: Path) -> None:
    clock = FakeClock()
    async with (
        ScriptedUpstream(default=scripts.refuse(429, retry_after="20")) as up,
        open_gateway(tmp_path, up.url, clock=clock) as gateway,
    ):
        alice = await gateway.make_user("alice", "10")
        answers = [await gateway.ask(alice) for _ in range(10)]
        assert {answer.status for answer in answers} == {429} and len(up.journal) == 2
        assert {answer.headers["retry-after"] for answer in answers} == {"20"}
        await pass_time(gateway, clock, 1_000)
        up.default = scripts.ordinary()
        assert (await gateway.ask(alice)).status == 200
        assert (await gateway.ask(alice)).status == 200
        await gateway.assert_settled()


async def test_one_users_poisoned_request_closes_nothing_for_others(tmp_path: Path) -> None:
    """A body that the provider cannot digest: 500 every time, repeated by one user."""
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        mallory, alice = await gateway.make_user("mallory", "10"), await gateway.make_user("alice", "10")
        up.when(lambda seen: b"poison" in seen.body, scripts.refuse(500))
        for _ in range(10):
            poison = await gateway.ask(mallory, messages=[{"role": "user", "content": "poison"}])
            assert poison.status == 502
            assert (await gateway.ask(alice)).status == 200
        assert len(up.journal) == 20
        await gateway.assert_settled()


async def test_an_upstream_that_cuts_streams_rests(tmp_path: Path) -> None:
    clock = FakeClock()
    async with (
        ScriptedUpstream(default=scripts.cut("middle")) as bad,
        ScriptedUpstream() as good,
        open_gateway(tmp_path, bad.url, good.url, clock=clock) as gateway,
    ):
        alice = await gateway.make_user("alice", "10")
        cut = 0
        for number in range(12):
            answer = await gateway.ask(alice, stream=True, messages=[{"role": "user", "content": f"talk {number}"}])
            cut += b"message_stop" not in answer.body
        assert cut == 3 and len(good.journal) == 9
        await gateway.assert_settled()


async def test_parallel_requests_send_one_probe_only(tmp_path: Path) -> None:
    clock, released = FakeClock(), asyncio.Event()
    async with (
        ScriptedUpstream(default=scripts.refuse(429)) as first,
        ScriptedUpstream() as second,
        open_gateway(tmp_path, first.url, second.url, clock=clock) as gateway,
    ):
        alice = await gateway.make_user("alice", "10")
        assert (await gateway.ask(alice)).status == 200
        first.default = scripts.answer(released=released)
        await pass_time(gateway, clock, 30_000)
        talks = [gateway.ask(alice, messages=[{"role": "user", "content": f"talk {number}"}]) for number in range(8)]
        running = [asyncio.ensure_future(talk) for talk in talks]
        await first.arrived(2)
        await second.arrived(8)
        released.set()
        assert {(await talk).status for talk in running} == {200}
        assert (len(first.journal), len(second.journal)) == (2, 8)
        await gateway.assert_settled()
