"""The scripted upstream keeps its promises: rules, queue, journal, and what it says it billed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from gateway.errors import UpstreamError
from gateway.upstreams.base import Outgoing
from gateway.upstreams.transport import HttpTransport
from gateway.usage import Usage
from tests.upstream import Billed, ScriptedUpstream, contains, path_is
from tests.upstreams import scripts
from tests.upstreams.chat_replies import Manner
from tests.upstreams.replies import PING, Reply

RICH = Reply(
    text=("It ", "rains."),
    thinking=("Let me", " see."),
    tool="note",
    tool_input={"a": 1},
    usage=Usage(
        input_tokens=10,
        output_tokens=40,
        cache_write_5m_tokens=3,
        cache_write_1h_tokens=4,
        cache_read_tokens=5,
        web_searches=2,
        speed="fast",
        geography="us",
    ),
)


class Client:
    def __init__(self, up: ScriptedUpstream, transport: HttpTransport) -> None:
        self.up, self.transport = up, transport

    async def post(self, *, stream: bool = False, path: str = "/v1/messages", marker: str = "") -> bytes:
        body = json.dumps({"model": "claude-m", "max_tokens": 77, "stream": stream, "marker": marker}).encode()
        incoming = await self.transport.open(Outgoing(self.up.url + path, (), body, stream), connect_s=5, head_s=5)
        parts = []
        while part := await incoming.read():
            parts.append(part)
        return b"".join(parts)

    async def events(self) -> list[dict[str, object]]:
        text = (await self.post(stream=True)).decode()
        return [json.loads(block.partition("data: ")[2]) for block in text.split("\n\n")[:-1]]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    transport = HttpTransport()
    async with ScriptedUpstream() as up:
        yield Client(up, transport)
        await transport.close()


async def test_rules_come_before_the_queue_and_the_queue_before_the_default(client: Client) -> None:
    up = client.up
    up.when(contains(b"special"), scripts.answer(Reply(text=("by rule",))))
    up.when(path_is("/v1/messages/count_tokens"), scripts.counted(7))
    up.script(scripts.answer(Reply(text=("queued",))))
    assert b"by rule" in await client.post(marker="special")
    assert await client.post(path="/v1/messages/count_tokens") == b'{"input_tokens": 7}'
    assert b"queued" in await client.post()
    assert b"scripted upstream" in await client.post()
    assert b"claude-haiku" in await client.post(path="/v1/models")
    assert [seen.number for seen in up.journal] == [1, 2, 3, 4, 5]
    assert [seen.finished for seen in up.journal] == [True] * 5


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_billed_is_in_the_journal(client: Client, stream: bool) -> None:
    client.up.script(scripts.answer(RICH), scripts.refuse(429, retry_after="3"), scripts.whole_max_tokens())
    await client.post(stream=stream)
    await client.post(stream=stream)
    await client.post(stream=stream)
    bills = [seen.billed for seen in client.up.journal]
    assert bills == [Billed("claude-m", RICH.usage), None, Billed("claude-m", Usage(input_tokens=25, output_tokens=77))]


async def test_a_cut_stream_bills_what_was_made(client: Client) -> None:
    for at in ("request", "head", "start", "middle", "end"):
        client.up.script(scripts.cut(at, "fin", RICH))
        with pytest.raises(UpstreamError):
            await client.post(stream=True)
    outputs = [seen.billed.usage.output_tokens if seen.billed else None for seen in client.up.journal]
    assert outputs[:3] == [None, None, 0] and outputs[4] == 40
    assert outputs[3] is not None and 0 < outputs[3] < 40


async def test_blocks_and_cache_classes(client: Client) -> None:
    client.up.script(scripts.answer(RICH))
    events = await client.events()
    blocks = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]  # type: ignore[index]
    search = ["server_tool_use", "web_search_tool_result"]
    assert blocks == ["thinking", *search, *search, "text", "tool_use"]
    usage = events[-2]["usage"]
    assert usage == {
        "input_tokens": 10,
        "cache_creation_input_tokens": 7,
        "cache_read_input_tokens": 5,
        "output_tokens": 40,
        "service_tier": "standard",
        "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
        "server_tool_use": {"web_search_requests": 2},
        "speed": "fast",
        "inference_geo": "us",
    }


@pytest.mark.parametrize(("reporting", "with_usage"), [("full", 1), ("none", 0), ("start_only", 0), ("cumulative", 4)])
async def test_how_much_usage_is_told(client: Client, reporting: str, with_usage: int) -> None:
    client.up.script(scripts.answer(Reply(reporting=reporting)))  # type: ignore[arg-type]
    events = await client.events()
    assert sum("usage" in event for event in events if event["type"] == "message_delta") == with_usage
    assert ("usage" in events[0]["message"]) == (reporting != "none")  # type: ignore[operator]


async def test_pings_errors_and_injected_bytes(client: Client) -> None:
    client.up.script(
        scripts.answer(Reply(pings=0), quiet=(1, 3, 0.001), inject={0: b": hello\n\n"}),
        scripts.error_first(),
        scripts.error_after(2),
        scripts.huge_event(300_000),
        scripts.html(),
    )
    stream = await client.post(stream=True)
    assert stream.startswith(b": hello\n\nevent: message_start") and stream.count(PING) == 3
    assert (await client.post(stream=True)).startswith(b"event: error\n")
    assert (await client.post(stream=True)).count(b"event: ") == 3
    assert max(map(len, (await client.post(stream=True)).split(b"\n"))) > 300_000
    assert (await client.post()).startswith(b"<html>")


async def test_gates_hold_an_answer_back(client: Client) -> None:
    released = asyncio.Event()
    client.up.script(scripts.answer(released=released))
    posting = asyncio.create_task(client.post())
    await client.up.arrived(1)
    await asyncio.sleep(0.01)
    assert not posting.done()
    released.set()
    assert await posting


async def test_an_error_in_a_script_is_not_lost() -> None:
    async def broken(exchange: object) -> None:
        raise ZeroDivisionError

    transport = HttpTransport()
    with pytest.raises(ZeroDivisionError):
        async with ScriptedUpstream(default=broken) as up:
            client = Client(up, transport)
            with pytest.raises(UpstreamError):
                await client.post()
    await transport.close()


@pytest.fixture
async def sdk(client: Client) -> AsyncIterator[AsyncOpenAI]:
    """The official client, pointed at the scripted upstream."""
    async with AsyncOpenAI(api_key="sk-test", base_url=client.up.url + "/v1", max_retries=0) as sdk:
        yield sdk


HI: list[Any] = [{"role": "user", "content": "hi"}]
CHATTY = Reply(
    text=("It ", "rains."),
    tool="note",
    tool_input={"a": 1},
    more_tools=(("look", {"b": [2]}),),
    usage=Usage(input_tokens=10, output_tokens=40, cache_read_tokens=5),
)


async def test_the_official_sdk_reads_a_whole_chat(client: Client, sdk: AsyncOpenAI) -> None:
    client.up.script(scripts.answer(CHATTY))
    answer = await sdk.chat.completions.create(model="gpt-m", messages=HI, n=2)
    assert [choice.message.content for choice in answer.choices] == ["It rains."] * 2
    calls = answer.choices[0].message.tool_calls or []
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls if call.type == "function"] == [
        ("note", {"a": 1}),
        ("look", {"b": [2]}),
    ]
    assert answer.usage is not None and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (15, 40)
    seen = client.up.journal[0]
    assert (seen.path, seen.header("authorization")) == ("/v1/chat/completions", "Bearer sk-test")
    assert seen.billed == Billed("gpt-m", CHATTY.usage)


async def test_the_official_sdk_puts_a_streamed_chat_together(client: Client, sdk: AsyncOpenAI) -> None:
    client.up.script(scripts.answer(CHATTY))
    async with sdk.chat.completions.stream(model="gpt-m", messages=HI, stream_options={"include_usage": True}) as stream:
        async for _ in stream:
            pass
        message = (await stream.get_final_completion()).choices[0].message
    assert message.content == "It rains."
    assert [call.function.arguments for call in message.tool_calls or []] == ['{"a": 1}', '{"b": [2]}']
    assert client.up.journal[0].billed == Billed("gpt-m", CHATTY.usage)


@pytest.mark.parametrize(("asked", "told"), [(False, 0), (True, 1)])
async def test_usage_is_told_to_who_asks(client: Client, sdk: AsyncOpenAI, asked: bool, told: int) -> None:
    stream = await sdk.chat.completions.create(model="m", messages=HI, stream=True, stream_options={"include_usage": asked})
    chunks = [chunk async for chunk in stream]
    assert sum(chunk.usage is not None for chunk in chunks) == told
    assert all(chunk.choices for chunk in chunks[: len(chunks) - told])
    assert chunks[-1 - told].choices[0].finish_reason == "stop"


async def test_chats_are_refused_broken_and_left_without_an_end_in_openais_words(client: Client, sdk: AsyncOpenAI) -> None:
    client.up.script(scripts.refuse(429, retry_after="3"), scripts.error_first(), scripts.answer(chat=Manner(done=False)))
    with pytest.raises(openai.RateLimitError) as caught:
        await sdk.chat.completions.create(model="m", messages=HI)
    assert caught.value.code == "rate_limit_exceeded" and caught.value.response.headers["retry-after"] == "3"
    with pytest.raises(openai.APIError, match="Overloaded"):
        async for _ in await sdk.chat.completions.create(model="m", messages=HI, stream=True):
            pass
    stream = await client.post(stream=True, path="/v1/chat/completions")
    assert b"[DONE]" not in stream and b'"finish_reason":"stop"' in stream
    assert [seen.billed for seen in client.up.journal[:2]] == [None, None]


async def test_a_cut_chat_bills_what_was_made(client: Client) -> None:
    for at in ("request", "head", "start", "middle", "end"):
        client.up.script(scripts.cut(at, "fin", CHATTY))
        with pytest.raises(UpstreamError):
            await client.post(stream=True, path="/v1/chat/completions")
    outputs = [seen.billed.usage.output_tokens if seen.billed else None for seen in client.up.journal]
    assert outputs[:3] == [None, None, 0] and outputs[4] == 40
    assert outputs[3] is not None and 0 < outputs[3] < 40


async def test_the_official_sdk_lists_the_models(sdk: AsyncOpenAI) -> None:
    assert [model.id async for model in await sdk.models.list()] == ["claude-sonnet-5-5", "claude-haiku-5-5"]
