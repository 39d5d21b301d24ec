"""The anthropic JS SDK on node: the turns of turns.mjs, each a process of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.access import make_secret
from gateway.usage import Usage
from tests.clients.tools import MODULES, NODE, SAID, Scene, environment, needs_js, open_scene, run, together
from tests.gateway_tools import MODEL, User
from tests.upstreams import scripts
from tests.upstreams.replies import Reply, render_message

pytestmark = [pytest.mark.clients, needs_js]

TURNS = Path(__file__).with_name("turns.mjs")


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path, "[billing]\ndrain_seconds = 0.2\n") as opened:
        yield opened


async def turn(scene: Scene, user: User | None, name: str, **env: str) -> Any:
    home = scene.home()
    usual = {"ANTHROPIC_BASE_URL": scene.url, "PAGEGRID_MODULES": str(MODULES)}
    credential = {} if user is None else {"ANTHROPIC_API_KEY": user.secret}
    ran = await run([NODE, TURNS, name], environment(scene, home, {**usual, **credential, **env}), home)
    assert ran.code == 0, ran.err
    return ran.json


async def test_both_credential_variables_and_every_base_url_work(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    messages = await together(
        turn(scene, alice, "create"),
        turn(scene, None, "create", ANTHROPIC_AUTH_TOKEN=alice.secret),
        turn(scene, alice, "create", ANTHROPIC_BASE_URL=f"{scene.url}/v1"),
        turn(scene, alice, "create", ANTHROPIC_BASE_URL=f"{scene.url}/api/proxy/"),
    )
    assert [message["content"][0]["text"] for message in messages] == [SAID] * 4
    assert {visit.headers["authorization"] for visit in scene.asked} == {f"Bearer {alice.secret}"}
    assert {visit.path for visit in scene.asked} == {"/v1/messages", "/v1/v1/messages", "/api/proxy/v1/messages"}
    await scene.assert_settled()


async def test_the_streaming_helper_assembles_the_message_that_the_provider_made(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    reply = Reply(
        thinking=("Let me see.",),
        text=("The weather, ", "ä 🌦, ", "in a moment."),
        tool="get_weather",
        tool_input={"town": "Köln"},
        usage=Usage(input_tokens=1000, output_tokens=90, cache_read_tokens=300, cache_write_5m_tokens=50),
    )
    scene.up.script(scripts.answer(reply))
    came = await turn(scene, alice, "stream")
    whole = json.loads(render_message(reply, MODEL))
    assert came["texts"] == list(reply.text)
    assert came["message"]["content"] == whole["content"]
    assert came["message"]["stop_reason"] == "tool_use"
    assert {name: came["message"]["usage"][name] for name in whole["usage"]} == whole["usage"]
    await scene.assert_settled()


async def test_a_tool_turn_models_and_a_count(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(
        scripts.answer(Reply(tool="get_weather", tool_input={"town": "Oslo"})), scripts.answer(Reply(text=("Rain in Oslo.",)))
    )
    came = await turn(scene, alice, "tool")
    assert came["call"]["input"] == {"town": "Oslo"}
    assert came["answer"]["content"][0]["text"] == "Rain in Oslo."
    models, counted = await together(turn(scene, alice, "models"), turn(scene, alice, "count"))
    assert models["ids"] == [model.id for model in scene.gateway.house.walk.catalog]
    assert (models["one"]["id"], models["one"]["lifecycle"]) == (MODEL, "active")
    assert counted == {"input_tokens": 42}
    await scene.assert_settled()


async def test_refusals_are_told_once_and_in_our_words(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    poor = await scene.gateway.make_user("poor", "0")
    bad_key, no_money, no_model = await together(
        turn(scene, None, "create", ANTHROPIC_API_KEY=make_secret("sk-pgrid-")),
        turn(scene, poor, "stream"),
        turn(scene, alice, "create", PAGEGRID_MODEL="claude-nobody-9"),
    )
    assert (bad_key["error"]["class"], bad_key["error"]["status"]) == ("AuthenticationError", 401)
    assert "This key is unknown here" in bad_key["error"]["message"]
    assert (no_money["error"]["status"], no_money["error"]["type"]) == (402, "billing_error")
    assert "Top up the wallet to go on." in no_money["error"]["message"]
    assert no_model["error"]["class"] == "NotFoundError"
    assert all(each["error"]["requestID"].startswith("req_") for each in (bad_key, no_money, no_model))
    assert sorted(visit.status for visit in scene.asked) == [401, 402, 404]
    assert scene.served == []
    await scene.assert_settled()


async def test_a_broken_stream_raises_and_one_that_is_left_is_charged(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(scripts.cut("middle", reply=Reply(text=("some ",) * 20)))
    broken = await turn(scene, alice, "stream")
    assert broken["error"]["type"] == "api_error"
    scene.up.script(scripts.answer(Reply(text=("word ",) * 500, usage=Usage(input_tokens=25, output_tokens=1000)), pace_s=0.01))
    assert await turn(scene, alice, "leave") == {}
    await scene.assert_settled()
    assert [row["source"] for row in await scene.gateway.usage_rows()] == ["partial", "estimated"]
    assert len(scene.asked) == 2
