"""The openai Python SDK as its users write it, on Claude (translated) and on a model of an OpenAI upstream (untouched)."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from gateway.access import make_secret
from gateway.usage import Usage
from tests.clients.tools import DOT, GPT, LOCAL, LOCAL_THERE, SAID, Scene, open_scene
from tests.gateway_tools import MODEL, User
from tests.upstreams import chat_replies, scripts
from tests.upstreams.replies import Reply

pytestmark = pytest.mark.clients

EITHER = pytest.mark.parametrize("model", [MODEL, GPT, LOCAL])
MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "say hi"}]
PARAMETERS = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"], "additionalProperties": False}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather of a town.", "parameters": PARAMETERS, "strict": True},
}
SPENT = Usage(input_tokens=1000, output_tokens=90, cache_read_tokens=300, cache_write_5m_tokens=50)
RICH = Reply(
    text=("The weather, ", "ä ö 🌦, ", "in a moment."),
    tool="get_weather",
    tool_input={"town": "Köln"},
    more_tools=(("get_weather", {"town": "Oslo"}), ("get_weather", {"town": "São Paulo"})),
    usage=SPENT,
)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path, "[billing]\ndrain_seconds = 0.2\n") as opened:
        yield opened


def client_of(scene: Scene, user: User, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(**{"api_key": user.secret, "base_url": f"{scene.url}/v1", **options})


def calls_of(message: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]


# ── where, and as whom ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("base", ["/v1", "/v1/", "", "/api", "/api/v1", "/api/proxy/v1"])
async def test_every_base_url_works(scene: Scene, base: str) -> None:
    alice = await scene.gateway.make_user("alice")
    async with client_of(scene, alice, base_url=scene.url + base) as client:
        for model in (MODEL, GPT):
            completion = await client.chat.completions.create(model=model, messages=MESSAGES)
            assert completion.choices[0].message.content == SAID
        assert (await client.models.retrieve(MODEL)).id == MODEL
    assert [seen.target for seen in scene.up.journal] == ["/v1/messages", "/v1/chat/completions"]
    await scene.assert_settled()


async def test_the_environment_is_enough_and_the_key_goes_no_further(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await scene.gateway.make_user("alice")
    monkeypatch.setenv("OPENAI_API_KEY", alice.secret)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{scene.url}/v1")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-alice")
    async with openai.AsyncOpenAI() as client:
        for model in (MODEL, GPT):
            await client.chat.completions.create(model=model, messages=MESSAGES, user="somebody")
    claude, gpt = scene.served
    assert claude.header("x-api-key") == "upstream-secret-1" and gpt.header("authorization") == "Bearer upstream-secret-chat"
    assert alice.secret not in str([seen.headers for seen in scene.served])
    assert "org-of-alice" not in str([seen.headers for seen in scene.served])
    await scene.assert_settled()


async def test_models_are_listed_whole(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    async with client_of(scene, alice) as client:
        listed = [model async for model in client.models.list()]
        assert [model.id for model in listed] == [model.id for model in scene.gateway.house.walk.catalog]
        assert {model.object for model in listed} == {"model"} and all(type(model.created) is int for model in listed)
        owners = {model.id: model.owned_by for model in listed}
        assert (owners[MODEL], owners[GPT]) == ("anthropic", "openai")
        with pytest.raises(openai.NotFoundError, match="gpt-nobody is not offered here"):
            await client.models.retrieve("gpt-nobody")
    await scene.assert_settled()


# ── the same bytes ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_within_the_dialect_the_bytes_are_the_clients_and_the_upstreams(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    odd: Any = {"seed": 7, "logit_bias": {"50256": -100}, "n": 2, "extra_body": {"unknown": {"a": [1, 2]}}}
    async with client_of(scene, alice) as client:
        whole = await client.chat.completions.create(model=GPT, messages=MESSAGES, **odd)
        assert len(whole.choices) == 2
        stream = await client.chat.completions.create(
            model=GPT, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage is not None and chunks[-1].choices == []
    for asked, served in zip(scene.asked, scene.served, strict=True):
        assert served.body == asked.body
    usual, asked_json = chat_replies.OPENAI, scene.served[1].json
    made = b"".join(event.data for event in chat_replies.render_chunks(Reply(), usual, asked_json))
    assert scene.asked[1].body_of_answer == made
    assert scene.asked[0].body_of_answer == chat_replies.render_chat(Reply(), usual, scene.served[0].json)
    await scene.assert_settled()


async def test_usage_is_asked_for_and_hidden_again(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    async with client_of(scene, alice) as client:
        for model in (GPT, LOCAL, MODEL):
            stream = await client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
            chunks = [chunk async for chunk in stream]
            assert all(chunk.choices for chunk in chunks) and not any(chunk.usage for chunk in chunks)
            assert {chunk.model for chunk in chunks} == {model}
    assert scene.served[0].json["stream_options"] == {"include_usage": True}
    assert [seen.model for seen in scene.served] == [GPT, LOCAL_THERE, MODEL]
    assert [row["source"] for row in await scene.gateway.usage_rows()] == ["reported"] * 3
    await scene.assert_settled()


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@EITHER
async def test_a_whole_answer(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.default = scripts.answer(Reply(usage=SPENT))
    async with client_of(scene, alice) as client:
        completion = await client.chat.completions.create(
            model=model, messages=MESSAGES, temperature=0.5, max_completion_tokens=300, stop=["END"], reasoning_effort="low"
        )
        raw = await client.chat.completions.with_raw_response.create(model=model, messages=MESSAGES)
    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", SAID, "stop")
    assert (completion.object, completion.model) == ("chat.completion", model) and completion.id.startswith("chatcmpl-")
    usage = completion.usage
    assert usage is not None and usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (1350, 90, 1440)
    assert usage.prompt_tokens_details.cached_tokens == 300
    assert completion._request_id is not None and completion._request_id.startswith("req_")
    row = (await scene.gateway.get(alice, f"/v1/usage/{completion._request_id}")).json
    assert (row["input_tokens"], row["output_tokens"], row["cache_read_input_tokens"]) == (1000, 90, 300)
    there = LOCAL_THERE if model == LOCAL else model
    assert raw.headers["x-gateway-model"] == there and int(raw.headers["x-gateway-cost-micro"]) > 0
    assert "org-leak" not in str(raw.headers)
    await scene.assert_settled()


@EITHER
async def test_the_streaming_helper_assembles_what_the_whole_answer_says(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.default = scripts.answer(RICH)
    asked: Any = {"model": model, "messages": MESSAGES, "tools": [WEATHER]}
    async with client_of(scene, alice) as client:
        whole = await client.chat.completions.create(**asked)
        async with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_completion()
    # The first chunk of an OpenAI server has the role and no text.
    texts = [event.delta for event in events if event.type == "content.delta" and event.delta]
    assert texts == list(RICH.text)
    (assembled,), (choice,) = final.choices, whole.choices
    assert assembled.message.content == choice.message.content == "".join(RICH.text)
    assert assembled.finish_reason == choice.finish_reason == "tool_calls"
    calls = [("get_weather", {"town": town}) for town in ("Köln", "Oslo", "São Paulo")]
    assert calls_of(assembled.message) == calls_of(choice.message) == calls
    for message in (assembled.message, choice.message):
        assert message.tool_calls is not None and len({call.id for call in message.tool_calls}) == 3
    assert [event.name for event in events if event.type == "tool_calls.function.arguments.done"] == ["get_weather"] * 3
    assert final.usage is not None and whole.usage is not None
    assert final.usage.to_dict() == whole.usage.to_dict()
    assert (final.model, final.usage.total_tokens) == (model, 1440)
    await scene.assert_settled()


@EITHER
async def test_a_tool_turn(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    two = Reply(text=(), tool="get_weather", tool_input={"town": "Oslo"}, more_tools=(("get_weather", {"town": "Rome"}),))
    scene.up.script(scripts.answer(two), scripts.answer(Reply(text=("Rain in Oslo, sun in Rome.",))))
    async with client_of(scene, alice) as client:
        turns: list[Any] = list(MESSAGES)
        asking = await client.chat.completions.create(model=model, messages=turns, tools=[WEATHER], tool_choice="required")
        message = asking.choices[0].message
        assert message.content is None and message.tool_calls is not None
        turns.append(message)
        for call, weather in zip(message.tool_calls, ("rain", "sun"), strict=True):
            turns.append({"role": "tool", "tool_call_id": call.id, "content": weather})
        answer = await client.chat.completions.create(model=model, messages=turns, tools=[WEATHER])
    assert answer.choices[0].message.content == "Rain in Oslo, sun in Rome."
    if model == MODEL:
        first, second = (seen.json for seen in scene.served)
        assert first["tool_choice"] == {"type": "any"} and first["system"] in (
            "Be brief.",
            [{"type": "text", "text": "Be brief."}],
        )
        assert first["tools"][0]["input_schema"] == PARAMETERS
        called, given = second["messages"][-2:]
        assert [block["id"] for block in called["content"]] == [block["tool_use_id"] for block in given["content"]]
        assert given["role"] == "user" and [_text(block["content"]) for block in given["content"]] == ["rain", "sun"]
    await scene.assert_settled()


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


class Weather(BaseModel):
    town: str
    degrees: int


@EITHER
async def test_an_answer_of_a_given_shape(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.default = scripts.answer(Reply(text=('{"town":"Os', 'lo","degrees":-3}')))
    async with client_of(scene, alice) as client:
        parsed = await client.chat.completions.parse(model=model, messages=MESSAGES, response_format=Weather)
        async with client.chat.completions.stream(model=model, messages=MESSAGES, response_format=Weather) as stream:
            streamed = await stream.get_final_completion()
    assert parsed.choices[0].message.parsed == streamed.choices[0].message.parsed == Weather(town="Oslo", degrees=-3)
    if model == MODEL:
        assert scene.served[0].json["output_config"]["format"]["schema"]["required"] == ["town", "degrees"]
    await scene.assert_settled()


async def test_a_picture(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    data = base64.b64encode(DOT).decode()
    parts: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/dot.png"}},
    ]
    async with client_of(scene, alice) as client:
        completion = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": parts}])
    assert completion.choices[0].message.content == SAID
    _, inline, linked = scene.served[0].json["messages"][0]["content"]
    assert inline["source"] == {"type": "base64", "media_type": "image/png", "data": data}
    assert linked["source"] == {"type": "url", "url": "https://example.com/dot.png"}
    await scene.assert_settled()


@pytest.mark.parametrize(
    ("stop_reason", "told"),
    [("max_tokens", "length"), ("refusal", "content_filter"), ("end_turn", "stop"), ("stop_sequence", "stop")],
)
async def test_why_claude_stopped(scene: Scene, stop_reason: str, told: str) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.default = scripts.answer(Reply(thinking=("hm",), stop_reason=stop_reason))
    async with client_of(scene, alice) as client:
        whole = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        chunks = [chunk async for chunk in stream]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert whole.choices[0].finish_reason == reasons[-1] == told
    assert set(reasons[:-1]) == {None}
    await scene.assert_settled()


async def test_the_synchronous_client(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")

    def talk() -> list[str | None]:
        with openai.OpenAI(api_key=alice.secret, base_url=f"{scene.url}/v1") as client:
            whole = client.chat.completions.create(model=MODEL, messages=MESSAGES)
            with client.chat.completions.stream(model=MODEL, messages=MESSAGES) as stream:
                return [whole.choices[0].message.content, stream.get_final_completion().choices[0].message.content]

    assert await asyncio.to_thread(talk) == [SAID, SAID]
    await scene.assert_settled()


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_refusals_are_of_the_right_class_and_in_our_words(scene: Scene) -> None:
    alice, poor = await scene.gateway.make_user("alice"), await scene.gateway.make_user("poor", "0")
    narrow = await scene.gateway.make_user("narrow", models=frozenset({GPT}))
    async with client_of(scene, alice) as client:
        stranger = client.with_options(api_key=make_secret("sk-pgrid-"))
        expected: list[tuple[openai.AsyncOpenAI, Any, type[openai.APIStatusError], str, str | None, str]] = [
            (stranger, {}, openai.AuthenticationError, "This key is unknown here", "invalid_api_key", "authentication_error"),
            (
                client.with_options(api_key=poor.secret),
                {},
                openai.APIStatusError,
                "Top up the wallet",
                "insufficient_quota",
                "insufficient_quota",
            ),
            (
                client,
                {"model": "gpt-nobody"},
                openai.NotFoundError,
                "not offered here",
                "model_not_found",
                "invalid_request_error",
            ),
            (
                client.with_options(api_key=narrow.secret),
                {},
                openai.PermissionDeniedError,
                f"allowed: {GPT}",
                "forbidden",
                "permission_error",
            ),
            (client, {"n": 3}, openai.BadRequestError, r"\bn\b", None, "invalid_request_error"),
            (client, {"messages": []}, openai.BadRequestError, "messages", None, "invalid_request_error"),
        ]
        for who, fields, kind, words, code, type_ in expected:
            for stream in (False, True):
                with pytest.raises(kind, match=words) as caught:
                    await who.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, "stream": stream, **fields})
                error = caught.value
                assert error.type == type_ and (code is None or error.code == code)
                assert error.request_id == error.response.headers["x-request-id"]
                assert error.request_id is not None and error.request_id.startswith("req_")
    statuses = [401, 402, 404, 403, 400, 400]
    assert [visit.status for visit in scene.asked] == [status for status in statuses for _ in range(2)], "none is tried again"
    assert scene.served == []
    await scene.assert_settled()


@EITHER
async def test_limits_and_failures_of_the_provider(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    async with client_of(scene, alice) as client:
        scene.up.script(scripts.refuse(429, retry_after="1"), scripts.refuse(500))
        assert (await client.chat.completions.create(model=model, messages=MESSAGES)).choices[0].message.content == SAID
        assert [visit.status for visit in scene.asked] == [429, 502, 200]
        scene.up.default = scripts.refuse(529)
        impatient = client.with_options(max_retries=0)
        with pytest.raises(openai.InternalServerError, match="provider behind this gateway is overloaded"):
            await impatient.chat.completions.create(model=model, messages=MESSAGES)
        scene.up.default = scripts.refuse(429, retry_after="3600")
        with pytest.raises(openai.RateLimitError, match=r"limits its requests right now.*asks to wait 3600 s") as caught:
            await client.chat.completions.create(model=model, messages=MESSAGES)
        assert "organization" not in str(caught.value)
    assert [visit.status for visit in scene.asked[3:]] == [529, 429]
    assert len(await scene.gateway.usage_rows()) == 1
    await scene.assert_settled()


async def test_a_limit_of_the_key_is_waited_out(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice", rpm=30)
    walk = scene.gateway.house.walk
    for _ in range(30):
        walk.limits.take_request(alice.key.root_id, alice.key.terms, walk.clock.now_ms())
    async with client_of(scene, alice) as client:
        raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
        assert [visit.status for visit in scene.asked] == [429, 200]
        assert raw.headers["x-ratelimit-limit-requests"] == "30"
        patient = client.with_options(max_retries=0)
        asking = (patient.chat.completions.create(model=MODEL, messages=MESSAGES) for _ in range(5))
        results = await asyncio.gather(*asking, return_exceptions=True)
    refused = [result for result in results if isinstance(result, openai.RateLimitError)]
    assert len(refused) >= 3 and "may make 30 requests per minute" in str(refused[0])
    assert refused[0].code == "rate_limit_exceeded"
    await scene.assert_settled()


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_what_the_provider_refuses_is_told_in_its_words(scene: Scene, status: int) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.default = scripts.refuse(status, "messages.0: the wording of the provider")
    async with client_of(scene, alice) as client:
        for model in (MODEL, GPT):
            with pytest.raises(openai.APIStatusError, match="the wording of the provider") as caught:
                await client.chat.completions.create(model=model, messages=MESSAGES)
            assert caught.value.status_code == status and caught.value.type == "invalid_request_error"
            assert caught.value.request_id is not None and caught.value.request_id.startswith("req_")
            assert "upstream" not in caught.value.request_id
    await scene.assert_settled()


# ── streams that break, clients that leave ───────────────────────────────────────────────────────────────────────────


@EITHER
@pytest.mark.parametrize("how", ["reset", "fin", "clean"])
async def test_a_stream_that_breaks_off_never_looks_complete(scene: Scene, model: str, how: scripts.CutWay) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(scripts.cut("middle", how, Reply(text=("some ",) * 20)))
    got = []
    async with client_of(scene, alice) as client:
        with pytest.raises(openai.APIError, match="broke off its answer"):
            async for chunk in await client.chat.completions.create(model=model, messages=MESSAGES, stream=True):
                got.append(chunk)
    assert got and {choice.finish_reason for chunk in got for choice in chunk.choices} == {None}
    assert len(scene.asked) == 1
    (row,) = await scene.gateway.usage_rows()
    assert row["source"] == "partial"
    await scene.assert_settled()


@EITHER
async def test_an_error_in_the_stream_is_raised(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(scripts.error_after(3), scripts.error_first())
    async with client_of(scene, alice, max_retries=1) as client:
        with pytest.raises(openai.APIError, match="broken in the middle"):
            async for _ in await client.chat.completions.create(model=model, messages=MESSAGES, stream=True):
                pass
        # Before the first event it is a refusal like any other, and tried again.
        chunks = [chunk async for chunk in await client.chat.completions.create(model=model, messages=MESSAGES, stream=True)]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert [visit.status for visit in scene.asked] == [200, 529, 200]
    await scene.assert_settled()


@EITHER
async def test_a_client_that_leaves_a_stream_pays_for_what_was_made(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(scripts.answer(Reply(text=("word ",) * 500, usage=Usage(input_tokens=25, output_tokens=1000)), pace_s=0.01))
    async with client_of(scene, alice) as client:
        stream = await client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
    await scene.assert_settled()
    assert not scene.served[0].finished
    (row,) = await scene.gateway.usage_rows()
    assert row["source"] == "estimated" and 0 < row["output_tokens"] < 500
    await scene.assert_settled()


@EITHER
async def test_a_client_that_times_out_on_a_whole_answer_still_pays_for_it(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    finished = asyncio.Event()
    scene.up.script(scripts.answer(released=finished))
    async with client_of(scene, alice, timeout=1, max_retries=0) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(model=model, messages=MESSAGES)
    finished.set()
    await scene.assert_settled()
    assert [row["source"] for row in await scene.gateway.usage_rows()] == ["reported"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_claudes_thinking_lives_on_in_a_message_that_is_sent_back_as_it_came(scene: Scene, streamed: bool) -> None:
    alice = await scene.gateway.make_user("alice")
    thought = Reply(thinking=("Let me ", "see."), text=("A moment.",), tool="get_weather", tool_input={"town": "Oslo"})
    scene.up.script(scripts.answer(thought), scripts.answer(Reply(text=("Rain.",))))
    asked: Any = {"model": MODEL, "tools": [WEATHER], "reasoning_effort": "low"}
    async with client_of(scene, alice) as client:
        if streamed:
            async with client.chat.completions.stream(messages=MESSAGES, **asked) as stream:
                asking = await stream.get_final_completion()
        else:
            asking = await client.chat.completions.create(messages=MESSAGES, **asked)
        message = asking.choices[0].message
        assert message.tool_calls is not None
        assert message.model_extra is not None and message.model_extra["reasoning_content"] == "Let me see."
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
        answer = await client.chat.completions.create(messages=[*MESSAGES, message, result], **asked)
    assert answer.choices[0].message.content == "Rain."
    turn = scene.served[1].json["messages"][1]["content"]
    assert turn[0] == {"type": "thinking", "thinking": "Let me see.", "signature": "c2lnbmF0dXJl"}
    assert [block["type"] for block in turn] == ["thinking", "text", "tool_use"]
    await scene.assert_settled()
