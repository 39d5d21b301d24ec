"""Streams that do not end well, in all four pairs: told in the client's dialect, never like a clean end, and charged."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.usage import Usage
from tests.gateway_tools import MODEL, until
from tests.proxy.dialects import CHAT, CLIENTS, GPT, IN, MESSAGES, OUT, Client, Pair, cost, open_pair
from tests.upstream import Exchange, Script
from tests.upstreams import chat_replies, replies, scripts
from tests.upstreams.replies import Reply
from tests.upstreams.scripts import CutPoint, CutWay

SPENT = Usage(input_tokens=1000, output_tokens=100)
REPLY = Reply(text=("a" * 35, "b" * 35, "c" * 35, "d" * 35), usage=SPENT)

each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.dialect)
each_upstream = pytest.mark.parametrize("model", ["house-a", "house-o"])


def sends(*parts: bytes, end: bool = True) -> Script:
    """A stream of exactly these bytes, each sent by itself; then its proper end, or silence."""

    async def script(exchange: Exchange) -> None:
        await exchange.head(200, [("content-type", "text/event-stream")])
        for part in parts:
            await exchange.send(part)
            await asyncio.sleep(0.005)
        await (exchange.end() if end else asyncio.Event().wait())

    return script


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": GPT, "choices": [choice]}
    return chat_replies.render_chunk(frame | more)


def events_of(model: str, reply: Reply = REPLY) -> list[bytes]:
    if model == "house-a":
        return [event.data for event in replies.render_stream(reply, MODEL)]
    asked = {"model": GPT, "stream_options": {"include_usage": True}}
    return [event.data for event in chat_replies.render_chunks(reply, chat_replies.OPENAI, asked)]


def held_up_to(pair: Pair, client: Client, model: str) -> int:
    """What the gateway estimates the input of an ordinary body at."""
    return len(json.dumps(client.body(model, stream=True))) // 3 + 502


@pytest.mark.parametrize("way", ["reset", "fin", "clean"])
@pytest.mark.parametrize("point", ["start", "middle", "end"])
@each_client
@each_upstream
async def test_a_stream_that_breaks_off(tmp_path: Path, model: str, client: Client, point: CutPoint, way: CutWay) -> None:
    async with open_pair(tmp_path) as pair:
        pair.upstream(model).script(scripts.cut(point, way, REPLY))
        answer = await pair.ask(client, model, stream=True)
        if model == "house-o" and point == "end" and way == "clean":
            # All but [DONE] was there: nothing can be missing.
            assert answer.status == 200 and not answer.cut
        else:
            assert client.error_within(answer)["type"] == {"anthropic": "api_error", "openai": "server_error"}[client.dialect]
            answer.assert_clean()
            (row,) = await pair.gateway.usage_rows()
            assert row["source"] == "partial"
            assert (
                row["cost_nanos"] <= (1000 if model == "house-a" else max(1000, held_up_to(pair, client, model))) * IN + 100 * OUT
            )
            # It counts against the deployment, however the usage was found.
            ((*_, reason),) = await pair.gateway.attempts()
            assert reason == "cut"
        await pair.assert_settled()


@each_client
@each_upstream
async def test_it_is_charged_the_same_translated_or_not(tmp_path: Path, client: Client, model: str) -> None:
    events = events_of(model)
    for count in range(2, len(events)):
        async with open_pair(tmp_path / str(count)) as pair:
            pair.upstream(model).script(sends(b"".join(events[:count])))
            answer = await pair.ask(client, model, stream=True)
            (row,) = await pair.gateway.usage_rows()
            told = sum(part in answer.body for part in (b"a" * 35, b"b" * 35, b"c" * 35, b"d" * 35))
            reported = any(b'"output_tokens": 100' in event or b'"completion_tokens":100' in event for event in events[:count])
            assert row["output_tokens"] == (100 if reported else told * 10)
            await pair.assert_settled()


# ── ends that are none ───────────────────────────────────────────────────────────────────────────────────────────────

ROLE = chunk({"role": "assistant", "content": ""})
TEXT = chunk({"content": "x" * 35})
USAGE = chunk({}, None, choices=[], usage={"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100})
DONE = chat_replies.DONE


@pytest.mark.parametrize(
    "parts",
    [
        [ROLE, TEXT, DONE],
        [ROLE, TEXT, USAGE, DONE],
        [ROLE + TEXT + USAGE + DONE],
        [ROLE, TEXT, chunk({}, "stop", choices=[{"index": 1, "delta": {}, "finish_reason": "stop"}]), DONE],
        [ROLE, TEXT, b"data: {broken\n\n", USAGE, DONE],
        [ROLE, TEXT, chunk({}, "insufficient_system_resource"), USAGE, DONE],
        [ROLE, TEXT, b"event: error\ndata: {}\n\n"],
        [ROLE, TEXT, b'data: {"error": true}\n\n'],
        [ROLE, TEXT, b'data: {"detail": "no more"}\n\n'],
        [ROLE, TEXT, b'event: error\ndata: "text"\n\n', DONE],
    ],
    ids=["no reason", "no reason but usage", "in one piece", "other choice", "garbage", "gave up", "named error", "error true",
         "detail", "error text"],
)  # fmt: skip
async def test_an_end_without_a_reason_is_no_end_to_an_anthropic_client(tmp_path: Path, parts: list[bytes]) -> None:
    """Its SDKs raise nothing for a stream that stops without message_stop: it would pass for a whole answer."""
    async with open_pair(tmp_path) as pair:
        pair.gpt.script(sends(*parts))
        answer = await pair.ask(MESSAGES, "house-o", stream=True)
        assert b"message_stop" not in answer.body and answer.body.count(b"event: error\n") == 1
        assert b"x" * 35 in answer.body
        (row,) = await pair.gateway.usage_rows()
        assert row["cost_nanos"] > 0
        await pair.assert_settled()


START = replies.render_stream(REPLY, MODEL)[0].data
BLOCK = replies.render_event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
DELTA = replies.render_event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x" * 35}})


@pytest.mark.parametrize(
    "last", [b"event: message_stop\ndata: {oops\n\n", b"event: message_stop\n\n", b"event: message_stop\ndata: 1\n\n"]
)
async def test_an_end_that_cannot_be_read_is_no_end_to_an_openai_client(tmp_path: Path, last: bytes) -> None:
    async with open_pair(tmp_path) as pair:
        pair.claude.script(sends(START, BLOCK, DELTA, last))
        answer = await pair.ask(CHAT, "house-a", stream=True)
        CHAT.error_within(answer)
        await pair.assert_settled()


@pytest.mark.parametrize("together", [False, True])
async def test_what_came_before_garbage_is_delivered_since_it_is_charged(tmp_path: Path, together: bool) -> None:
    garbage = b"event: content_block_delta\ndata: {oops\n\n"
    parts = [START, BLOCK, DELTA, garbage]
    async with open_pair(tmp_path) as pair:
        pair.claude.script(sends(b"".join(parts)) if together else sends(*parts))
        answer = await pair.ask(CHAT, "house-a", stream=True)
        assert b"x" * 35 in answer.body
        CHAT.error_within(answer)
        (row,) = await pair.gateway.usage_rows()
        assert (row["source"], row["input_tokens"], row["output_tokens"]) == ("partial", 1000, 10)
        await pair.assert_settled()


@each_client
@each_upstream
async def test_a_stream_that_says_nothing_is_asked_for_elsewhere(tmp_path: Path, client: Client, model: str) -> None:
    both = {"house-a": "both-a", "house-o": "both-o"}[model]
    other = {"house-a": "house-o", "house-o": "house-a"}[model]
    for script in (sends(DONE), sends(b": hi\n\n", DONE), sends()) if model == "house-o" else (sends(), sends(replies.PING)):
        async with open_pair(tmp_path / str(id(script))) as pair:
            pair.upstream(model).script(script)
            answer = await pair.ask(client, both, stream=True)
            assert client.read(answer, stream=True, translated=False).text == "".join(Reply().text)
            assert len(pair.upstream(other).journal) == 1
            assert [reason for *_, reason in await pair.gateway.attempts()] == ["empty", "ok"]
            await pair.assert_settled()


@pytest.mark.parametrize("count", [1, 3, 5])
@each_client
@each_upstream
async def test_an_error_in_the_middle(tmp_path: Path, client: Client, model: str, count: int) -> None:
    async with open_pair(tmp_path) as pair:
        pair.upstream(model).script(scripts.error_after(count, "overloaded_error", REPLY))
        answer = await pair.ask(client, model, stream=True)
        assert "broken in the middle" in client.error_within(answer)["message"]
        (row,) = await pair.gateway.usage_rows()
        assert row["source"] == "partial"
        await pair.assert_settled()


@pytest.mark.parametrize("kind", ["overloaded_error", "rate_limit_error", "server_error"])
@each_client
@pytest.mark.parametrize("model", ["both-a", "both-o"])
async def test_an_error_at_the_beginning_is_asked_for_elsewhere(tmp_path: Path, client: Client, model: str, kind: str) -> None:
    async with open_pair(tmp_path) as pair:
        (pair.claude if model == "both-a" else pair.gpt).script(scripts.error_first(kind))
        answer = await pair.ask(client, model, stream=True)
        client.read(answer, stream=True, translated=False)
        assert (len(pair.claude.journal), len(pair.gpt.journal)) == (1, 1)
        await pair.assert_settled()


@each_client
@each_upstream
async def test_a_stream_dripped_byte_by_byte_with_other_line_ends_and_comments(
    tmp_path: Path, client: Client, model: str
) -> None:
    reply = Reply(text=("Å ☃", " b"), usage=SPENT, tool="get", tool_input={"a": ["b"]})
    stream = b": one\r\n\r\n" + b"".join(events_of(model, reply)).replace(b"\n", b"\r\n")

    async def drip(exchange: Exchange) -> None:
        await exchange.head(200, [("content-type", "text/event-stream")])
        for at in range(len(stream)):
            await exchange.send(stream[at : at + 1])
            if at % 50 == 0:
                await asyncio.sleep(0)
        await exchange.end()

    own = (client is MESSAGES) == (model == "house-a")
    async with open_pair(tmp_path) as pair:
        pair.upstream(model).script(drip)
        answer = await pair.ask(client, model, stream=True)
        assert answer.status == 200 and not answer.cut
        if not own:
            said = client.read(answer, stream=True)
            assert (said.text, said.calls) == ("Å ☃ b", (("get", {"a": ["b"]}),))
        (row,) = await pair.gateway.usage_rows()
        assert (row["source"], row["cost_nanos"]) == ("reported", cost(SPENT))
        await pair.assert_settled()


# ── the client leaves, the house closes ──────────────────────────────────────────────────────────────────────────────


async def leave_after(pair: Pair, client: Client, model: str, events: int, **fields: Any) -> bytes:
    """Ask for a stream, read so many events, and hang up; what was read."""
    body = client.body(model, stream=True, **fields)
    url, headers = pair.gateway.url + client.path, {"x-api-key": pair.alice.secret}
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as response:
        read = b""
        while read.count(b"\n\n") < events:
            read += await response.content.readany()
        response.close()
    return read


DRAINS = {"0": "drain_seconds = 0", "2": "drain_seconds = 2", "drain": 'on_disconnect = "drain"\ndrain_seconds = 0'}


@pytest.mark.parametrize("drain", DRAINS)
@pytest.mark.parametrize("stage", ["before the head", "before an event", "start", "middle", "end"])
@each_client
@each_upstream
async def test_a_client_that_leaves(tmp_path: Path, client: Client, model: str, stage: str, drain: str) -> None:
    go_on = asyncio.Event()
    total = len(events_of(model))
    at = {"before an event": 0, "start": 1, "middle": total // 2, "end": total - 1}.get(stage, 0)
    async with open_pair(tmp_path, more="[billing]\n" + DRAINS[drain]) as pair:
        up = pair.upstream(model)
        up.script(
            scripts.answer(REPLY, released=go_on) if stage == "before the head" else scripts.answer(REPLY, pause=(at, go_on))
        )
        asking = asyncio.ensure_future(leave_after(pair, client, model, 10**6))
        await up.arrived(1)
        await until(lambda: stage == "before the head" or up.journal[0].events_sent == at)
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        running = list(pair.gateway.house.walk.running.values())
        await until(lambda: all(one.gone for one in running))
        if drain == "0":
            await asyncio.wait_for(up.journal[0].gone.wait(), 3)
        go_on.set()
        await pair.assert_settled()
        rows = await pair.gateway.usage_rows()
        if drain != "0":
            # What comes in time is read to its end, and charged like any other.
            assert [(row["source"], row["cost_nanos"]) for row in rows] == [("reported", cost(SPENT))]
        elif stage.startswith("before"):
            assert rows == [] and await pair.gateway.void_reasons() == ["client_gone"]
        else:
            (row,) = rows
            assert row["source"] == "estimated" and row["cost_nanos"] <= cost(SPENT) + held_up_to(pair, client, model) * IN
            ((*_, reason),) = await pair.gateway.attempts()
            assert reason == "gone"


@each_client
@each_upstream
async def test_a_shutdown_in_the_middle(tmp_path: Path, client: Client, model: str) -> None:
    async with open_pair(tmp_path) as pair:
        up = pair.upstream(model)
        up.script(scripts.answer(REPLY, pause=(6, asyncio.Event())))
        asking = asyncio.ensure_future(pair.ask(client, model, stream=True))
        await until(lambda: up.journal != [] and up.journal[0].events_sent == 6)
        await asyncio.sleep(0.05)
        await pair.gateway.house.drain(0.2)
        assert "restart" in client.error_within(await asking)["message"]
        refused = await pair.ask(client, model)
        assert refused.status == 503 and "shutting down" in client.error(refused)["message"]
        (row,) = await pair.gateway.usage_rows()
        assert row["source"] == "partial"
        await pair.assert_settled()


@each_client
@each_upstream
async def test_silence_is_filled_with_what_the_clients_dialect_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client, model: str
) -> None:
    monkeypatch.setattr("gateway.proxy.relay.PING_AFTER_MS", 100)
    go_on = asyncio.Event()
    async with open_pair(tmp_path, tick_s=0.05) as pair:
        pair.upstream(model).script(scripts.answer(REPLY, pause=(6, go_on)))
        asking = asyncio.ensure_future(pair.ask(client, model, stream=True))
        await asyncio.sleep(0.5)
        go_on.set()
        answer = await asking
        ping = {"anthropic": b'event: ping\ndata: {"type": "ping"}\n\n', "openai": b": keep-alive\n\n"}[client.dialect]
        assert answer.body.count(ping) >= 2
        assert client.read(answer, stream=True, translated=False).text == "".join(REPLY.text)
        await pair.assert_settled()


@each_client
@each_upstream
async def test_a_provider_that_keeps_silent_before_its_first_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client, model: str
) -> None:
    monkeypatch.setattr("gateway.proxy.dispatch.SILENCE_S", 0.1)
    go_on = asyncio.Event()
    async with open_pair(tmp_path) as pair:
        pair.upstream(model).script(scripts.answer(REPLY, pause=(0, go_on)))
        asking = asyncio.ensure_future(pair.ask(client, model, stream=True))
        await asyncio.sleep(0.3)
        go_on.set()
        assert client.read(await asking, stream=True, translated=False).text == "".join(REPLY.text)
        await pair.assert_settled()
