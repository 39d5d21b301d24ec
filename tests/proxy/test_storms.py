"""Storms: a minute of an upstream that fails, and three thousand requests against upstreams that do everything wrong."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

import aiohttp

from gateway.pricing import cost_nanos
from gateway.usage import Usage
from tests.fakes import FakeClock
from tests.gateway_tools import MODEL, Gateway, ScriptedUpstream, User, open_gateway
from tests.upstream import Script
from tests.upstreams import scripts
from tests.upstreams.exchange import Exchange
from tests.upstreams.replies import Reply

USAGE = Usage(input_tokens=500, output_tokens=100)
FINE = scripts.answer(Reply(text=("Hi",), usage=USAGE, pings=0))
PER_SECOND = 100
STEP_MS = 100


async def ask_for(gateway: Gateway, user: User, clock: FakeClock, seconds: int) -> Counter[int]:
    """100 requests a second, each of a conversation of its own, ten at a time; the clock is moved on between them."""
    statuses: Counter[int] = Counter()
    for _ in range(seconds * 1000 // STEP_MS):
        began = clock.now_ms()
        answers = await asyncio.gather(
            *(
                gateway.ask(user, messages=[{"role": "user", "content": f"{began}-{number}"}], stream=number % 2 == 0)
                for number in range(PER_SECOND * STEP_MS // 1000)
            )
        )
        statuses.update(answer.status for answer in answers)
        clock.advance(STEP_MS)
    return statuses


async def test_a_minute_of_529_at_100_requests_a_second_is_felt_by_nobody_and_over_within_half_a_minute(tmp_path: Path) -> None:
    clock = FakeClock()
    async with (
        ScriptedUpstream(default=FINE) as one,
        ScriptedUpstream(default=FINE) as two,
        open_gateway(tmp_path, one.url, two.url, clock=clock) as gateway,
    ):
        alice = await gateway.make_user("alice", "1000")
        assert await ask_for(gateway, alice, clock, 1) == {200: 100}
        assert (len(one.journal), len(two.journal)) == (100, 0)
        one.default = scripts.refuse(529)
        assert await ask_for(gateway, alice, clock, 60) == {200: 6_000}
        # It is asked by those that were on their way when it began to fail, and then by one probe after each rest.
        assert len(one.journal) - 100 < 600
        assert len(one.journal) - 100 < 30
        one.default = FINE
        recovered_s = 0
        while not one.journal[-1].billed:
            assert await ask_for(gateway, alice, clock, 1) == {200: 100}
            recovered_s += 1
            assert recovered_s <= 30
        before = len(one.journal)
        assert await ask_for(gateway, alice, clock, 1) == {200: 100}
        assert len(one.journal) - before == 100
        await gateway.assert_settled()


def faults(dice: random.Random) -> Script:
    """Mostly answers; otherwise anything that upstreams were seen to do."""
    usage = Usage(
        input_tokens=dice.randrange(0, 900),
        output_tokens=dice.randrange(1, 100),
        cache_read_tokens=dice.choice([0, 0, 5_000]),
        cache_write_5m_tokens=dice.choice([0, 0, 300]),
        web_searches=dice.choice([0, 0, 0, 1]),
    )
    reply = Reply(usage=usage, reporting=dice.choice(["full", "full", "full", "cumulative", "none", "start_only"]))
    wrong = (
        *(scripts.refuse(status) for status in (400, 404, 413, 429, 500, 503, 529)),
        *(
            scripts.cut(at, how, reply)
            for at in ("request", "head", "start", "middle", "end")
            for how in ("reset", "fin", "clean")
        ),
        *(scripts.error_first(), scripts.error_after(2, reply=reply), scripts.html(), scripts.html(502), scripts.zipped()),
        *(scripts.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnot"), scripts.redirect("http://127.0.0.1:1/")),
    )
    return dice.choice(wrong) if dice.random() < 0.4 else scripts.answer(reply, pace_s=dice.choice([0, 0, 0.001]))


async def leave_early(gateway: Gateway, user: User, after: int) -> None:
    """Ask for a stream and go away after some of it."""
    body = {"model": MODEL, "max_tokens": 100, "stream": True, "messages": [{"role": "user", "content": "bye"}]}
    async with aiohttp.ClientSession() as session:
        try:
            async with session.post(gateway.url + "/v1/messages", json=body, headers={"x-api-key": user.secret}) as response:
                await response.content.readany() if after else None
                response.close()
        except aiohttp.ClientError:
            pass


async def test_of_3000_requests_against_faulty_upstreams_every_dollar_is_explained(tmp_path: Path) -> None:
    dice = random.Random(20261120)

    async def anything(exchange: Exchange) -> None:
        with suppress(OSError):  # they had left before it could be cut
            await faults(dice)(exchange)

    more = "[billing]\ndrain_seconds = 0.05\n[timeouts]\nfirst_byte_stream_s = 0.5\nfirst_byte_s = 0.5\nidle_s = 0.5\n"
    async with (
        ScriptedUpstream(default=anything) as one,
        ScriptedUpstream(default=anything) as two,
        ScriptedUpstream(default=anything) as three,
        open_gateway(tmp_path, one.url, two.url, three.url, more=more) as gateway,
    ):
        users = [await gateway.make_user(f"user{number}", "1000") for number in range(10)]
        left = 3_000

        async def ask_on(user: User) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                if dice.random() < 0.05:
                    await leave_early(gateway, user, dice.randrange(2))
                else:
                    text = f"request {left}"
                    await gateway.ask(user, stream=dice.random() < 0.6, messages=[{"role": "user", "content": text}])
                # What rests after so many failures comes back at once: the point is money, not calm.
                gateway.house.walk.router.forget(f"up{1 + left % 3}")

        await asyncio.gather(*(ask_on(user) for user in users for _ in range(6)))
        await gateway.assert_settled()

        columns = "request_id, upstream, upstream_request_id, reason, cost_nanos"
        attempts = {
            (row[1], row[2]): row
            for row in await gateway.table(f"select {columns} from attempts where upstream_request_id <> ''")
        }
        usage = {row["request_id"]: row for row in await gateway.usage_rows()}
        price = gateway.house.walk.router.deployments(MODEL)[0].price
        explained: Counter[str] = Counter()
        billed_nanos = charged_nanos = 0
        settled: set[int] = set()
        for name, up in (("up1", one), ("up2", two), ("up3", three)):
            for seen in up.journal:
                if seen.billed is None:
                    continue
                cost = cost_nanos(price, seen.billed.usage)
                billed_nanos += cost
                attempt = attempts.get((name, f"req_upstream_{seen.number}"))
                row = None if attempt is None else usage.get(attempt[0])
                if attempt is None:
                    explained["no head came"] += cost
                elif row is None or row["upstream"] != name or attempt[0] in settled or (not attempt[4] and row["cost_nanos"]):
                    # A failed attempt: told by its reason, whoever served the request afterwards.
                    assert attempt[3] != "ok"
                    explained[f"attempt {attempt[3]}"] += cost
                elif row["source"] == "reported":
                    settled.add(attempt[0])
                    charged_nanos += row["cost_nanos"]
                    assert row["cost_nanos"] == cost, (attempt, seen.billed)
                else:
                    settled.add(attempt[0])
                    charged_nanos += row["cost_nanos"]
                    explained[row["source"]] += cost - row["cost_nanos"]
        # Nobody paid for anything that was not served, and everything that was served was paid or is explained.
        assert settled == set(usage)
        assert charged_nanos == sum(row["cost_nanos"] for row in usage.values())
        assert billed_nanos == charged_nanos + sum(explained.values())
        assert charged_nanos == sum(1000 * 10**9 - gateway.balance(user) for user in users)
        ((revenue,),) = await gateway.table("select balance_nanos from accounts where kind = 'revenue'")
        assert revenue == charged_nanos
        assert len(usage) > 1_500 and {"reported", "estimated", "partial"} <= {row["source"] for row in usage.values()}
