"""The real Claude Code, not interactive, against the gateway: what it sends, what it does with our answers, what its user sees.

How many requests a refusal costs and what is shown of it is as PROTOCOL.md's table says; a new release that behaves otherwise
fails here first.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.access import make_secret
from gateway.usage import Usage
from tests.clients.tools import SAID, Scene, claude, needs_claude, open_scene, together
from tests.gateway_tools import User
from tests.upstreams import scripts
from tests.upstreams.replies import Reply

pytestmark = [pytest.mark.clients, needs_claude]

ALIASES = {
    "opus": "claude-opus-5-5",
    "sonnet": "claude-sonnet-5-5",
    "haiku": "claude-haiku-5-5",
    "fable": "claude-fable-5-2",
}
# A person who waits longer for "wrong key" takes the gateway for dead.
BAD_KEY_WITHIN_S = 15


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path) as opened:
        yield opened


def as_bearer(user: User) -> dict[str, str]:
    """The set-up that we recommend."""
    return {"ANTHROPIC_AUTH_TOKEN": user.secret, "ANTHROPIC_API_KEY": ""}


# ── turns ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_plain_turn_reaches_the_upstream_as_it_was_sent(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    ran = await claude(scene, as_bearer(alice))
    assert (ran.code, ran.json["result"]) == (0, SAID)
    (asked,), (served,) = scene.asked, scene.served
    assert asked.target == "/v1/messages?beta=true" == served.target
    assert served.body == asked.body
    sent = {name: value for name, value in asked.headers.items() if name.startswith("anthropic-")}
    assert {"anthropic-version", "anthropic-beta"} <= sent.keys()
    assert {name: served.header(name) for name in sent} == sent
    assert served.json["system"][0]["text"].startswith("x-anthropic-billing-header: ")
    session = asked.headers["x-claude-code-session-id"]
    assert ran.json["session_id"] == session
    assert await scene.gateway.table("select session, stream, status from request_details") == [(session, 1, 200)]
    # Its own account of the price is ours, to the cent and below.
    assert round(ran.json["total_cost_usd"] * 10**9) == (await scene.gateway.usage_rows())[0]["cost_nanos"]
    await scene.assert_settled()


async def test_both_credential_variables_and_every_base_url_work(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    environments = [
        {"ANTHROPIC_API_KEY": alice.secret},
        {"ANTHROPIC_AUTH_TOKEN": alice.secret},
        # Both, with different values: the one that is ours counts.
        {"ANTHROPIC_AUTH_TOKEN": alice.secret, "ANTHROPIC_API_KEY": "sk-ant-somebody-elses"},
        {**as_bearer(alice), "ANTHROPIC_BASE_URL": f"{scene.url}/v1"},
        {**as_bearer(alice), "ANTHROPIC_BASE_URL": f"{scene.url}/api/proxy"},
    ]
    runs = await together(*(claude(scene, env) for env in environments))
    assert [ran.json["result"] for ran in runs] == [SAID] * 5
    assert {visit.path for visit in scene.asked} == {"/v1/messages", "/v1/v1/messages", "/api/proxy/v1/messages"}
    carried = [("x-api-key" in visit.headers, "authorization" in visit.headers) for visit in scene.asked]
    assert sorted(carried) == [(False, True), (False, True), (False, True), (True, False), (True, True)]
    for served in scene.served:
        assert served.target == "/v1/messages?beta=true"
        assert alice.secret not in str(served.headers) and "somebody" not in str(served.headers)
    await scene.assert_settled()


async def test_a_tool_turn(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    home = scene.home()
    note = home / "note.txt"
    note.write_text("the secret word is kumquat")
    scene.up.script(
        scripts.answer(Reply(text=("Let me look.",), tool="Read", tool_input={"file_path": str(note)})),
        scripts.answer(Reply(text=("It is kumquat.",))),
    )
    ran = await claude(scene, as_bearer(alice), "--allowedTools", "Read", home=home)
    assert (ran.json["result"], ran.json["num_turns"]) == ("It is kumquat.", 2)
    (result,) = scene.served[1].json["messages"][-1]["content"]
    assert result["type"] == "tool_result" and "the secret word is kumquat" in result["content"]
    await scene.assert_settled()


async def test_a_turn_with_a_command(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    command = {"command": "echo $((6 * 7))", "description": "Multiply"}
    scene.up.script(scripts.answer(Reply(text=(), tool="Bash", tool_input=command)), scripts.answer(Reply(text=("It is 42.",))))
    ran = await claude(scene, as_bearer(alice), "--allowedTools", "Bash(echo:*)")
    assert ran.json["result"] == "It is 42."
    assert scene.served[1].json["messages"][-1]["content"][0]["content"] == "42"
    await scene.assert_settled()


async def test_a_subagent_is_told_apart_from_its_session(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    task = {"description": "Say hi", "prompt": "Say hi and nothing else.", "subagent_type": "general-purpose"}
    scene.up.script(scripts.answer(Reply(text=(), tool="Agent", tool_input=task)))
    ran = await claude(scene, {**as_bearer(alice), "CLAUDE_CODE_GATEWAY_HINT_HEADERS": "1"})
    assert ran.code == 0
    (session,) = {visit.headers["x-claude-code-session-id"] for visit in scene.asked}
    agents = {visit.headers.get("x-claude-code-agent-id", "") for visit in scene.asked}
    classes = {visit.headers["x-claude-code-request-class"] for visit in scene.asked}
    assert len(agents) == 2 and classes == {"main", "subagent"}
    kept = await scene.gateway.table("select distinct session, agent from request_details")
    assert set(kept) == {(session, agent) for agent in agents}
    await scene.assert_settled()


async def test_the_aliases_name_models_that_we_offer(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    runs = await together(*(claude(scene, as_bearer(alice), "--model", alias) for alias in ALIASES))
    assert [ran.json["result"] for ran in runs] == [SAID] * len(ALIASES)
    assert sorted(seen.model for seen in scene.served) == sorted(ALIASES.values())
    assert sorted(row["model"] for row in await scene.gateway.usage_rows()) == sorted(ALIASES.values())
    await scene.assert_settled()


async def test_model_discovery_finds_our_list(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice", models=frozenset({"claude-opus-5-5", "claude-haiku-5-5"}))
    home = scene.home()
    await claude(scene, {**as_bearer(alice), "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1"}, "--model", "haiku", home=home)
    asked = [visit for visit in scene.tap.journal if visit.path == "/v1/models"]
    assert [(visit.target, visit.status) for visit in asked] == [("/v1/models?limit=1000", 200)]
    kept = json.loads((home / ".claude/cache/gateway-models.json").read_text())["models"]
    assert [model["id"] for model in kept] == ["claude-opus-5-5", "claude-haiku-5-5"]
    assert all(model["display_name"].startswith("Claude ") and model["description"] for model in kept)
    await scene.assert_settled()


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("variable", ["ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"])
async def test_a_bad_key_is_told_at_once(scene: Scene, variable: str) -> None:
    mistyped, unknown = await together(
        claude(scene, {variable: "sk-pgrid-" + "0" * 64}), claude(scene, {variable: make_secret("sk-pgrid-")})
    )
    assert mistyped.json["result"] == (
        "Failed to authenticate. API Error: 401 This key is mistyped or cut: its checksum does not match. Copy it again, whole."
    )
    assert "This key is unknown here: it was revoked, or its user was disabled." in unknown.json["result"]
    assert max(mistyped.seconds, unknown.seconds) < BAD_KEY_WITHIN_S
    assert [visit.status for visit in scene.asked] == [401, 401]
    assert scene.served == []
    await scene.assert_settled()


async def test_an_empty_wallet_is_told_once_and_verbatim(scene: Scene) -> None:
    empty, poor = await scene.gateway.make_user("empty", "0"), await scene.gateway.make_user("poor", "0.01")
    runs = await together(claude(scene, as_bearer(empty)), claude(scene, {"ANTHROPIC_API_KEY": poor.secret}))
    assert [visit.status for visit in scene.asked] == [402, 402]
    ours = {f"API Error: 402 {visit.told}" for visit in scene.asked}
    assert {ran.json["result"] for ran in runs} == ours
    assert all("Top up the wallet to go on." in told for told in ours)
    assert scene.served == []
    await scene.assert_settled()


async def test_models_that_are_not_offered_or_not_allowed(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice", models=frozenset({"claude-sonnet-5-5"}))
    unknown, forbidden = await together(
        claude(scene, as_bearer(alice), "--model", "claude-nobody-9"), claude(scene, as_bearer(alice), "--model", "opus")
    )
    # It words a 404 itself, after a second try that is not streamed.
    assert "There's an issue with the selected model (claude-nobody-9)" in unknown.json["result"]
    assert "This key may not use claude-opus-5-5; allowed: claude-sonnet-5-5." in forbidden.json["result"]
    assert sorted(visit.status for visit in scene.asked) == [403, 404, 404]
    assert scene.served == []
    await scene.assert_settled()


async def test_a_rate_limit_that_refills_soon_is_waited_out(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice", rpm=30)
    walk = scene.gateway.house.walk
    for _ in range(30):
        walk.limits.take_request(alice.key.root_id, alice.key.terms, walk.clock.now_ms())
    ran = await claude(scene, as_bearer(alice))
    assert ran.json["result"] == SAID
    statuses = [visit.status for visit in scene.asked]
    assert statuses in ([429, 200], [200]), "it starts slowly on a busy machine, and a token comes back every two seconds"
    await scene.assert_settled()


async def test_a_limit_that_stays_is_told_once(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.default = scripts.refuse(429, retry_after="3600")
    ran = await claude(scene, as_bearer(alice))
    assert "Request rejected (429) · The provider behind this gateway limits its requests right now" in ran.json["result"]
    assert "organization" not in ran.told, "the provider's own limits are not the client's business"
    assert [visit.status for visit in scene.asked] == [429]
    await scene.assert_settled()


# ── providers that fail ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_overloaded_provider_is_shown_after_three_tries(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.default = scripts.refuse(529)
    ran = await claude(scene, as_bearer(alice))
    assert (ran.code, ran.json["api_error_status"]) == (1, 529)
    assert "Repeated 529 Overloaded errors" in ran.json["result"]
    assert [visit.status for visit in scene.asked] == [529] * 3
    assert len(scene.served) == 3
    assert await scene.gateway.usage_rows() == []
    await scene.assert_settled()


async def test_a_provider_that_fails_once_is_not_noticed(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(scripts.refuse(500))
    ran = await claude(scene, as_bearer(alice))
    assert ran.json["result"] == SAID
    assert [visit.status for visit in scene.asked] == [502, 200]
    await scene.assert_settled()


async def test_a_refusal_of_the_provider_is_shown_in_its_words(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice", rpm=60)
    scene.up.default = scripts.refuse(400, "messages.7: this wording decides what the client tries next")
    ran = await claude(scene, as_bearer(alice))
    assert "API Error: 400 messages.7: this wording decides what the client tries next" in ran.json["result"]
    assert {visit.status for visit in scene.asked} == {400}
    assert len(scene.asked) > 1, "it tries again with fewer fields; those give their rate-limit tokens back"
    walk = scene.gateway.house.walk
    standing = walk.limits.requests_standing(alice.key.root_id, alice.key.terms, walk.clock.now_ms())
    assert standing is not None and standing.remaining >= 59
    await scene.assert_settled()


async def test_a_stream_that_breaks_is_repeated_whole_and_both_are_charged(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(scripts.cut("middle", reply=Reply(text=("some ",) * 20)))
    ran = await claude(scene, as_bearer(alice))
    assert ran.json["result"] == SAID
    assert [visit.status for visit in scene.asked] == [200, 200]
    assert [row["source"] for row in await scene.gateway.usage_rows()] == ["partial", "reported"]
    await scene.assert_settled()


async def test_a_wallet_that_runs_dry_in_mid_stream_ends_the_turn_with_our_message(scene: Scene) -> None:
    # Enough to be admitted, and to be admitted again with what is left: only the memory of the dry run refuses the repeat.
    alice = await scene.gateway.make_user("alice", "0.02")
    long = Reply(text=("word " * 400,) * 200, usage=Usage(input_tokens=20_000, output_tokens=100_000))
    scene.up.default = scripts.answer(long, pace_s=0.005)
    ran = await claude(scene, as_bearer(alice), "--model", "haiku")
    # The repeat is not streamed; or it is, where the end of the connection overtook the error event inside the client.
    assert [visit.status for visit in scene.asked] == [200, 402]
    assert b'"type":"billing_error"' in scene.asked[0].answer
    assert len(scene.served) == 1 and not scene.served[0].finished
    assert ran.json["result"] == f"API Error: 402 {scene.asked[1].told}"
    (row,) = await scene.gateway.usage_rows()
    assert (row["source"], row["input_tokens"]) == ("estimated", 20_000)
    assert 0 < row["cost_nanos"] == row["paid_nanos"] <= 20_000_000
    assert scene.gateway.balance(alice) == 20_000_000 - row["cost_nanos"] > 0
    # Another conversation may spend what is left.
    scene.up.default = scripts.answer()
    assert (await scene.gateway.ask(alice, model="claude-haiku-5-5")).status == 200
    await scene.assert_settled()
