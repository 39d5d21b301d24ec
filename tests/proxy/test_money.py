"""Money at the walk: races, dry wallets, holds that are outgrown. Each test ends with the audit."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.usage import Usage
from tests.gateway_tools import MODEL, Answer, Gateway, ScriptedUpstream, User, open_gateway, until
from tests.upstreams import replies, scripts
from tests.upstreams.exchange import Exchange
from tests.upstreams.replies import Reply, render_stream

NANOS = 10**9
IN, OUT = 2_000, 10_000


async def sample(gateway: Gateway, user: User, stop: asyncio.Event) -> int:
    """Look at the wallet again and again; how often it was looked at."""
    wallet = gateway.house.walk.book.wallet(user.key.wallet_id)
    looks = 0
    while not stop.is_set():
        assert wallet.balance_nanos >= wallet.held_nanos >= 0
        looks += 1
        await asyncio.sleep(0.002)
    return looks


@asynccontextmanager
async def asking_many(gateway: Gateway, user: User, count: int, **fields: Any) -> AsyncIterator[list[asyncio.Task[Answer]]]:
    """All at once, over as many connections; `gateway.session` would queue beyond a hundred."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        inner = Gateway(gateway.house, gateway.url, session)
        tasks = [asyncio.ensure_future(inner.ask(user, **fields)) for _ in range(count)]
        yield tasks
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_of_200_at_once_only_those_that_the_wallet_covers_reach_the_upstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr("gateway.proxy.admission.RELEASE_WAIT_MS", 300)
    released = asyncio.Event()
    # Each is held at about 548 input and 100 output tokens, and bills just as much as it may: 2,096,000 nanos at most.
    spent = Usage(input_tokens=500, output_tokens=100)
    script = scripts.answer(Reply(usage=spent), released=released)
    async with ScriptedUpstream(default=script) as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "0.042")
        stop = asyncio.Event()
        sampling = asyncio.ensure_future(sample(gateway, alice, stop))
        async with asking_many(gateway, alice, 200, stream=stream) as asking:
            # Until all of them are decided: what was admitted waits at the upstream, the rest is told no.
            await until(lambda: len(up.journal) + sum(task.done() for task in asking) == 200, 30)
            assert len(up.journal) <= 20
            released.set()
        answers = [task.result() for task in asking]
        stop.set()
        assert await sampling > 10
        refused = [answer for answer in answers if answer.status != 200]
        decided = len(up.journal)
        assert len(answers) - len(refused) == decided >= 19
        assert {(answer.status, answer.headers["retry-after"]) for answer in refused} == {(429, "5")}
        assert "Running requests hold the rest" in refused[0].error["message"]
        assert gateway.balance(alice) == 42_000_000 - decided * (500 * IN + 100 * OUT)
        await gateway.assert_settled()


async def test_an_upstream_that_bills_all_of_max_tokens_costs_us_one_request_at_most(tmp_path: Path) -> None:
    """$10, 128,000 tokens, not streamed: 122 of them at once would have billed $312 (LEDGER.md)."""
    async with ScriptedUpstream(default=scripts.whole_max_tokens()) as up, open_gateway(tmp_path, up.url) as gateway:
        mallory = await gateway.make_user("mallory", "10")
        stop = asyncio.Event()
        sampling = asyncio.ensure_future(sample(gateway, mallory, stop))
        async with asking_many(gateway, mallory, 122, model="claude-opus-5-5", max_tokens=128_000) as asking:
            pass
        answers = [task.result() for task in asking]
        stop.set()
        await sampling
        one = 25 * 4_000 + 128_000 * 20_000
        billed = sum(seen.billed.usage.output_tokens for seen in up.journal if seen.billed is not None) * 20_000
        assert {answer.status for answer in answers} == {200, 402, 429}
        assert billed <= 10 * NANOS + one
        ((loss,),) = await gateway.table("select -balance_nanos from accounts where kind = 'loss'")
        assert 0 <= loss <= one
        await gateway.assert_settled()


