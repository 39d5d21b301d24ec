"""POST /v1/chat/completions on llama.cpp: one dialect on both sides."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from gateway.pricing import cost_nanos
from tests.gateway_tools import Gateway
from tests.llama.gguf import CONTEXT_TOKENS, TEXT, THOUGHT
from tests.llama.tools import (
    CITIES,
    MODEL,
    WEATHER,
    Llama,
    assert_booked_as_reported,
    booked,
    openai_client,
    says,
)

SAID = "".join(TEXT)
CHAT = "/v1/chat/completions"


async def test_a_whole_answer_is_the_servers_and_charged_as_it_counts(gateway: Gateway, llama: Llama) -> None:
    alice = await gateway.make_user("alice")
    direct = await llama.ask(CHAT, **says("say hi"))
    async with openai_client(gateway, alice) as client:
        answer = await client.chat.completions.create(**says("say hi"))
    assert answer.choices[0].message.content == SAID == direct["choices"][0]["message"]["content"]
    assert (answer.model, answer.choices[0].finish_reason) == (MODEL, "stop")
    assert answer.usage is not None and answer.usage.prompt_tokens == direct["usage"]["prompt_tokens"]
    await assert_booked_as_reported(gateway, direct["usage"]["prompt_tokens"], direct["usage"]["completion_tokens"])
    [(usage, _)] = await booked(gateway)
    assert answer.usage.prompt_tokens_details is not None
    assert usage.cache_read_tokens == answer.usage.prompt_tokens_details.cached_tokens
    model = gateway.house.walk.catalog.find(MODEL)
    assert model is not None and gateway.balance(alice) == 10_000_000_000 - cost_nanos(model.price, usage)


async def test_nothing_of_a_whole_answer_changes_but_the_name(gateway: Gateway) -> None:
    """Fields of its own, such as `timings`, stay too; and what it is asked in fields of its own arrives."""
    alice = await gateway.make_user("alice")
    mine = {"top_k": 1, "min_p": 0.1, "cache_prompt": False, "return_tokens": True, "nobody_knows": {"a": [1, None]}}
    answer = await gateway.ask(alice, path=CHAT, **says("say hi", logprobs=True, top_logprobs=2, **mine))
    assert answer.status == 200 and answer.json["model"] == MODEL
    assert answer.json["timings"]["predicted_n"] == len(TEXT) + 1
    assert answer.json["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert [token["token"] for token in answer.json["choices"][0]["logprobs"]["content"]] == [*TEXT, ""]
    answer.assert_clean()
    await gateway.assert_settled()


@pytest.mark.parametrize("asked", [True, False])
async def test_a_stream_tells_its_usage_to_who_asked_and_to_the_books_always(gateway: Gateway, llama: Llama, asked: bool) -> None:
    alice = await gateway.make_user("alice")
    options: Any = {"stream_options": {"include_usage": True}} if asked else {}
    direct = await llama.ask(CHAT, **says("say hi"))
    async with openai_client(gateway, alice) as client:
        stream = await client.chat.completions.create(**says("say hi", stream=True, **options))
        chunks = [chunk async for chunk in stream]
    assert tuple(chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content) == TEXT
    assert {chunk.model for chunk in chunks} == {MODEL}
    told = [chunk.usage.total_tokens for chunk in chunks if chunk.usage]
    assert told == ([direct["usage"]["total_tokens"]] if asked else [])
    assert [chunk for chunk in chunks if not chunk.choices] == (chunks[-1:] if asked else [])
    await assert_booked_as_reported(gateway, direct["usage"]["prompt_tokens"], direct["usage"]["completion_tokens"])


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_it_stops_at_the_limit(gateway: Gateway, limit: str) -> None:
    alice = await gateway.make_user("alice")
    async with openai_client(gateway, alice) as client:
        fields = {**says("say hi"), "max_tokens": openai.omit, limit: 5}
        answer = await client.chat.completions.create(**fields)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("".join(TEXT[:5]), "length")
        async with client.chat.completions.stream(**fields) as stream:
            with pytest.raises(openai.LengthFinishReasonError):
                await stream.get_final_completion()
    assert [usage.output_tokens for usage, _ in await booked(gateway)] == [5, 5]


async def test_it_stops_at_a_stop_sequence(gateway: Gateway, llama: Llama) -> None:
    alice = await gateway.make_user("alice")
    fields = says("say hi", stop=["counted", TEXT[5] + TEXT[6]])
    direct = await llama.ask(CHAT, **fields)
    async with openai_client(gateway, alice) as client:
        answer = await client.chat.completions.create(**fields)
        async with client.chat.completions.stream(**fields) as stream:
            streamed = await stream.get_final_completion()
    assert answer.choices[0].message.content == streamed.choices[0].message.content == "".join(TEXT[:5])
    assert answer.choices[0].finish_reason == streamed.choices[0].finish_reason == "stop"
    await assert_booked_as_reported(gateway, direct["usage"]["prompt_tokens"], direct["usage"]["completion_tokens"], times=2)


async def test_a_turn_with_tools(gateway: Gateway) -> None:
    alice = await gateway.make_user("alice")
    messages: list[Any] = [{"role": "user", "content": "What is the weather?"}]
    async with openai_client(gateway, alice) as client:
        fields = says("", messages=messages, tools=[WEATHER], tool_choice="required")
        whole = await client.chat.completions.create(**fields)
        async with client.chat.completions.stream(**fields) as stream:
            streamed = await stream.get_final_completion()
        for answer in (whole, streamed):
            calls: Any = answer.choices[0].message.tool_calls
            assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
                ("weather", city) for city in CITIES
            ]
            assert answer.choices[0].finish_reason == "tool_calls"
        messages.append(streamed.choices[0].message.to_dict())
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "sun"} for call in calls]
        answer = await client.chat.completions.create(**fields | {"messages": messages, "tool_choice": "auto"})
    assert answer.choices[0].message.content == SAID
    assert [usage.output_tokens for usage, _ in await booked(gateway)] == [11, 11, len(TEXT) + 1]


async def test_an_answer_by_a_schema(gateway: Gateway) -> None:
    alice = await gateway.make_user("alice")
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
    async with openai_client(gateway, alice) as client:
        answer = await client.chat.completions.create(
            **says(
                "Which city? Answer as JSON.",
                response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema}},
            )
        )
    assert json.loads(answer.choices[0].message.content or "") == {"city": "Rome"}
    await gateway.assert_settled()


async def test_what_it_thinks_is_shown_and_counted(gateway: Gateway) -> None:
    alice = await gateway.make_user("alice")
    thought = "".join(THOUGHT[1:-1])
    whole = await gateway.ask(alice, path=CHAT, **says("think first"))
    assert whole.json["choices"][0]["message"]["reasoning_content"] == thought
    async with openai_client(gateway, alice) as client:
        stream = await client.chat.completions.create(**says("think first", stream=True))
        deltas: list[Any] = [chunk.choices[0].delta async for chunk in stream]
    assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == thought
    assert "".join(delta.content or "" for delta in deltas) == SAID
    assert [usage.output_tokens for usage, _ in await booked(gateway)] == [len(THOUGHT) + len(TEXT) + 1] * 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_beyond_its_context_is_refused_in_its_own_words(gateway: Gateway, stream: bool) -> None:
    alice = await gateway.make_user("alice", "100")
    async with openai_client(gateway, alice) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(**says("x" * CONTEXT_TOKENS, stream=stream))
    body: Any = caught.value.body
    assert body["type"] == "exceed_context_size_error" and body["n_ctx"] == CONTEXT_TOKENS
    assert f"exceeds the available context size ({CONTEXT_TOKENS} tokens)" in body["message"]
    assert await gateway.attempts() == [("llama", 400, "status_400")]
    assert gateway.balance(alice) == 100_000_000_000
    await gateway.assert_settled()


async def test_what_it_cannot_read_is_the_clients_to_mend(gateway: Gateway) -> None:
    alice = await gateway.make_user("alice")
    wrong = await gateway.ask(alice, path=CHAT, **says("say hi", temperature="warm"))
    assert wrong.status == 400 and "type must be number, but is string" in wrong.error["message"]
    late = [{"role": "user", "content": "hi"}, {"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    template = await gateway.ask(alice, path=CHAT, **says("", messages=late))
    assert template.status == 400 and "System message must be at the beginning." in template.error["message"]
    assert gateway.balance(alice) == 10_000_000_000
    await gateway.assert_settled()


async def test_a_picture_is_refused_and_the_server_keeps_serving(gateway: Gateway) -> None:
    """llama.cpp answers 500 to it. Three such failures of two conversations would have it rest for everybody."""
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]
    alice = await gateway.make_user("alice")
    for number in range(4):
        messages = [{"role": "user", "content": f"this is conversation {number}"}, {"role": "user", "content": picture}]
        refused = await gateway.ask(alice, path=CHAT, **says("", messages=messages))
        assert refused.status == 400 and "image input is not supported" in refused.error["message"]
    assert (await gateway.ask(alice, path=CHAT, **says("say hi"))).status == 200
    assert gateway.house.walk.router.standing("llama", "by-heart", gateway.house.walk.clock.now_ms())[0].serving
    await gateway.assert_settled()
