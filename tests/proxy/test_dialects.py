"""The matrix: a client of either dialect on an upstream of either, whole and streamed, and what must be the same in all eight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.usage import Usage
from tests.gateway_tools import MODEL
from tests.proxy.dialects import CHAT, CLIENTS, GPT, MESSAGES, SECRETS, Client, cost, open_pair
from tests.upstreams import chat_replies, replies, scripts
from tests.upstreams.replies import Reply

SPENT = Usage(input_tokens=900, output_tokens=80, cache_read_tokens=100)
WEATHER = ("get_weather", {"town": "Oslo", "days": 3})
TOOLS: dict[str, Any] = {
    "anthropic": [{"name": "get_weather", "input_schema": {"type": "object", "properties": {"town": {"type": "string"}}}}],
    "openai": [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}],
}
REPLIES = {
    "plain": Reply(text=("Guten", " Tag, ", "Åse ☃"), usage=SPENT),
    "tools": Reply(text=("I look.",), tool=WEATHER[0], tool_input=WEATHER[1], more_tools=((WEATHER[0], {}),), usage=SPENT),
    "tool alone": Reply(text=(), tool=WEATHER[0], tool_input=WEATHER[1], usage=SPENT),
    "thinking": Reply(text=("So.",), thinking=("Let me ", "think."), usage=SPENT),
    "empty": Reply(text=(), usage=Usage(input_tokens=900)),
    "max_tokens": Reply(text=("And so",), stop_reason="max_tokens", usage=SPENT),
    "refusal": Reply(text=("No.",), stop_reason="refusal", usage=SPENT),
}

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
whole_or_stream = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.dialect)
each_upstream = pytest.mark.parametrize("model", ["house-a", "house-o"])


@whole_or_stream
@each_client
@each_upstream
@pytest.mark.parametrize("name", REPLIES)
async def test_an_answer(tmp_path: Path, name: str, client: Client, model: str, stream: bool) -> None:
    reply = REPLIES[name]
    fields: dict[str, Any] = {"tools": TOOLS[client.dialect]} if reply.tool else {}
    if name == "thinking" and client is MESSAGES:
        fields |= {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}
    if stream and client is CHAT:
        fields["stream_options"] = {"include_usage": True}
    async with open_pair(tmp_path) as pair:
        user = await pair.gateway.make_user("bob", "10", rpm=70)
        pair.upstream(model).script(scripts.answer(reply))
        answer = await pair.ask(client, model, user=user, stream=stream, **fields)
        translated = (client is MESSAGES) != (model == "house-a")
        said = client.read(answer, stream=stream, translated=translated)
        calls = ((reply.tool, reply.tool_input), *reply.more_tools) if reply.tool else ()
        assert (said.text, said.thinking, said.calls) == ("".join(reply.text), "".join(reply.thinking), calls)
        assert said.stop == (reply.stop_reason or ("tool_use" if reply.tool else "end_turn"))
        spent = reply.usage
        assert said.usage == (spent.prompt_tokens, spent.cache_read_tokens, spent.output_tokens)
        # The name that was asked for, and who served it.
        upstream_name = MODEL if model == "house-a" else GPT
        assert f'"{model}"'.encode() in answer.body and f'"{upstream_name}"'.encode() not in answer.body
        assert answer.headers["x-gateway-model"] == upstream_name
        answer.assert_clean()
        if translated:
            assert not [secret for secret in SECRETS if secret.encode() in answer.body]
        # Limits in the client's own words, and no other's.
        assert answer.headers[client.limit_header] == "70"
        assert not [other for other in CLIENTS if other is not client and other.limit_header in answer.headers]
        (row,) = await pair.gateway.usage_rows()
        assert (row["source"], row["flags"], row["cost_nanos"]) == ("reported", "", cost(spent))
        charged = {"x-gateway-cost-micro", "x-gateway-balance-micro"} & answer.headers.keys()
        assert len(charged) == (0 if stream else 2)
        if not stream:
            assert int(answer.headers["x-gateway-cost-micro"]) == -(-cost(spent) // 1000)
        await pair.assert_settled()


# ── within one dialect bytes stay ────────────────────────────────────────────────────────────────────────────────────

ODD_SPACES = (
    b' \n{"messages" : [ {"role":"user","content":"\\u00e9 \\/ \\"model\\": \\"x\\""} ],"zeta":1.0e0,'
    b'"model":"%s", "max_tokens":10%s}  '
)


@each_client
@pytest.mark.parametrize("renamed", [False, True])
@whole_or_stream
async def test_within_a_dialect_every_byte_stays(tmp_path: Path, client: Client, renamed: bool, stream: bool) -> None:
    own = {"anthropic": MODEL, "openai": GPT}[client.dialect]
    model = {"anthropic": "house-a", "openai": "house-o"}[client.dialect] if renamed else own
    sent = ODD_SPACES % (model.encode(), b',"stream" :true' if stream else b"")
    async with open_pair(tmp_path) as pair:
        up = pair.upstream(model)
        reply = REPLIES["thinking"]
        up.script(scripts.answer(reply))
        answer = await pair.gateway.ask(pair.alice, path=client.path, raw=sent)
        assert answer.status == 200, answer.body
        seen = up.journal[0]
        forwarded = seen.body
        if client is CHAT and stream:
            assert forwarded.count(b'"stream_options":{"include_usage":true}') == 1
            forwarded = forwarded.replace(b'"stream_options":{"include_usage":true},', b"")
        assert forwarded == sent.replace(b'"%s"' % model.encode(), b'"%s"' % own.encode())
        if not stream:
            render = chat_replies.render_chat(reply, chat_replies.OPENAI, seen.json)
            told = render if client is CHAT else replies.render_message(reply, own)
        elif client is CHAT:
            *events, usage, done = [event.data for event in chat_replies.render_chunks(reply, chat_replies.OPENAI, seen.json)]
            assert b'"choices":[]' in usage
            told = b"".join([*events, done])
        else:
            told = b"".join(event.data for event in replies.render_stream(reply, own))
        assert answer.body == told.replace(b'"%s"' % own.encode(), b'"%s"' % model.encode())
        await pair.assert_settled()


@pytest.mark.parametrize("asked", [None, False, True])
@each_upstream
async def test_the_usage_chunk_is_there_exactly_where_it_was_asked_for(tmp_path: Path, asked: bool | None, model: str) -> None:
    options = {} if asked is None else {"stream_options": {"include_usage": asked}}
    async with open_pair(tmp_path) as pair:
        answer = await pair.ask(CHAT, model, stream=True, **options)
        chunks = [json.loads(event[6:]) for event in answer.body.split(b"\n\n") if event.startswith(b"data: {")]
        assert len([chunk for chunk in chunks if not chunk["choices"]]) == (1 if asked else 0)
        assert all(chunk["choices"] for chunk in chunks[:-1])
        assert (await pair.gateway.usage_rows())[0]["source"] == "reported"
        await pair.assert_settled()
