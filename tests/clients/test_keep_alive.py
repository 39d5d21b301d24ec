"""Upstreams that fall silent: what the gateway says meanwhile reaches every client, and disturbs none.

The waits of twenty and fifteen seconds are a twentieth of one here, and every event comes in two halves with a longer silence
before each, so that a sign of life stands wherever one can: before the first event, between any two, and never inside of one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from gateway.usage import Usage
from gateway.wire.anthropic import PING
from gateway.wire.openai import KEEP_ALIVE
from tests.clients import test_anthropic_js, test_litellm, test_openai_js
from tests.clients.test_claude_code import as_bearer
from tests.clients.tools import GPT, Scene, claude, needs_claude, needs_js, needs_litellm, needs_openai_js, open_scene
from tests.gateway_tools import MODEL
from tests.upstreams import scripts
from tests.upstreams.exchange import Exchange, Script
from tests.upstreams.replies import Reply

pytestmark = pytest.mark.clients

SILENCE_S = 0.05
GAP_S = 0.08
EITHER = pytest.mark.parametrize("model", [MODEL, GPT])
RICH = Reply(
    thinking=("Let me see.",),
    text=("The weather, ", "ä ö 🌦, ", "in a moment."),
    tool="get_weather",
    tool_input={"town": "Köln"},
    more_tools=(("get_weather", {"town": "Oslo"}),),
    usage=Usage(input_tokens=1000, output_tokens=90, cache_read_tokens=300),
    pings=0,
)
SAY_HI: Any = [{"role": "user", "content": "say hi"}]
PARAMETERS: Any = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
CALLS = [("get_weather", {"town": "Köln"}), ("get_weather", {"town": "Oslo"})]


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr("gateway.proxy.dispatch.SILENCE_S", SILENCE_S)
    monkeypatch.setattr("gateway.proxy.relay.PING_AFTER_MS", int(SILENCE_S * 1000))
    async with open_scene(tmp_path, tick_s=0.02) as opened:
        opened.up.default = halting(scripts.answer(RICH))
        yield opened


def halting(script: Script) -> Script:
    async def halted(exchange: Exchange) -> None:
        send = exchange.send

        async def in_halves(data: bytes) -> None:
            half = len(data) // 2
            for part in (data[:half], data[half:]) if exchange.seen.stream else (data,):
                await asyncio.sleep(GAP_S)
                await send(part)

        exchange.send = in_halves  # type: ignore[method-assign]
        await script(exchange)

    return halted


async def assert_kept_alive(scene: Scene, sign: bytes, count: int = 1) -> None:
    """Signs of life before the first event and after, whole, and nothing else that the answer is not made of."""
    streams = [visit for visit in scene.asked if visit.json.get("stream") is True]
    assert len(streams) == count
    for visit in streams:
        body = visit.body_of_answer
        assert body.startswith(sign) and body.count(sign) >= 5
        for event in body.replace(sign, b"").split(b"\n\n")[:-1]:
            data = event.partition(b"data: ")[2]
            assert data == b"[DONE]" or json.loads(data)
    assert {row["source"] for row in await scene.gateway.usage_rows()} == {"reported"}
    await scene.assert_settled()


# ── Anthropic clients ────────────────────────────────────────────────────────────────────────────────────────────────


@EITHER
async def test_the_anthropic_sdk(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    tools: Any = [{"name": "get_weather", "input_schema": PARAMETERS}]
    asked: Any = {"model": model, "max_tokens": 200, "messages": SAY_HI, "tools": tools}
    async with anthropic.AsyncAnthropic(api_key=alice.secret, base_url=scene.url) as client:
        async with client.messages.stream(**asked) as stream:
            message = await stream.get_final_message()
        whole = await client.messages.create(**asked)
    blocks = [block for block in message.content if block.type != "thinking"]
    assert blocks[0].text == "".join(RICH.text)
    assert [(block.name, block.input) for block in blocks[1:]] == CALLS
    assert (message.stop_reason, message.usage.output_tokens) == ("tool_use", 90)
    assert [block.type for block in message.content] == [block.type for block in whole.content]
    assert message.usage.input_tokens == whole.usage.input_tokens == 1000
    await assert_kept_alive(scene, PING)


@EITHER
@needs_js
async def test_the_anthropic_js_sdk(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    came = await test_anthropic_js.turn(scene, alice, "stream", PAGEGRID_MODEL=model)
    blocks = [block for block in came["message"]["content"] if block["type"] != "thinking"]
    assert blocks[0]["text"] == "".join(RICH.text)
    assert [(block["name"], block["input"]) for block in blocks[1:]] == CALLS
    await assert_kept_alive(scene, PING)


@EITHER
@needs_claude
async def test_claude_code(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    home = scene.home()
    (home / "note.txt").write_text("the secret word is kumquat")
    read = Reply(text=("Let me look.",), tool="Read", tool_input={"file_path": str(home / "note.txt")}, pings=0)
    scene.up.script(halting(scripts.answer(read)), halting(scripts.answer(Reply(text=("It is ", "kumquat."), pings=0))))
    ran = await claude(scene, as_bearer(alice), "--model", model, "--allowedTools", "Read", home=home)
    assert (ran.json["result"], ran.json["num_turns"]) == ("It is kumquat.", 2)
    assert b"kumquat" in scene.served[1].body
    await assert_kept_alive(scene, PING, count=2)


# ── OpenAI clients ───────────────────────────────────────────────────────────────────────────────────────────────────


@EITHER
async def test_the_openai_sdk(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]
    asked: Any = {"model": model, "messages": SAY_HI, "tools": tools, "stream_options": {"include_usage": True}}
    client = openai.AsyncOpenAI(api_key=alice.secret, base_url=f"{scene.url}/v1")
    async with client, client.chat.completions.stream(**asked) as stream:
        final = await stream.get_final_completion()
        # The helper passes over what is no chunk. Who takes the chunks as they come reads choices[0] of each but that of usage.
        *chunks, last = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
    assert all(len(chunk.choices) == 1 for chunk in chunks) and last.choices == []
    (choice,) = final.choices
    assert (choice.message.content, choice.finish_reason) == ("".join(RICH.text), "tool_calls")
    assert choice.message.tool_calls is not None
    assert [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls] == CALLS
    assert final.usage is not None and final.usage.total_tokens == 1390
    await assert_kept_alive(scene, KEEP_ALIVE, count=2)


@EITHER
@needs_openai_js
async def test_the_openai_js_sdk(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    came = await test_openai_js.turn(scene, alice.secret, "stream", model)
    (choice,) = came["completion"]["choices"]
    assert choice["message"]["content"] == "".join(RICH.text)
    calls = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in choice["message"]["tool_calls"]]
    assert calls == CALLS
    await assert_kept_alive(scene, KEEP_ALIVE)


# ── either ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("surface", "model", "sign"), [("openai", MODEL, KEEP_ALIVE), ("anthropic", GPT, PING)])
@needs_litellm
async def test_litellms_sdk(scene: Scene, surface: str, model: str, sign: bytes) -> None:
    alice = await scene.gateway.make_user("alice")
    ran = await test_litellm.turns(scene, alice, surface, model)
    assert ran.code == 0, ran.err
    message = ran.json["stream"]["choices"][0]["message"]
    assert message["content"] == "".join(RICH.text)
    assert [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message["tool_calls"]] == CALLS
    assert ran.json["broken"] is None, "nothing breaks off here"
    await assert_kept_alive(scene, sign, count=2)