async def test_a_price_beyond_all_wallets_is_too_much_and_no_error_of_ours(tmp_path: Path) -> None:
    rates = "".join(
        f'{name} = "999999999999"\n' for name in ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read")
    )
    entry = (
        f'[[models]]\nid = "gold"\nroutes = [{{ upstream = "up1" }}]\ncontext_tokens = 9000\nmax_output_tokens = 9000\n{rates}'
    )
    more = f'[billing]\nfactor = "10"\n{entry}'
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=more) as gateway:
        alice = await gateway.make_user("alice")
        assert (await gateway.ask(alice, model="gold", max_tokens=9_000)).status == 402
        await gateway.assert_settled()


async def test_a_dollar_is_enough_for_a_long_conversation_and_five_subagents(tmp_path: Path) -> None:
    """150,000 tokens of which nearly all are read from the cache, max_tokens 128,000: nobody is told to go away.

    Its first turn alone is held at $0.83, and so is what five new subagents with 45,000 tokens each may cost together.
    """

    async def reply(exchange: Any) -> None:
        prompt = len(exchange.seen.body) // 3
        spent = Usage(input_tokens=3, output_tokens=300, cache_write_5m_tokens=500, cache_read_tokens=prompt - 503)
        await scripts.answer(Reply(text=("x" * 500,) * 2, usage=spent), pace_s=0.02)(exchange)

    async with ScriptedUpstream(default=reply) as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "1")

        async def turn(agent: str) -> Answer:
            text = "word " * (27_000 if agent else 90_000)
            system = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
            headers = {"x-claude-code-session-id": "6f1c", "anthropic-version": "2023-06-01"}
            if agent:
                headers["x-claude-code-agent-id"] = agent
            answer = await gateway.ask(
                alice, headers=headers, stream=True, model="claude-opus-5-5", max_tokens=128_000, system=system
            )
            assert answer.status == 200 and answer.events[-1][0] == "message_stop", answer.body[-500:]
            return answer

        await turn("")
        assert len(up.journal[0].body) > 450_000
        # The main agent and five of its subagents, again and again.
        for _ in range(3):
            await asyncio.gather(*(turn(agent) for agent in ("", "a", "b", "c", "d", "e")))
        rows = await gateway.usage_rows()
        assert len(rows) == 19 and {row["source"] for row in rows} == {"reported"}
        assert await gateway.table("select distinct agent from request_details order by agent") == [
            ("",),
            *((x,) for x in "abcde"),
        ]
        await gateway.assert_settled()


async def test_warm_is_what_the_cache_holds_and_no_more(tmp_path: Path) -> None:
    """A conversation that caches nothing is held at full price however often it comes; side requests do not cool a warm one."""
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        long = [{"type": "text", "text": "x" * 30_000, "cache_control": {"type": "ephemeral"}}]
        session = {"x-claude-code-session-id": "s"}
        cached = Reply(usage=Usage(input_tokens=5, output_tokens=1, cache_read_tokens=10_000))
        uncached = Reply(usage=Usage(input_tokens=10_005, output_tokens=1))
        haiku = {"model": "claude-haiku-5-5"}
        for reply, fields in [
            (uncached, {"system": "x" * 30_000}),
            (cached, {"system": long}),  # cold: nothing was cached before
            (cached, {"system": long}),  # warm
            (cached, {}),  # a side request: small
            (cached, {"system": long}),  # still warm
            (cached, {"system": long, **haiku}),  # another model has another cache
            (uncached, {"system": "x" * 30_000}),  # asks for no cache: reads none
        ]:
            up.script(scripts.answer(reply))
            assert (await gateway.ask(alice, headers=session, **fields)).status == 200
        held = [amount for (amount,) in await gateway.table("select amount_nanos from holds order by id")]
        plain, cold, warm, _, still_warm, _, plain_again = held
        assert plain > 10_000 * 2_000 and cold > 10_000 * 2_500 and plain_again > 10_000 * 2_000
        assert warm == still_warm < 4_000_000
        ((haiku_held, terms),) = await gateway.table(
            """
            select h.amount_nanos, p.terms from holds as h, usage as u join prices as p on p.id = u.price_id
            where h.id = u.request_id and h.model = 'claude-haiku-5-5'
            """
        )
        assert haiku_held > 10_000 * json.loads(terms)["rates"]["cache_write_5m"] // 10**6
        await gateway.assert_settled()


