"""Streams of OpenAI's kind that end before they tell their usage: charged by what was seen, and as good or bad for the upstream's
health as those that tell it first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.usage import Usage
from tests.fakes import FakeClock
from tests.gateway_tools import ScriptedUpstream, open_gateway, until
from tests.upstreams import scripts
from tests.upstreams.replies import Reply

MODEL = "house-model"
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
REPLY = Reply(text=("twelve bytes", "twelve bytes", "twelve bytes"), usage=Usage(input_tokens=50, output_tokens=9))


def settings(*urls: str) -> str:
    upstreams = "".join(
        f'[[upstreams]]\nname = "up{number}"\nkind = "openai"\nbase_url = "{url}/v1"\npriority = {number}\n'
        for number, url in enumerate(urls, 1)
    )
    routes = ", ".join(f'{{ upstream = "up{number}" }}' for number, _ in enumerate(urls, 1))
    return f"""[billing]
drain_seconds = 0
{upstreams}
[[models]]
id = "{MODEL}"
routes = [{routes}]
input = "1.00"
output = "10.00"
cache_write_5m = "1.00"
cache_write_1h = "1.00"
cache_read = "0.10"
context_tokens = 100000
max_output_tokens = 10000
"""


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("way", ["reset", "fin", "clean"])
async def test_what_breaks_off_is_partial_and_its_attempt_says_so(tmp_path: Path, path: str, way: scripts.CutWay) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, more=settings(up.url)) as gateway:
        alice = await gateway.make_user("alice")
        up.script(scripts.answer(REPLY, cut_at="middle", cut_how=way, pace_s=0.03))
        answer = await gateway.ask(alice, path=path, model=MODEL, stream=True)
        assert answer.status == 200 and answer.cut
        [row] = await gateway.usage_rows()
        assert (row["source"], row["flags"]) == ("partial", "usage_missing")
        assert row["input_tokens"] > 0 and row["output_tokens"] > 0
        assert await gateway.attempts() == [("up1", 200, "cut")]
        await gateway.assert_settled()


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_who_leaves_pays_what_was_made_and_the_attempt_says_so(tmp_path: Path, path: str) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, more=settings(up.url)) as gateway:
        alice = await gateway.make_user("alice")
        up.script(scripts.answer(REPLY, pause=(3, asyncio.Event())))
        asked = {"model": MODEL, "max_tokens": 100, "stream": True, "messages": [{"role": "user", "content": "say hi"}]}
        async with gateway.session.post(gateway.url + path, json=asked, headers={"x-api-key": alice.secret}) as response:
            await response.content.readany()
            response.close()
        await until(lambda: not gateway.house.walk.running)
        [row] = await gateway.usage_rows()
        assert row["source"] == "estimated"
        assert await gateway.attempts() == [("up1", 200, "gone")]
        await gateway.assert_settled()


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_an_upstream_that_breaks_off_again_and_again_rests(tmp_path: Path, path: str) -> None:
    async with (
        ScriptedUpstream(default=scripts.cut("middle")) as bad,
        ScriptedUpstream() as good,
        open_gateway(tmp_path, more=settings(bad.url, good.url), clock=FakeClock()) as gateway,
    ):
        alice = await gateway.make_user("alice")
        cut = 0
        for number in range(12):
            messages = [{"role": "user", "content": f"talk {number}"}]
            cut += (await gateway.ask(alice, path=path, model=MODEL, stream=True, messages=messages)).cut
        assert cut == 3 and len(good.journal) == 9
        await gateway.assert_settled()
