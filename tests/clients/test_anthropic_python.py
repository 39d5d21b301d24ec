"""The anthropic Python SDK as its users write it: synchronous, asynchronous, streamed, with tools, with its own retries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from gateway.access import make_secret
from gateway.usage import Usage
from tests.clients.tools import SAID, Scene, open_scene
from tests.gateway_tools import MODEL, User
from tests.upstreams import scripts
from tests.upstreams.replies import Reply, render_message

pytestmark = pytest.mark.clients

SAY_HI: Any = {"model": MODEL, "max_tokens": 200, "messages": [{"role": "user", "content": "say hi"}]}
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a town.",
    "input_schema": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
}
BOTH_CREDENTIALS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path, "[billing]\ndrain_seconds = 0.2\n") as opened:
        yield opened


def client_of(scene: Scene, user: User, **options: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(**{"api_key": user.secret, "base_url": scene.url, **options})


# ── where, and as whom ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("base", ["", "/", "/v1", "/api", "/api/v1", "/api/proxy"])
async def test_every_base_url_works(scene: Scene, base: str) -> None:
    alice = await scene.gateway.make_user("alice")
    async with client_of(scene, alice, base_url=scene.url + base) as client:
        message = await client.messages.create(**SAY_HI)
        assert message.content[0].text == SAID
        assert (await client.messages.count_tokens(model=MODEL, messages=SAY_HI["messages"])).input_tokens == 42
        assert (await client.models.retrieve(MODEL)).id == MODEL
    assert [seen.target for seen in scene.up.journal] == ["/v1/messages", "/v1/messages/count_tokens"]
    await scene.assert_settled()


@pytest.mark.parametrize("variables", [BOTH_CREDENTIALS[:1], BOTH_CREDENTIALS[1:]])
async def test_either_credential_variable_works(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, variables: tuple[str, ...]
) -> None:
    alice = await scene.gateway.make_user("alice")
    for name in BOTH_CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    for name in variables:
        monkeypatch.setenv(name, alice.secret)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", scene.url)
    async with anthropic.AsyncAnthropic() as client:
        assert (await client.messages.create(**SAY_HI)).stop_reason == "end_turn"
    # Since 2.0 a plain api_key travels as a bearer token too.
    assert scene.asked[0].headers["authorization"] == f"Bearer {alice.secret}"
    assert alice.secret not in str(scene.served[0].headers)
    await scene.assert_settled()


async def test_what_the_sdk_sends_reaches_the_upstream_as_it_was_sent(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    async with client_of(scene, alice, default_headers={"anthropic-beta": "never-heard-of-2027-01-01"}) as client:
        message = await client.beta.messages.create(**SAY_HI, betas=["another-2026-12-31"], extra_body={"unknown": {"a": [1, 2]}})
    asked, served = scene.asked[0], scene.served[0]
    assert served.body == asked.body and served.json["unknown"] == {"a": [1, 2]}
    assert served.query == asked.target.partition("?")[2]
    for name in ("anthropic-version", "anthropic-beta"):
        assert served.header(name) == asked.headers[name]
    assert message.usage.output_tokens == 12
    await scene.assert_settled()


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

RICH = Reply(
    thinking=("Let me ", "see."),
    text=("The weather, ", "ä ö 🌦, ", "in a moment."),
    tool="get_weather",
    tool_input={"town": "Köln", "days": [1, 2, 3]},
    usage=Usage(input_tokens=1000, output_tokens=90, cache_read_tokens=300, cache_write_5m_tokens=50, cache_write_1h_tokens=7),
)


async def test_the_streaming_helper_assembles_the_message_that_the_provider_made(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(scripts.answer(RICH))
    async with client_of(scene, alice) as client, client.messages.stream(**SAY_HI, tools=[WEATHER]) as stream:
        texts = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert texts == list(RICH.text)
    whole = json.loads(render_message(RICH, MODEL))
    assembled = message.to_dict()
    assert assembled["content"] == whole["content"]
    assert (message.stop_reason, message.model, message.id) == ("tool_use", MODEL, whole["id"])
    assert {name: assembled["usage"][name] for name in whole["usage"]} == whole["usage"]
    await scene.assert_settled()


async def test_raw_events_come_in_the_providers_order(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    async with client_of(scene, alice) as client:
        kinds = [event.type async for event in await client.messages.create(**SAY_HI, stream=True)]
    deltas = ["content_block_delta"] * 3
    assert kinds == ["message_start", "content_block_start", *deltas, "content_block_stop", "message_delta", "message_stop"]
    await scene.assert_settled()


async def test_a_tool_turn(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(
        scripts.answer(Reply(tool="get_weather", tool_input={"town": "Oslo"})), scripts.answer(Reply(text=("Rain in Oslo.",)))
    )
    async with client_of(scene, alice) as client:
        turns: list[Any] = list(SAY_HI["messages"])
        asking = await client.messages.create(**{**SAY_HI, "messages": turns}, tools=[WEATHER])
        call = asking.content[-1]
        assert (asking.stop_reason, call.type, call.input) == ("tool_use", "tool_use", {"town": "Oslo"})
        turns.append({"role": "assistant", "content": asking.content})
        turns.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}]})
        answer = await client.messages.create(**{**SAY_HI, "messages": turns}, tools=[WEATHER])
    assert answer.content[0].text == "Rain in Oslo."
    assert scene.served[1].json["messages"][1]["content"][-1]["id"] == call.id
    await scene.assert_settled()


async def test_the_synchronous_client(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")

    def talk() -> tuple[str, str, str | None]:
        with anthropic.Anthropic(api_key=alice.secret, base_url=scene.url) as client:
            whole = client.messages.create(**SAY_HI)
            with client.messages.stream(**SAY_HI) as stream:
                return whole.content[0].text, stream.get_final_text(), whole._request_id

    whole, streamed, request_id = await asyncio.to_thread(talk)
    assert whole == streamed == SAID
    usage = (await scene.gateway.get(alice, f"/v1/usage/{request_id}")).json
    assert (usage["input_tokens"], usage["output_tokens"], usage["status"]) == (25, 12, "settled")
    await scene.assert_settled()


async def test_count_tokens_is_free(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice", "0")
    async with client_of(scene, alice) as client:
        counted = await client.messages.count_tokens(
            model=MODEL, messages=SAY_HI["messages"], system="Be brief.", tools=[WEATHER]
        )
    assert counted.input_tokens == 42
    assert await scene.gateway.usage_rows() == []
    await scene.assert_settled()


async def test_models_are_paged_forwards_and_backwards_to_the_end(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    everything = [model.id for model in scene.gateway.house.walk.catalog]
    async with client_of(scene, alice) as client:
        assert [model.id async for model in client.models.list(limit=4)] == everything
        pages = len([visit for visit in scene.tap.journal if visit.path == "/v1/models"])
        assert pages == -(-len(everything) // 4)
        before = [model.id async for model in client.models.list(limit=4, before_id=everything[6])]
        assert sorted(before) == sorted(everything[:6])
        model = await client.models.retrieve(MODEL)
    assert (model.type, model.lifecycle, model.max_tokens) == ("model", "active", 128_000)
    assert model.display_name and model.created_at.tzinfo is not None
    await scene.assert_settled()


async def test_a_key_sees_only_the_models_it_may_use(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice", models=frozenset({MODEL}))
    async with client_of(scene, alice) as client:
        assert [model.id async for model in client.models.list()] == [MODEL]
        with pytest.raises(anthropic.PermissionDeniedError, match=f"allowed: {MODEL}"):
            await client.messages.create(**{**SAY_HI, "model": "claude-opus-5-5"})
    assert len(scene.asked) == 1 and scene.served == []
    await scene.assert_settled()


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_bad_key_is_told_at_once(scene: Scene) -> None:
    for secret in (make_secret("sk-pgrid-"), "sk-pgrid-mistyped", "sk-ant-somebody-elses"):
        async with anthropic.AsyncAnthropic(api_key=secret, base_url=scene.url) as client:
            with pytest.raises(anthropic.AuthenticationError) as caught:
                await client.messages.create(**SAY_HI)
        assert secret not in str(caught.value)
    assert [visit.status for visit in scene.asked] == [401, 401, 401]
    assert scene.served == []
    await scene.assert_settled()


async def test_an_empty_wallet_is_told_once(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice", "0")
    async with client_of(scene, alice) as client:
        with pytest.raises(anthropic.APIStatusError, match="Top up the wallet to go on") as caught:
            await client.messages.create(**SAY_HI)
        with pytest.raises(anthropic.APIStatusError, match="Top up the wallet to go on"):
            async with client.messages.stream(**SAY_HI):
                pass
    assert (caught.value.status_code, caught.value.type) == (402, "billing_error")
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]
    assert [visit.status for visit in scene.asked] == [402, 402]
    await scene.assert_settled()


async def test_an_unknown_model_and_a_missing_field(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    async with client_of(scene, alice) as client:
        with pytest.raises(anthropic.NotFoundError, match="claude-nobody-9 is not offered here"):
            await client.messages.create(**{**SAY_HI, "model": "claude-nobody-9"})
        with pytest.raises(anthropic.BadRequestError, match="max_tokens is required"):
            await client.post("/v1/messages", cast_to=object, body={"model": MODEL, "messages": SAY_HI["messages"]})
    assert [visit.status for visit in scene.asked] == [404, 400]
    await scene.assert_settled()


async def test_a_rate_limit_is_waited_out(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice", rpm=30)
    walk = scene.gateway.house.walk
    for _ in range(30):
        walk.limits.take_request(alice.key.root_id, alice.key.terms, walk.clock.now_ms())
    async with client_of(scene, alice) as client:
        assert (await client.messages.create(**SAY_HI)).stop_reason == "end_turn"
        assert [visit.status for visit in scene.asked] == [429, 200]
        patient = client.with_options(max_retries=0)
        results = await asyncio.gather(*(patient.messages.create(**SAY_HI) for _ in range(5)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, anthropic.RateLimitError)]
    assert len(refused) >= 3 and "may make 30 requests per minute" in str(refused[0])
    await scene.assert_settled()


async def test_an_overloaded_provider_is_asked_as_often_as_the_sdk_retries(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.default = scripts.refuse(529)
    async with client_of(scene, alice, max_retries=1) as client:
        with pytest.raises(anthropic.OverloadedError, match="provider behind this gateway is overloaded"):
            await client.messages.create(**SAY_HI)
    assert [visit.status for visit in scene.asked] == [529, 529]
    assert len(scene.served) == 2
    assert await scene.gateway.usage_rows() == []
    await scene.assert_settled()


@pytest.mark.parametrize("how", ["reset", "fin", "clean"])
async def test_a_stream_that_breaks_off_never_looks_complete(scene: Scene, how: scripts.CutWay) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(scripts.cut("middle", how, Reply(text=("some ",) * 20)))
    async with client_of(scene, alice) as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            async with client.messages.stream(**SAY_HI) as stream:
                await stream.get_final_message()
    assert caught.value.type == "api_error"
    assert [row["source"] for row in await scene.gateway.usage_rows()] == ["partial"]
    assert len(scene.asked) == 1
    await scene.assert_settled()


# ── clients that leave ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_client_that_times_out_on_a_whole_answer_still_pays_for_it(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    finished = asyncio.Event()
    scene.up.script(scripts.answer(released=finished))
    async with client_of(scene, alice, timeout=1, max_retries=0) as client:
        with pytest.raises(anthropic.APITimeoutError):
            await client.messages.create(**SAY_HI)
    finished.set()
    await scene.assert_settled()
    assert [row["source"] for row in await scene.gateway.usage_rows()] == ["reported"]


async def test_a_client_that_times_out_before_the_first_event_pays_nothing(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(scripts.never())
    async with client_of(scene, alice, timeout=1, max_retries=0) as client:
        with pytest.raises(anthropic.APITimeoutError):
            async with client.messages.stream(**SAY_HI):
                pass
    await scene.assert_settled()
    assert await scene.gateway.usage_rows() == []
    assert scene.served[0].gone.is_set()


async def test_a_client_that_leaves_a_stream_pays_for_what_was_made(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(scripts.answer(Reply(text=("word ",) * 500, usage=Usage(input_tokens=25, output_tokens=1000)), pace_s=0.01))
    async with client_of(scene, alice) as client, client.messages.stream(**SAY_HI) as stream:
        async for _ in stream.text_stream:
            break
    await scene.assert_settled()
    assert not scene.served[0].finished
    row = (await scene.gateway.usage_rows())[0]
    assert (row["source"], row["input_tokens"]) == ("estimated", 25)
    assert 0 < row["output_tokens"] < 500
