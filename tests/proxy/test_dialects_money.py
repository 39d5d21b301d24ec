"""What is held and charged, in all four pairs: the same for the same usage, whoever speaks what."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.storage.database import open_reader
from gateway.usage import Usage, tokens_of_bytes
from tests.gateway_tools import MODEL, until
from tests.proxy.dialects import CHAT, CLIENTS, GPT, IN, MESSAGES, OUT, Client, cost, open_pair
from tests.proxy.test_dialects_broken import DONE, ROLE, TEXT, USAGE, chunk, events_of, sends
from tests.upstreams import chat_replies, replies, scripts
from tests.upstreams.chat_replies import Manner
from tests.upstreams.replies import Reply

SPENT = Usage(input_tokens=900, output_tokens=80, cache_read_tokens=100)
REPLY = Reply(text=("Hello", " there"), usage=SPENT)
MANNERS = ("openai", "bare", "deepseek", "groq", "moonshot", "openrouter", "xai")

each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.dialect)
each_upstream = pytest.mark.parametrize("model", ["house-a", "house-o"])
whole_or_stream = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@whole_or_stream
@each_client
@pytest.mark.parametrize("manner", MANNERS)
async def test_what_is_shown_is_what_is_charged_however_a_server_words_it(
    tmp_path: Path, manner: Any, client: Client, stream: bool
) -> None:
    async with open_pair(tmp_path) as pair:
        pair.gpt.script(scripts.answer(REPLY, chat=Manner(usage=manner)))
        options = {"stream_options": {"include_usage": True}} if client is CHAT and stream else {}
        answer = await pair.ask(client, "house-o", stream=stream, **options)
        (row,) = await pair.gateway.usage_rows()
        expected = SPENT if manner != "bare" else Usage(input_tokens=1000, output_tokens=80)
        assert (row["source"], row["cost_nanos"]) == ("reported", cost(expected))
        if client is MESSAGES:
            assert client.read(answer, stream=stream).usage == (1000, expected.cache_read_tokens, 80)
        await pair.assert_settled()


@whole_or_stream
@each_upstream
async def test_without_usage_the_same_is_charged_translated_or_not(tmp_path: Path, model: str, stream: bool) -> None:
    reply = Reply(text=("x" * 350,), reporting="none")
    outputs = []
    for client in CLIENTS:
        async with open_pair(tmp_path / client.dialect) as pair:
            pair.upstream(model).script(scripts.answer(reply))
            answer = await pair.ask(client, model, stream=stream)
            assert answer.status == 200 and not answer.cut
            (row,) = await pair.gateway.usage_rows()
            assert (row["source"], row["flags"]) == ("estimated", "usage_missing")
            outputs.append(row["output_tokens"])
            await pair.assert_settled()
    assert outputs[0] == outputs[1]
    if stream:
        assert outputs[0] == tokens_of_bytes(350)


@pytest.mark.parametrize(
    "parts",
    [
        [chunk({"role": "assistant"}, usage={"prompt_tokens": 1000, "completion_tokens": 100}), TEXT, chunk({}, "stop"), DONE],
        [ROLE, TEXT, chunk({}, "stop", usage={"prompt_tokens": 1000, "completion_tokens": 100}), DONE],
        [ROLE, USAGE, TEXT, chunk({}, "stop"), DONE],
        [ROLE, TEXT, chunk({}, "stop"), USAGE],
        [ROLE, TEXT, chunk({}, "stop"), USAGE, USAGE, DONE, USAGE],
        [ROLE, TEXT, chunk({}, "stop"), chunk({}, None, choices=None, usage={"prompt_tokens": 1000, "completion_tokens": 100})],
    ],
)
@each_client
async def test_usage_in_odd_places(tmp_path: Path, client: Client, parts: list[bytes]) -> None:
    async with open_pair(tmp_path) as pair:
        pair.gpt.script(sends(*parts))
        answer = await pair.ask(client, "house-o", stream=True)
        assert answer.status == 200 and not answer.cut
        (row,) = await pair.gateway.usage_rows()
        assert (row["source"], row["cost_nanos"]) == ("reported", 1000 * IN + 100 * OUT)
        if client is MESSAGES:
            said = client.read(answer, stream=True)
            assert (said.text, said.usage) == ("x" * 35, (1000, 0, 100))
        await pair.assert_settled()


# ── holds ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limit", [10_000, None])
async def test_a_stream_of_many_choices_is_held_for_all_of_them(tmp_path: Path, limit: int | None) -> None:
    """n answers in one stream make n times the output: the hold stays above what was made, or the stream ends."""
    piece = "x" * 3_000  # a thousand tokens, for each of eight choices
    pieces = [chunk({}, None, choices=[{"index": n, "delta": {"content": piece}, "finish_reason": None}]) for n in range(8)]
    async with open_pair(tmp_path, balance="20") as pair:
        checked = asyncio.Event()

        async def script(exchange: Any) -> None:
            await exchange.head(200, [("content-type", "text/event-stream")])
            for turn in range(9):
                for one in pieces:
                    await exchange.send(one)
                await asyncio.sleep(0.03)
                (running,) = pair.gateway.house.walk.running.values()
                assert running.hold.amount_nanos >= (turn + 1) * 8 * 1000 * OUT, turn
            checked.set()
            for n in range(8):
                await exchange.send(chunk({}, None, choices=[{"index": n, "delta": {}, "finish_reason": "length"}]))
            total = {"prompt_tokens": 10, "completion_tokens": 72_000, "total_tokens": 72_010}
            await exchange.send(chunk({}, None, choices=[], usage=total) + DONE)
            await exchange.end()

        pair.gpt.script(script)
        answer = await pair.ask(CHAT, "house-o", stream=True, n=8, max_tokens=limit)
        assert answer.status == 200 and not answer.cut and checked.is_set()
        assert await pair.gateway.table("select count(*) from transfers where kind = 'overrun'") == [(0,)]
        (row,) = await pair.gateway.usage_rows()
        assert row["cost_nanos"] == 10 * IN + 72_000 * OUT
        await pair.assert_settled()


async def test_hidden_reasoning_of_a_foreign_upstream_raises_the_hold(tmp_path: Path) -> None:
    """Chat Completions servers show nothing of it, and an Anthropic client need not have asked for any."""
    go_on = asyncio.Event()
    more = "[billing]\ntokens_per_second_max = 1000\noutput_hold_tokens = 1000\n"
    for client in CLIENTS:
        go_on.clear()
        async with open_pair(tmp_path / client.dialect, more=more, tick_s=0.02) as pair:
            pair.gpt.script(scripts.answer(REPLY, pause=(1, go_on)))
            asking = asyncio.ensure_future(pair.ask(client, "house-o", stream=True, max_tokens=20_000))
            await until(lambda: pair.gpt.journal != [] and pair.gpt.journal[0].events_sent == 1)
            (running,) = pair.gateway.house.walk.running.values()
            await until(lambda: running.hold.amount_nanos >= 10_000 * OUT)  # noqa: B023
            go_on.set()
            assert (await asking).status == 200
            (row,) = await pair.gateway.usage_rows()
            assert row["cost_nanos"] == cost(SPENT)
            await pair.assert_settled()


LONG = Reply(text=("x" * 700,) * 200, usage=Usage(input_tokens=1000, output_tokens=40_000))


@each_client
@each_upstream
async def test_a_wallet_that_runs_dry_in_mid_stream(tmp_path: Path, client: Client, model: str) -> None:
    async with open_pair(tmp_path, balance="0.1", more="[billing]\noutput_hold_tokens = 1000\n") as pair:
        pair.upstream(model).script(scripts.answer(LONG, pace_s=0.001))
        answer = await pair.ask(client, model, stream=True, max_tokens=50_000)
        error = client.error_within(answer)
        assert error["type"] == {"anthropic": "billing_error", "openai": "insufficient_quota"}[client.dialect]
        (row,) = await pair.gateway.usage_rows()
        assert row["source"] == "estimated" and 0 < row["cost_nanos"] <= 100_000_000
        ((*_, reason),) = await pair.gateway.attempts()
        assert reason == "dry"
        # Its repetition is refused for a while, and reaches nobody.
        again = await pair.ask(client, model, max_tokens=50_000)
        assert again.status == 402 and len(pair.upstream(model).journal) == 1
        client.error(again)
        assert pair.gateway.balance(pair.alice) >= 0
        await pair.assert_settled()


@each_client
@each_upstream
async def test_a_spend_cap_in_mid_stream(tmp_path: Path, client: Client, model: str) -> None:
    async with open_pair(tmp_path, more="[billing]\noutput_hold_tokens = 1000\n") as pair:
        user = await pair.gateway.make_user("bob", "10", limits={"spend_per_day_nanos": 60_000_000})
        pair.upstream(model).script(scripts.answer(LONG, pace_s=0.001))
        answer = await pair.ask(client, model, user=user, stream=True, max_tokens=50_000)
        assert "What was delivered is charged" in client.error_within(answer)["message"]
        (row,) = await pair.gateway.usage_rows()
        assert 0 < row["cost_nanos"] <= 70_000_000
        await pair.assert_settled()


@each_client
@each_upstream
async def test_progress_counts_the_input_before_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client, model: str
) -> None:
    """What a kill would leave on disk: an OpenAI upstream tells its input at the very end."""
    monkeypatch.setattr("gateway.proxy.relay.PROGRESS_AFTER_MS", 10)
    go_on = asyncio.Event()
    async with open_pair(tmp_path, tick_s=0.02) as pair:
        pair.upstream(model).script(scripts.answer(Reply(text=("x" * 70,) * 3, usage=SPENT), pause=(4, go_on)))
        asking = asyncio.ensure_future(pair.ask(client, model, stream=True))
        await until(lambda: any(running.had_progress for running in pair.gateway.house.walk.running.values()))
        await pair.gateway.house.writer.run(lambda ledger: None)
        with closing(open_reader(pair.gateway.house.database)) as conn:
            rows = conn.execute("select input_tokens, cost_nanos from progress").fetchall()
        assert len(rows) == 1 and rows[0][0] >= (900 if model == "house-a" else 500)
        assert rows[0][1] >= rows[0][0] * IN
        go_on.set()
        await asking
        await pair.assert_settled()


@each_client
async def test_a_cache_of_another_dialect_is_not_counted_on(tmp_path: Path, client: Client) -> None:
    """Whole conversation read from a cache: the next turn is held at full price where nobody promised that it is still there."""
    warm = Reply(usage=Usage(input_tokens=10, output_tokens=5, cache_read_tokens=50_000))
    text = "word " * 40_000
    cached = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
    async with open_pair(tmp_path) as pair:
        model = "house-o" if client is MESSAGES else "house-a"
        for _ in range(2):
            pair.upstream(model).script(scripts.answer(warm))
            content = cached if client is MESSAGES else [{"type": "text", "text": text}]
            assert (await pair.ask(client, model, messages=[{"role": "user", "content": content}])).status == 200
        holds = [held for (held,) in await pair.gateway.table("select amount_nanos from holds order by id")]
        assert holds[1] >= holds[0] >= 60_000 * IN
        await pair.assert_settled()


# ── whatever an upstream says ────────────────────────────────────────────────────────────────────────────────────────


def mangled(events: list[bytes], fate: random.Random) -> Iterator[bytes]:
    for event in events:
        turn = fate.random()
        if turn < 0.6:
            yield event
        elif turn < 0.68:
            at = fate.randrange(len(event))
            yield event[:at] + bytes([fate.randrange(256)]) + event[at + 1 :]
        elif turn < 0.76:
            yield event[: fate.randrange(len(event))] + b"\n\n"
        elif turn < 0.82:
            yield event * fate.randrange(3)
        elif turn < 0.86:
            yield fate.choice(events)
        elif fate.random() < 0.7:
            yield b"data: %s\n\n" % json.dumps(_nonsense(fate)).encode()
        else:
            yield fate.randbytes(40) + b"\n\n"


def _nonsense(fate: random.Random, depth: int = 0) -> Any:
    names = ["type", "choices", "delta", "index", "usage", "error", "message", "content", "tool_calls", "function", "arguments"]
    names += ["content_block", "id", "name", "text", "finish_reason", "stop_reason", "prompt_tokens", "output_tokens", "model"]
    kinds = (
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "tool_use",
        "text",
    )
    leaf = fate.choice([None, True, -1, 0, 3, 10**30, 1.5, "", "x", "\ud800", "{", fate.choice(kinds)])
    if depth > 4 or fate.random() < 0.3:
        return leaf
    if fate.random() < 0.3:
        return [_nonsense(fate, depth + 1) for _ in range(fate.randrange(3))]
    return {fate.choice(names): _nonsense(fate, depth + 1) for _ in range(fate.randrange(1, 5))} | (
        {"type": fate.choice(kinds)} if fate.random() < 0.5 else {}
    )


@each_client
@each_upstream
@pytest.mark.parametrize("seed", range(2))
async def test_whatever_an_upstream_says_the_books_balance_and_no_answer_is_cut_short_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, client: Client, model: str, seed: int
) -> None:
    fate = random.Random(f"{seed} {client.dialect} {model}")
    rich = Reply(
        text=("Å", "bc" * 20), thinking=("hm",), tool="f", tool_input={"a": [1, "b"]}, more_tools=(("g", {}),), usage=SPENT
    )
    events = events_of(model, rich)
    own = (client is MESSAGES) == (model == "house-a")
    async with open_pair(tmp_path, balance="50") as pair:
        for _ in range(25):
            stream = b"".join(mangled(events, fate))
            step = fate.choice([1 << 20, 37])
            pair.upstream(model).script(sends(*(stream[at : at + step] for at in range(0, len(stream), step))))
            answer = await pair.ask(client, model, stream=True)
            assert answer.status < 500 or answer.status in (502, 529), answer.body
            if answer.status == 200 and not answer.cut and not own:
                end = b"event: message_stop" if client is MESSAGES else b"data: [DONE]"
                assert end in answer.body or b'"error":' in answer.body, answer.body
            await pair.gateway.house.writer.run(lambda ledger: None)
            for upstream in ("up1", "chat9"):
                pair.gateway.house.walk.router.forget(upstream)
        assert not [record for record in caplog.records if record.exc_info], caplog.text
        await pair.assert_settled()


@each_client
@each_upstream
async def test_whatever_a_whole_answer_is(tmp_path: Path, caplog: pytest.LogCaptureFixture, client: Client, model: str) -> None:
    fate = random.Random(f"{client.dialect} {model}")
    rich = Reply(text=("Å",), thinking=("hm",), tool="f", tool_input={"a": [1, "b"]}, usage=SPENT)
    good = (
        replies.render_message(rich, MODEL)
        if model == "house-a"
        else chat_replies.render_chat(rich, chat_replies.OPENAI, {"model": GPT})
    )

    def bent(value: Any) -> Any:
        if fate.random() < 0.06:
            return _nonsense(fate)
        if isinstance(value, dict):
            return {name: bent(one) for name, one in value.items() if fate.random() > 0.03}
        return [bent(one) for one in value] if isinstance(value, list) else value

    async with open_pair(tmp_path, balance="50") as pair:
        for _ in range(60):
            body = json.dumps(bent(json.loads(good))).encode()
            head = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            pair.upstream(model).script(scripts.raw(head + body, keep=True))
            answer = await pair.ask(client, model)
            assert answer.status in (200, 502, 503), (body, answer.body)
            json.loads(answer.body)
            for upstream in ("up1", "chat9"):
                pair.gateway.house.walk.router.forget(upstream)
        assert not [record for record in caplog.records if record.exc_info], caplog.text
        await pair.assert_settled()