# ── held money ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_money_that_is_held_is_waited_for(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with ScriptedUpstream(default=scripts.answer(released=released)) as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "0.003")  # enough for one of 2,090,000 nanos
        first = asyncio.ensure_future(gateway.ask(alice))
        await up.arrived(1)
        second = asyncio.ensure_future(gateway.ask(alice))
        await asyncio.sleep(0.2)
        assert not second.done() and len(up.journal) == 1
        released.set()
        assert [(await first).status, (await second).status] == [200, 200]
        await gateway.assert_settled()


async def test_money_that_stays_held_is_a_429(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.proxy.admission.RELEASE_WAIT_MS", 200)
    released = asyncio.Event()
    async with ScriptedUpstream(default=scripts.answer(released=released)) as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "0.003")
        first = asyncio.ensure_future(gateway.ask(alice))
        await up.arrived(1)
        answer = await gateway.ask(alice)
        assert (answer.status, answer.error["type"], answer.headers["retry-after"]) == (429, "rate_limit_error", "5")
        assert "x-should-retry" not in answer.headers
        released.set()
        await first
        await gateway.assert_settled()


async def test_an_empty_wallet_is_told_what_is_needed(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "0.001")
        answer = await gateway.ask(alice)
        assert (answer.status, answer.error["type"], answer.headers["x-should-retry"]) == (402, "billing_error", "false")
        assert (
            "needed up to $0.0021, available $0.001 (balance $0.001, held by running requests $0.00)" in answer.error["message"]
        )
        assert "credit balance is too low" not in answer.error["message"]
        answer.assert_clean()
        assert up.journal == [] and await gateway.table("select * from holds") == []
        await gateway.assert_settled()


# ── a stream and its hold ────────────────────────────────────────────────────────────────────────────────────────────

SLICES = "[billing]\noutput_hold_tokens = 100\n"


async def test_a_stream_that_outgrows_its_hold_is_raised_in_slices(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=SLICES) as gateway:
        alice = await gateway.make_user("alice", "10")
        spent = Usage(input_tokens=1000, output_tokens=1000)
        up.script(scripts.answer(Reply(text=("x" * 100,) * 35, usage=spent), pace_s=0.002))
        answer = await gateway.ask(alice, stream=True, max_tokens=5000)
        assert answer.events[-1][0] == "message_stop"
        changes = [delta for (delta,) in await gateway.table("select delta_nanos from hold_changes order by number")]
        # The true input replaced the estimate, then slices of 100 tokens or a little more (the price of what had been made too).
        assert changes[0] == 1000 * IN - (await gateway.table("select amount_nanos from holds"))[0][0] + 100 * OUT
        assert len(changes) > 5 and all(100 * OUT <= delta <= 140 * OUT for delta in changes[1:])
        assert gateway.balance(alice) == 10 * NANOS - 1000 * IN - 1000 * OUT
        await gateway.assert_settled()


