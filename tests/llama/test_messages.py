"""POST /v1/messages on llama.cpp's Chat Completions: translated both ways."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from tests.gateway_tools import Gateway
from tests.llama.gguf import CONTEXT_TOKENS, TEXT, THOUGHT
from tests.llama.tools import (
    ANTHROPIC_WEATHER,
    CITIES,
    MODEL,
    Llama,
    anthropic_client,
    assert_booked_as_reported,
    booked,
    says,
)

SAID = "".join(TEXT)
CHAT = "/v1/chat/completions"


async def test_a_whole_answer_is_charged_as_the_server_counts(gateway: Gateway, llama: Llama) -> None:
    alice = await gateway.make_user("alice")
    direct = await llama.ask(CHAT, **says("say hi"))
    async with anthropic_client(gateway, alice) as client:
        message = await client.messages.create(**says("say hi"))
    assert [block.to_dict() for block in message.content] == [{"type": "text", "text": SAID}]
    assert (message.model, message.stop_reason, message.id[:4]) == (MODEL, "end_turn", "msg_")
    await assert_booked_as_reported(gateway, direct["usage"]["prompt_tokens"], direct["usage"]["completion_tokens"])
    [(usage, _)] = await booked(gateway)
    told = message.usage
    assert (told.input_tokens, told.cache_read_input_tokens or 0, told.output_tokens) == (
        usage.input_tokens,
        usage.cache_read_tokens,
        usage.output_tokens,
    )


async def test_a_stream_comes_token_by_token_and_makes_the_same_message(gateway: Gateway, llama: Llama) -> None:
    alice = await gateway.make_user("alice")
    direct = await llama.ask(CHAT, **says("say hi"))
    async with anthropic_client(gateway, alice) as client, client.messages.stream(**says("say hi")) as stream:
        assert tuple([text async for text in stream.text_stream]) == TEXT
        message = await stream.get_final_message()
    assert (message.model, message.stop_reason) == (MODEL, "end_turn")
    assert message.usage.output_tokens == direct["usage"]["completion_tokens"]
    await assert_booked_as_reported(gateway, direct["usage"]["prompt_tokens"], direct["usage"]["completion_tokens"])


@pytest.mark.parametrize("stream", [False, True])
async def test_it_stops_at_the_limit_and_at_a_stop_sequence(gateway: Gateway, stream: bool) -> None:
    alice = await gateway.make_user("alice")

    async def ask(**fields: Any) -> anthropic.types.Message:
        async with anthropic_client(gateway, alice) as client:
            if not stream:
                return await client.messages.create(**says("say hi", **fields))
            async with client.messages.stream(**says("say hi", **fields)) as opened:
                return await opened.get_final_message()

    short = await ask(max_tokens=5)
    assert (short.content[0].to_dict()["text"], short.stop_reason) == ("".join(TEXT[:5]), "max_tokens")
    stopped = await ask(stop_sequences=["nowhere", "counted"])
    # It does not say which sequence it was, so that "stop" can only be told as an end.
    assert (stopped.content[0].to_dict()["text"], stopped.stop_reason) == ("".join(TEXT[:12]) + " ", "end_turn")
    assert [usage.output_tokens for usage, _ in await booked(gateway)] == [5, 13]


async def test_a_turn_with_tools(gateway: Gateway) -> None:
    alice = await gateway.make_user("alice")
    messages: list[Any] = [{"role": "user", "content": "What is the weather?"}]
    fields = says("", messages=messages, tools=[ANTHROPIC_WEATHER], tool_choice={"type": "any"}, system="Be brief.")
    async with anthropic_client(gateway, alice) as client:
        whole = await client.messages.create(**fields)
        async with client.messages.stream(**fields) as stream:
            streamed = await stream.get_final_message()
        for message in (whole, streamed):
            assert [(block.type, block.to_dict()["name"], block.to_dict()["input"]) for block in message.content] == [
                ("tool_use", "weather", city) for city in CITIES
            ]
            assert message.stop_reason == "tool_use"
        results = [
            {"type": "tool_result", "tool_use_id": block.to_dict()["id"], "content": [{"type": "text", "text": "sun"}]}
            for block in streamed.content
        ]
        messages += [{"role": "assistant", "content": streamed.content}, {"role": "user", "content": results}]
        answer = await client.messages.create(**fields | {"tool_choice": {"type": "auto"}})
    assert [block.to_dict() for block in answer.content] == [{"type": "text", "text": SAID}]
    assert [usage.output_tokens for usage, _ in await booked(gateway)] == [11, 11, len(TEXT) + 1]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_was_cut_at_the_limit_is_no_call_to_be_run(gateway: Gateway, stream: bool) -> None:
    alice = await gateway.make_user("alice")
    fields = says("What is the weather?", tools=[ANTHROPIC_WEATHER], max_tokens=5)
    async with anthropic_client(gateway, alice) as client:
        if stream:
            answer = await gateway.ask(alice, **fields, stream=True)
            assert [data["delta"]["stop_reason"] for name, data in answer.events if name == "message_delta"] == ["max_tokens"]
        else:
            assert (await client.messages.create(**fields)).stop_reason == "max_tokens"
    assert [usage.output_tokens for usage, _ in await booked(gateway)] == [5]


@pytest.mark.parametrize("shown", [True, False])
async def test_what_it_thinks_is_shown_to_who_asked_and_counted_for_all(gateway: Gateway, shown: bool) -> None:
    alice = await gateway.make_user("alice")
    thinking: Any = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000} if shown else {}
    async with anthropic_client(gateway, alice) as client:
        whole = await client.messages.create(**says("think first", **thinking))
        async with client.messages.stream(**says("think first", **thinking)) as stream:
            streamed = await stream.get_final_message()
    thought = [{"type": "thinking", "thinking": "".join(THOUGHT[1:-1]), "signature": ""}] if shown else []
    for message in (whole, streamed):
        assert [block.to_dict() for block in message.content] == [*thought, {"type": "text", "text": SAID}]
    assert [usage.output_tokens for usage, _ in await booked(gateway)] == [len(THOUGHT) + len(TEXT) + 1] * 2


async def test_tokens_are_estimated_and_said_to_be(gateway: Gateway, llama: Llama) -> None:
    alice = await gateway.make_user("alice")
    fields = says("say hi " * 100)
    async with anthropic_client(gateway, alice) as client:
        answer = await client.messages.with_raw_response.count_tokens(model=MODEL, messages=fields["messages"])
    assert answer.headers["x-gateway-estimated"] == "true"
    counted = await answer.parse()
    # A token of this model is a letter, so that it counts three or four times as many as any other.
    direct = await llama.ask(CHAT, **fields)
    assert direct["usage"]["prompt_tokens"] / 6 < counted.input_tokens < direct["usage"]["prompt_tokens"]
    await gateway.assert_settled()


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_beyond_its_context_is_told_in_the_words_that_clients_act_on(gateway: Gateway, stream: bool) -> None:
    alice = await gateway.make_user("alice", "100")
    async with anthropic_client(gateway, alice) as client:
        with pytest.raises(
            anthropic.BadRequestError, match=rf"prompt is too long: \d+ tokens > {CONTEXT_TOKENS} maximum"
        ) as caught:
            await client.messages.create(**says("x" * CONTEXT_TOKENS, stream=stream))
    body: Any = caught.value.body
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
    assert f"exceeds the available context size ({CONTEXT_TOKENS} tokens)" in body["error"]["upstream_message"]
    assert gateway.balance(alice) == 100_000_000_000
    await gateway.assert_settled()


PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
REFUSED: list[tuple[str, Any, str, str]] = [
    (
        "mid_conv_system",
        [{"role": "user", "content": "hi"}, {"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}],
        "capability_rejected: mid_conv_system",
        "System message must be at the beginning.",
    ),
    (
        "image_block",
        [{"role": "user", "content": [{"type": "image", "source": PNG}]}],
        "capability_rejected: image_block",
        "image input is not supported",
    ),
    (
        "document_block",
        [{"role": "user", "content": [{"type": "document", "source": PNG | {"media_type": "application/pdf"}}]}],
        "capability_rejected: document_block",
        "unsupported content[].type",
    ),
]


@pytest.mark.parametrize(("messages", "told", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
async def test_what_it_cannot_do_is_told_as_a_class(gateway: Gateway, messages: Any, told: str, message: str) -> None:
    alice = await gateway.make_user("alice")
    refused = await gateway.ask(alice, **says("", messages=messages))
    assert (refused.status, refused.error["message"]) == (400, told)
    assert message in refused.error["upstream_message"]
    assert gateway.balance(alice) == 10_000_000_000
    await gateway.assert_settled()


async def test_fields_that_nobody_knows_do_no_harm(gateway: Gateway) -> None:
    alice = await gateway.make_user("alice")
    fields: Any = {
        "metadata": {"user_id": "somebody"},
        "top_k": 3,
        "service_tier": "auto",
        "context_management": {"edits": []},
        "nobody_knows": {"a": [1, None]},
        "output_config": {"effort": "low"},
        "temperature": 0.5,
    }
    answer = await gateway.ask(alice, **says("say hi", **fields))
    assert answer.status == 200 and answer.json["content"][0]["text"] == SAID
    await gateway.assert_settled()


async def test_an_answer_by_a_schema(gateway: Gateway) -> None:
    alice = await gateway.make_user("alice")
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
    answer = await gateway.ask(
        alice, **says("Which city? Answer as JSON.", output_config={"format": {"type": "json_schema", "schema": schema}})
    )
    assert answer.json["content"] == [{"type": "text", "text": '{"city": "Rome"}'}]
    await gateway.assert_settled()
