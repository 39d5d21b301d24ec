"""The real Claude Code on a model that speaks Chat Completions: every turn is translated, there and back.

What it does with a refusal rests on the words it is told (PROTOCOL.md, "Anthropic gateway contract"): for each of them that it
recovers from, its repeat is looked at.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.usage import Usage
from tests.clients.test_claude_code import as_bearer
from tests.clients.tools import DOT, GPT, LOCAL, LOCAL_THERE, SAID, Scene, claude, needs_claude, open_scene, together
from tests.upstream import contains
from tests.upstreams import scripts
from tests.upstreams.exchange import Seen
from tests.upstreams.replies import Reply

pytestmark = [pytest.mark.clients, needs_claude]

ON_GPT = ("--model", GPT)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path) as opened:
        yield opened


def results(seen: Seen) -> dict[str, str]:
    """What the tools gave in the last round of a request, by the id of their call, in the order of the calls."""
    messages = seen.json["messages"]
    turn = max(number for number, message in enumerate(messages) if message["role"] == "assistant")
    given = {message["tool_call_id"]: message["content"] for message in messages[turn + 1 :] if message["role"] == "tool"}
    asked = [call["id"] for call in messages[turn]["tool_calls"]]
    # Servers refuse a call without a result, and a result that does not follow its call.
    assert [message["role"] for message in messages[turn + 1 :]][: len(asked)] == ["tool"] * len(asked)
    assert set(given) == set(asked)
    return {call: given[call] for call in asked}


# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_plain_turn(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    spent = Usage(input_tokens=9000, cache_read_tokens=7000, output_tokens=80)
    scene.up.default = scripts.answer(Reply(usage=spent))
    ran = await claude(scene, as_bearer(alice), *ON_GPT)
    assert (ran.code, ran.json["result"], ran.json["stop_reason"]) == (0, SAID, "end_turn")
    (served,) = scene.served
    assert (served.target, served.header("authorization")) == ("/v1/chat/completions", "Bearer upstream-secret-chat")
    assert alice.secret not in str(served.headers)
    assert not [name for name, _ in served.headers if name.startswith(("anthropic-", "x-claude"))]
    sent = served.json
    assert (sent["model"], sent["stream"], sent["stream_options"]) == (GPT, True, {"include_usage": True})
    assert sent["reasoning_effort"] == "high" and len(sent["user"]) == 64
    assert sent["messages"][0]["role"] == "system" and b"x-anthropic-billing-header" not in served.body
    assert {tool["type"] for tool in sent["tools"]} == {"function"}
    told = {name: ran.json["usage"][name] for name in ("input_tokens", "cache_read_input_tokens", "output_tokens")}
    assert told == {"input_tokens": 9000, "cache_read_input_tokens": 7000, "output_tokens": 80}
    (row,) = await scene.gateway.usage_rows()
    assert (row["model"], row["upstream"], row["source"]) == (GPT, "chat", "reported")
    assert row["cost_nanos"] == 9000 * 1250 + 7000 * 125 + 80 * 10_000
    session = scene.asked[0].headers["x-claude-code-session-id"]
    assert await scene.gateway.table("select session, stream, status from request_details") == [(session, 1, 200)]
    await scene.assert_settled()


async def test_a_model_that_is_called_otherwise_there(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.default = scripts.answer(Reply(thinking=("Let me ", "see."), usage=Usage(input_tokens=50, output_tokens=20)))
    ran = await claude(scene, as_bearer(alice), "--model", LOCAL)
    assert ran.json["result"] == SAID
    assert list(ran.json["modelUsage"]) == [LOCAL] and LOCAL_THERE not in ran.told
    # It asks for more than this model can write.
    assert json.loads(scene.asked[0].body)["max_tokens"] == 32_000
    assert (scene.served[0].model, scene.served[0].json["max_tokens"]) == (LOCAL_THERE, 8192)
    await scene.assert_settled()


async def test_every_alias_and_the_helper_may_be_such_a_model(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    names = {f"ANTHROPIC_DEFAULT_{family}_MODEL": GPT for family in ("OPUS", "SONNET", "HAIKU", "FABLE")}
    task = {"description": "Say hi", "prompt": "Say hi and nothing else.", "subagent_type": "general-purpose"}
    scene.up.script(scripts.answer(Reply(text=(), tool="Agent", tool_input=task)))
    ran = await claude(scene, {**as_bearer(alice), **names, "CLAUDE_CODE_GATEWAY_HINT_HEADERS": "1"})
    assert ran.code == 0
    assert {seen.model for seen in scene.served} == {GPT} and len(scene.served) >= 2
    (session,) = {visit.headers["x-claude-code-session-id"] for visit in scene.asked}
    agents = {visit.headers.get("x-claude-code-agent-id", "") for visit in scene.asked}
    assert len(agents) == 2
    kept = await scene.gateway.table("select distinct session, agent from request_details")
    assert set(kept) == {(session, agent) for agent in agents}
    await scene.assert_settled()


async def test_tool_turns(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    home = scene.home()
    note = home / "note.txt"
    note.write_text("the secret word is kumquat")
    read = {"file_path": str(note)}
    count = {"command": "echo $((6 * 7))", "description": "Multiply"}
    scene.up.script(
        scripts.answer(Reply(thinking=("A file.",), text=("Let me look.",), tool="Read", tool_input=read)),
        scripts.answer(Reply(text=(), tool="Bash", tool_input=count)),
        scripts.answer(Reply(text=("It is kumquat, and 42.",))),
    )
    ran = await claude(scene, as_bearer(alice), *ON_GPT, "--allowedTools", "Read,Bash(echo:*)", home=home)
    assert (ran.json["result"], ran.json["num_turns"]) == ("It is kumquat, and 42.", 3)
    (looked,) = results(scene.served[1]).values()
    assert "the secret word is kumquat" in looked
    assert list(results(scene.served[2]).values()) == ["42"]
    calls = [call for message in scene.served[2].json["messages"] for call in message.get("tool_calls", ())]
    # The upstream numbers the calls of each answer from 0; what comes back is told apart.
    assert len({call["id"] for call in calls}) == 2
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [read, count]
    assert b"A file." not in scene.served[1].body, "thinking belongs to who thought it"
    await scene.assert_settled()


async def test_parallel_tools_and_one_that_fails(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    home = scene.home()
    for name in ("one", "two"):
        (home / f"{name}.txt").write_text(f"the word is {name}")
    paths = [{"file_path": str(home / f"{name}.txt")} for name in ("one", "two", "missing")]
    more = tuple(("Read", path) for path in paths[1:])
    scene.up.script(
        scripts.answer(Reply(text=("Three at once.",), tool="Read", tool_input=paths[0], more_tools=more)),
        scripts.answer(Reply(text=("Two of three.",))),
    )
    ran = await claude(scene, as_bearer(alice), *ON_GPT, "--allowedTools", "Read", home=home)
    assert ran.json["result"] == "Two of three."
    first, second, third = results(scene.served[1]).values()
    assert "the word is one" in first and "the word is two" in second
    assert third.startswith("Error: ") and "does not exist" in third
    await scene.assert_settled()


def tools_of(seen: Seen) -> set[str]:
    return {tool["function"]["name"] for tool in seen.json["tools"]}


async def test_a_deferred_tool_is_sent_once_it_was_searched_for(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(scripts.answer(Reply(text=(), tool="ToolSearch", tool_input={"query": "select:WebFetch", "max_results": 1})))
    ran = await claude(scene, as_bearer(alice), *ON_GPT)
    assert ran.json["result"] == SAID
    first, second = map(tools_of, scene.served)
    assert second - first == {"WebFetch"} and first < second
    assert "DeferredToolPlaceholder" not in first
    (found,) = results(scene.served[1]).values()
    assert "WebFetch" in found
    await scene.assert_settled()


async def test_anthropics_own_web_search_fails_where_the_model_sees_it(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(scripts.answer(Reply(text=(), tool="WebSearch", tool_input={"query": "weather in Oslo"})))
    ran = await claude(scene, as_bearer(alice), *ON_GPT, "--allowedTools", "WebSearch")
    assert ran.json["result"] == SAID
    statuses = [visit.status for visit in scene.asked]
    assert statuses[0] == statuses[-1] == 200 and set(statuses[1:-1]) == {400}
    (told,) = results(scene.served[1]).values()
    assert told.startswith("Error: ") and "web_search_20250305 cannot be carried: the tool runs at Anthropic" in told
    assert len(scene.served) == 2
    await scene.assert_settled()


async def test_a_picture_that_a_tool_read_is_shown_to_the_model(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    home = scene.home()
    picture = home / "dot.png"
    picture.write_bytes(DOT)
    scene.up.script(
        scripts.answer(Reply(text=(), tool="Read", tool_input={"file_path": str(picture)})),
        scripts.answer(Reply(text=("A dot.",))),
    )
    ran = await claude(scene, as_bearer(alice), *ON_GPT, "--allowedTools", "Read", home=home)
    assert ran.json["result"] == "A dot."
    parts = [part for message in scene.served[1].json["messages"] for part in message["content"] or () if isinstance(part, dict)]
    (shown,) = [part for part in parts if part["type"] == "image_url"]
    assert shown["image_url"]["url"].startswith("data:image/png;base64,")
    assert results(scene.served[1])
    await scene.assert_settled()


async def test_tokens_are_estimated_for_context(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice", "0")
    # Of a model that it does not know it believes a million tokens, unless it is told.
    env = {**as_bearer(alice), "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "128000"}
    ran = await claude(scene, env, *ON_GPT, prompt="/context")
    assert ran.code == 0 and f"**Model:** {GPT}" in ran.json["result"]
    assert "k / 128k (" in ran.json["result"]
    assert "| System tools | " in ran.json["result"]
    counts = [visit for visit in scene.tap.journal if visit.path.endswith("/count_tokens")]
    assert {visit.status for visit in counts} == {200}
    assert all(b"x-gateway-estimated: true" in bytes(visit.answer).lower() for visit in counts)
    assert scene.up.journal == [], "an OpenAI upstream counts nothing"
    assert await scene.gateway.usage_rows() == []
    await scene.assert_settled()


# ── refusals that it recovers from ───────────────────────────────────────────────────────────────────────────────────


def requests(scene: Scene) -> list[tuple[int, dict[str, Any]]]:
    return [(visit.status, json.loads(visit.body)) for visit in scene.asked]


async def test_a_prompt_that_is_too_long(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.default = scripts.refuse(
        400,
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 130043 tokens. Please reduce"
        " the length of the messages.",
    )
    ran = await claude(scene, as_bearer(alice), *ON_GPT)
    assert ran.json["terminal_reason"] == "prompt_too_long"
    # Claude Code's own words around the numbers of the upstream.
    assert ran.json["result"].startswith("Prompt is too long · the request is ~130043 tokens (limit 128000)")
    assert [visit.status for visit in scene.asked] == [400]
    error = json.loads(scene.asked[0].answer.partition(b"\r\n\r\n")[2])["error"]
    assert error["upstream_message"].startswith("This model's maximum context length is 128000 tokens.")
    assert await scene.gateway.usage_rows() == []
    await scene.assert_settled()


@pytest.mark.parametrize(
    ("told", "asked_next"),
    [
        (
            "This model's maximum context length is 32768 tokens. However, you requested 50000 tokens (18000 in the messages,"
            " 32000 in the completion). Please reduce the length of the messages or completion.",
            13_768,
        ),
        (
            "max_tokens is too large: 32000. This model supports at most 16384 completion tokens, whereas you provided 32000.",
            15_384,
        ),
    ],
)
async def test_an_answer_that_would_not_fit_is_asked_for_shorter(scene: Scene, told: str, asked_next: int) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(scripts.refuse(400, told))
    ran = await claude(scene, as_bearer(alice), *ON_GPT)
    assert ran.json["result"] == SAID
    assert [(status, body["max_tokens"]) for status, body in requests(scene)] == [(400, 32_000), (200, asked_next)]
    assert scene.served[1].json["max_tokens"] == asked_next
    await scene.assert_settled()


async def test_capabilities_that_a_server_lacks_are_left_out(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    effort = "Unrecognized request argument supplied: reasoning_effort"
    scene.up.when(contains(b'"reasoning_effort"'), scripts.refuse(400, effort))
    scene.up.script(scripts.refuse(400, "System message must be at the beginning."))
    ran = await claude(scene, as_bearer(alice), *ON_GPT)
    assert ran.json["result"] == SAID
    assert [visit.status for visit in scene.asked] == [400, 400, 200]
    assert [visit.told for visit in scene.asked[:2]] == [
        "capability_rejected: effort_unsupported",
        "capability_rejected: mid_conv_system",
    ]
    last = scene.served[-1].json
    assert "reasoning_effort" not in last
    assert "system" not in [message["role"] for message in last["messages"][1:]]
    await scene.assert_settled()


# ── refusals and failures that are told ──────────────────────────────────────────────────────────────────────────────


async def test_a_refusal_is_shown_in_the_upstreams_words(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.default = scripts.refuse(400, "Invalid schema for function 'Read': this wording is the upstream's.")
    ran = await claude(scene, as_bearer(alice), *ON_GPT)
    assert "API Error: 400 Invalid schema for function 'Read': this wording is the upstream's." in ran.json["result"]
    assert {visit.status for visit in scene.asked} == {400}
    assert await scene.gateway.usage_rows() == []
    await scene.assert_settled()


async def test_limits_and_failures_of_the_upstream(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(scripts.refuse(429, retry_after="1"), scripts.refuse(500), scripts.error_first("server_error", "boom"))
    ran = await claude(scene, as_bearer(alice), *ON_GPT)
    assert ran.json["result"] == SAID
    assert [visit.status for visit in scene.asked] == [429, 502, 502, 200]
    assert [row["source"] for row in await scene.gateway.usage_rows()] == ["reported"]
    await scene.assert_settled()


async def test_a_limit_that_stays_and_a_failure_that_stays(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.when(contains(b'"model":"gpt'), scripts.refuse(429, retry_after="3600"))
    scene.up.when(contains(b'"model":"Qwen'), scripts.refuse(500))
    limited, failed = await together(
        claude(scene, as_bearer(alice), *ON_GPT),
        claude(scene, {**as_bearer(alice), "CLAUDE_CODE_MAX_RETRIES": "1"}, "--model", LOCAL),
    )
    assert "Request rejected (429) · The provider behind this gateway limits its requests right now" in limited.json["result"]
    assert "API Error: 502 The provider behind this gateway failed; nothing was charged." in failed.json["result"]
    # Its organisation, its secret and its own limits are not the client's business.
    assert "org-leak" not in limited.told + failed.told
    assert sorted(visit.status for visit in scene.asked) == [429, 502, 502]
    assert await scene.gateway.usage_rows() == []
    await scene.assert_settled()


async def test_an_error_in_the_stream_and_cuts_are_repeated_whole_and_charged(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    some = Reply(text=("some ",) * 20)
    breaks = [scripts.error_after(3), scripts.cut("middle", reply=some), scripts.cut("middle", "clean", some)]
    for broken in breaks:
        scene.up.script(broken)
        ran = await claude(scene, as_bearer(alice), *ON_GPT)
        assert ran.json["result"] == SAID
    assert [visit.status for visit in scene.asked] == [200] * 6
    assert [body["stream"] for _, body in requests(scene)] == [True, False] * 3
    for visit in scene.asked[::2]:
        assert b"event: error" in visit.answer and b"event: message_stop" not in visit.answer
    assert [row["source"] for row in await scene.gateway.usage_rows()] == ["partial", "reported"] * 3
    await scene.assert_settled()


async def test_a_server_that_tells_no_usage_is_charged_by_estimate(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.default = scripts.answer(Reply(reporting="none"))
    ran = await claude(scene, as_bearer(alice), *ON_GPT)
    assert ran.json["result"] == SAID
    (row,) = await scene.gateway.usage_rows()
    assert (row["source"], row["flags"]) == ("estimated", "usage_missing")
    # What the client is told is what is charged.
    told = ran.json["usage"]
    assert (told["input_tokens"], told["output_tokens"]) == (row["input_tokens"], row["output_tokens"])
    await scene.assert_settled()