async def test_a_wallet_that_runs_dry_ends_the_stream_and_refuses_its_repetition(tmp_path: Path) -> None:
    session = {"x-claude-code-session-id": "4c0e"}
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=SLICES) as gateway:
        alice = await gateway.make_user("alice", "0.02")
        # 1000 input tokens cost 0.002: left are 0.018, which is 1800 output tokens.
        reply = Reply(text=("y" * 30,) * 400, usage=Usage(input_tokens=1000, output_tokens=4000))
        up.script(scripts.answer(reply, pace_s=0.001))
        answer = await gateway.ask(alice, headers=session, stream=True, max_tokens=9000)
        assert answer.status == 200 and answer.cut
        name, told = answer.events[-1]
        assert (name, told["error"]["type"], told["request_id"]) == ("error", "billing_error", answer.request_id)
        before = answer.body[: answer.body.rindex(b"event: error")]
        whole = b"".join(event.data for event in replies.render_stream(reply, MODEL))
        assert before.endswith(b"\n\n") and whole.startswith(before)
        async with asyncio.timeout(3):
            await up.journal[0].gone.wait()
        (row,) = await gateway.usage_rows()
        visible = before.count(b"text_delta") * 30
        assert (row["source"], row["output_tokens"]) == ("estimated", -(-visible * 10 // 35))
        assert row["cost_nanos"] == row["paid_nanos"] and gateway.balance(alice) >= 0
        # Claude Code repeats the turn silently, not streamed; that must not reach the upstream, however little it asks for.
        for _ in range(2):
            repeat = await gateway.ask(alice, headers=session, max_tokens=1)
            assert (repeat.status, repeat.error["type"]) == (402, "billing_error")
        assert len(up.journal) == 1
        # The estimate of what was made left something over, enough for another conversation's small question.
        assert (await gateway.ask(alice, max_tokens=1)).status == 200
        await gateway.deposit(alice, "1", "more")
        assert (await gateway.ask(alice, headers=session, max_tokens=1)).status == 200
        await gateway.assert_settled()


async def test_an_input_that_the_wallet_cannot_pay_is_told_before_the_first_byte(tmp_path: Path) -> None:
    """The provider counts more than our estimate from bytes: known at message_start, when nothing has been sent yet."""
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "0.003")
        up.script(scripts.answer(Reply(usage=Usage(input_tokens=5000, output_tokens=5))))
        answer = await gateway.ask(alice, stream=True, max_tokens=50)
        assert (answer.status, answer.error["type"]) == (402, "billing_error")
        (row,) = await gateway.usage_rows()
        # The provider bills it: the wallet pays what it has, the rest is our loss and its debt.
        assert (row["source"], row["input_tokens"], row["paid_nanos"]) == ("estimated", 5000, 3_000_000)
        assert await gateway.table("select owed_nanos from accounts where kind = 'wallet'") == [(row["cost_nanos"] - 3_000_000,)]
        await gateway.assert_settled()


async def test_thinking_in_silence_raises_the_hold_and_can_run_a_wallet_dry(tmp_path: Path) -> None:
    more = "[billing]\noutput_hold_tokens = 100\ntokens_per_second_max = 50\n"
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=more, tick_s=0.02) as gateway:
        alice = await gateway.make_user("alice", "0.02")
        # Visible text is none; each of our ticks counts as a second of thought.
        up.script(scripts.answer(Reply(thinking=("",)), pause=(4, asyncio.Event())))
        answer = await gateway.ask(alice, stream=True, max_tokens=128_000, thinking={"type": "adaptive"})
        assert answer.cut and answer.events[-1][1]["error"]["type"] == "billing_error"
        assert len(await gateway.table("select * from hold_changes")) > 3
        async with asyncio.timeout(3):
            await up.journal[0].gone.wait()
        # It sized the hold; what is billed is what was seen.
        (row,) = await gateway.usage_rows()
        assert (row["input_tokens"], row["output_tokens"]) == (25, 0)
        await gateway.assert_settled()


