"""llama.cpp's own /v1/messages as an Anthropic upstream: untidy, which is a good test of whoever reads it.

Blocks end only at the end, a tool's block begins without input, the usage has other fields, an answer's id is OpenAI's, a stop
sequence is told as end_turn, and an error is not Anthropic's.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway_tools import Gateway
from tests.llama.gguf import CONTEXT_TOKENS, TEXT, THOUGHT
from tests.llama.tools import (
    ANTHROPIC_WEATHER,
    CITIES,
    OWN_MESSAGES,
    WEATHER,
    Llama,
    anthropic_client,
    assert_booked_as_reported,
    booked,
    openai_client,
    says,
)

SAID = "".join(TEXT)
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
THINKING: Any = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}


def own(text: str, **fields: Any) -> Any:
    return says(text, model=OWN_MESSAGES) | fields


async def test_an_anthropic_client_gets_what_it_says_and_pays_what_it_counts(gateway: Gateway, llama: Llama) -> None:
    alice = await gateway.make_user("alice")
    direct = await llama.ask(MESSAGES, **says("say hi"))
    async with anthropic_client(gateway, alice) as client:
        whole = await client.messages.create(**own("say hi"))
        async with client.messages.stream(**own("say hi")) as stream:
            streamed = await stream.get_final_message()
        counted = await client.messages.count_tokens(model=OWN_MESSAGES, messages=own("say hi")["messages"])
    for message in (whole, streamed):
        assert [block.to_dict() for block in message.content] == [{"type": "text", "text": SAID}]
        assert (message.model, message.stop_reason) == (OWN_MESSAGES, "end_turn")
    prompt = direct["usage"]["input_tokens"] + direct["usage"]["cache_read_input_tokens"]
    assert counted.input_tokens == prompt
    await assert_booked_as_reported(gateway, prompt, direct["usage"]["output_tokens"], times=2)


async def test_the_bytes_of_its_stream_pass_but_for_the_name(gateway: Gateway) -> None:
    alice = await gateway.make_user("alice")
    answer = await gateway.ask(alice, **own("think first", stream=True, tools=[ANTHROPIC_WEATHER]))
    names = [name for name, _ in answer.events]
    assert names[-4:] == ["content_block_stop", "content_block_stop", "message_delta", "message_stop"]
    assert [data["content_block"]["type"] for name, data in answer.events if name == "content_block_start"] == ["tool_use"] * 2
    assert answer.events[0][1]["message"]["model"] == OWN_MESSAGES and b"by-heart" not in answer.body
    await gateway.assert_settled()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_openai_client_gets_text_and_thoughts(gateway: Gateway, stream: bool) -> None:
    alice = await gateway.make_user("alice")
    thought = "".join(THOUGHT[1:-1])
    async with openai_client(gateway, alice) as client:
        if stream:
            async with client.chat.completions.stream(**own("think first")) as opened:
                answer: Any = await opened.get_final_completion()
        else:
            answer = await client.chat.completions.create(**own("think first"))
    message = answer.choices[0].message
    assert (message.content, message.reasoning_content, answer.choices[0].finish_reason) == (SAID, thought, "stop")
    assert [usage.output_tokens for usage, _ in await booked(gateway)] == [len(THOUGHT) + len(TEXT) + 1]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_openai_client_calls_tools(gateway: Gateway, stream: bool) -> None:
    alice = await gateway.make_user("alice")
    fields = own("What is the weather?", tools=[WEATHER], tool_choice="required")
    async with openai_client(gateway, alice) as client:
        if stream:
            async with client.chat.completions.stream(**fields) as opened:
                answer: Any = await opened.get_final_completion()
        else:
            answer = await client.chat.completions.create(**fields)
        calls = answer.choices[0].message.tool_calls
        assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
            ("weather", city) for city in CITIES
        ]
        assert answer.choices[0].finish_reason == "tool_calls"
        results = [{"role": "tool", "tool_call_id": call.id, "content": "sun"} for call in calls]
        messages = [*fields["messages"], answer.choices[0].message.to_dict(), *results]
        after = await client.chat.completions.create(**fields | {"messages": messages, "tool_choice": "auto"})
    assert after.choices[0].message.content == SAID
    assert [usage.output_tokens for usage, _ in await booked(gateway)] == [11, len(TEXT) + 1]


async def test_it_stops_at_the_limit_and_at_a_stop_sequence(gateway: Gateway) -> None:
    alice = await gateway.make_user("alice")
    async with anthropic_client(gateway, alice) as client:
        short = await client.messages.create(**own("say hi", max_tokens=5))
        stopped = await client.messages.create(**own("say hi", stop_sequences=["counted"]))
    assert (short.content[0].to_dict()["text"], short.stop_reason) == ("".join(TEXT[:5]), "max_tokens")
    assert (stopped.content[0].to_dict()["text"], stopped.stop_sequence) == ("".join(TEXT[:12]) + " ", "counted")
    assert [usage.output_tokens for usage, _ in await booked(gateway)] == [5, 13]


@pytest.mark.parametrize("path", [MESSAGES, CHAT])
async def test_a_prompt_beyond_its_context_keeps_its_message(gateway: Gateway, path: str) -> None:
    alice = await gateway.make_user("alice", "100")
    refused = await gateway.ask(alice, path=path, **own("x" * CONTEXT_TOKENS))
    assert refused.status == 400
    assert f"exceeds the available context size ({CONTEXT_TOKENS} tokens)" in refused.error["message"]
    assert gateway.balance(alice) == 100_000_000_000
    await gateway.assert_settled()