async def test_two_streams_of_one_wallet_share_what_is_there(tmp_path: Path) -> None:
    """Whoever comes late runs dry; together they never spend more than there is."""
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=SLICES) as gateway:
        alice = await gateway.make_user("alice", "0.02")
        reply = Reply(text=("y" * 30,) * 200, usage=Usage(input_tokens=100, output_tokens=1800))
        up.default = scripts.answer(reply, pace_s=0.001)
        stop = asyncio.Event()
        sampling = asyncio.ensure_future(sample(gateway, alice, stop))
        answers = await asyncio.gather(
            *(gateway.ask(alice, stream=True, max_tokens=5000, metadata={"user_id": f'{{"session_id":"{n}"}}'}) for n in range(3))
        )
        stop.set()
        await sampling
        assert {answer.status for answer in answers} == {200}
        endings = sorted(answer.events[-1][0] for answer in answers)
        assert endings[0] == "error" and all(answer.cut == (answer.events[-1][0] == "error") for answer in answers)
        rows = await gateway.usage_rows()
        assert sum(row["paid_nanos"] for row in rows) == 20_000_000 - gateway.balance(alice)
        await gateway.assert_settled()


async def test_a_short_answer_that_the_wallet_cannot_pay_is_delivered_and_charged_when_it_came_whole(tmp_path: Path) -> None:
    """All its events in one chunk: it was made and is billed, so nobody is served by keeping it back."""
    reply = Reply(text=("short",), usage=Usage(input_tokens=5_000, output_tokens=5), pings=0)

    async def at_once(exchange: Exchange) -> None:
        exchange.seen.bill(MODEL, reply.usage)
        body = b"".join(event.data for event in render_stream(reply, MODEL))
        await exchange.body(200, [("content-type", "text/event-stream")], body)

    async with ScriptedUpstream(default=at_once) as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "0.003")
        answer = await gateway.ask(alice, stream=True, max_tokens=5)
        assert answer.status == 200 and answer.events[-1][0] == "message_stop"
        (row,) = await gateway.usage_rows()
        assert (row["source"], row["cost_nanos"], row["paid_nanos"]) == ("reported", 10_050_000, 3_000_000)
        await gateway.assert_settled()


async def test_a_stream_that_is_cancelled_from_outside_is_charged_for_what_it_made(tmp_path: Path) -> None:
    hold = asyncio.Event()
    async with ScriptedUpstream(default=scripts.answer(pause=(4, hold))) as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "1")
        asking = asyncio.ensure_future(gateway.ask(alice, stream=True))
        await until(lambda: any(gateway.house.walk.streams))
        await until(lambda: all(running.opened for running in gateway.house.walk.running.values()))
        for task in list(gateway.house.walk.tasks):
            task.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        (row,) = await gateway.usage_rows()
        assert row["source"] == "partial" and row["cost_nanos"] > 0
        await gateway.assert_settled()


async def test_a_conversation_has_one_request_at_a_time_held_at_what_its_cache_costs(tmp_path: Path) -> None:
    """Cache a lot once, then ask for other things under the same name, many at once: only one of them is believed."""
    released = asyncio.Event()
    cached = Usage(input_tokens=3, output_tokens=10, cache_write_5m_tokens=100_000)
    async with ScriptedUpstream(default=scripts.answer(Reply(usage=cached))) as up, open_gateway(tmp_path, up.url) as gateway:
        mallory = await gateway.make_user("mallory", "3")
        system = [{"type": "text", "text": "word " * 60_000, "cache_control": {"type": "ephemeral"}}]
        fields: dict[str, Any] = {"headers": {"x-claude-code-session-id": "6f1c"}, "stream": True, "system": system}
        assert (await gateway.ask(mallory, **fields)).status == 200
        up.default = scripts.answer(Reply(usage=cached), released=released)
        wallet = gateway.house.walk.book.wallet(mallory.key.wallet_id)
        running = []
        held = [0]
        for number in range(3):
            running.append(asyncio.ensure_future(gateway.ask(mallory, **fields)))
            await until(lambda number=number: len(up.journal) == 2 + number)  # type: ignore[misc]
            held.append(wallet.held_nanos)
        warm, cold, again = (after - before for before, after in itertools.pairwise(held))
        assert warm * 8 < cold == again
        released.set()
        assert [answer.status for answer in await asyncio.gather(*running)] == [200] * 3
        assert not gateway.house.walk.discounts
        await gateway.assert_settled()
