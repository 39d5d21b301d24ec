"""The openai JS SDK on node, on upstreams of both dialects: the turns of turns_openai.mjs, each a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.access import make_secret
from gateway.usage import Usage
from tests.clients.tools import GPT, MODULES, NODE, SAID, Scene, environment, needs_openai_js, open_scene, run, together
from tests.gateway_tools import MODEL
from tests.upstream import contains
from tests.upstreams import scripts
from tests.upstreams.replies import Reply

pytestmark = [pytest.mark.clients, needs_openai_js]

TURNS = Path(__file__).with_name("turns_openai.mjs")
EITHER = pytest.mark.parametrize("model", [MODEL, GPT])


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path, "[billing]\ndrain_seconds = 0.2\n") as opened:
        yield opened


async def turn(scene: Scene, secret: str, name: str, model: str) -> Any:
    home = scene.home()
    env = {
        "OPENAI_BASE_URL": f"{scene.url}/v1",
        "OPENAI_API_KEY": secret,
        "PAGEGRID_MODULES": str(MODULES),
        "PAGEGRID_MODEL": model,
    }
    ran = await run([NODE, TURNS, name], environment(scene, home, env), home)
    assert ran.code == 0, ran.err
    return ran.json


@EITHER
async def test_answers_whole_and_streamed(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    reply = Reply(
        text=("The weather, ", "ä 🌦, ", "in a moment."),
        tool="get_weather",
        tool_input={"town": "Köln"},
        usage=Usage(input_tokens=1000, output_tokens=90, cache_read_tokens=300),
    )
    scene.up.when(contains(b'"tools"'), scripts.answer(reply))
    whole, came = await together(turn(scene, alice.secret, "create", model), turn(scene, alice.secret, "stream", model))
    assert whole["choices"][0]["message"]["content"] == SAID
    (choice,) = came["completion"]["choices"]
    assert [text for text in came["texts"] if text] == list(reply.text) and choice["message"]["content"] == "".join(reply.text)
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["name"], choice["finish_reason"]) == ("get_weather", "tool_calls")
    assert call["function"]["arguments"] == '{"town": "K\\u00f6ln"}'
    assert {whole["model"], came["completion"]["model"]} == {model}
    usage = came["completion"]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (1300, 90, 1390)
    await scene.assert_settled()


@EITHER
async def test_tools_run_by_the_sdk_and_models(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    two = Reply(text=(), tool="get_weather", tool_input={"town": "Oslo"}, more_tools=(("get_weather", {"town": "Rome"}),))
    scene.up.script(scripts.answer(two), scripts.answer(Reply(text=("Rain in both.",))))
    ran, models = await together(turn(scene, alice.secret, "tool", model), turn(scene, alice.secret, "models", model))
    assert ran == {"answer": "Rain in both.", "asked": [{"town": "Oslo"}, {"town": "Rome"}]}
    assert models["ids"] == [each.id for each in scene.gateway.house.walk.catalog]
    assert (models["one"]["id"], models["one"]["object"]) == (model, "model")
    await scene.assert_settled()


async def test_refusals_are_told_once_and_in_our_words(scene: Scene) -> None:
    alice, poor = await scene.gateway.make_user("alice"), await scene.gateway.make_user("poor", "0")
    bad_key, no_money, no_model = await together(
        turn(scene, make_secret("sk-pgrid-"), "create", MODEL),
        turn(scene, poor.secret, "stream", GPT),
        turn(scene, alice.secret, "create", "gpt-nobody"),
    )
    assert (bad_key["error"]["class"], bad_key["error"]["code"]) == ("AuthenticationError", "invalid_api_key")
    assert (no_money["error"]["status"], no_money["error"]["code"]) == (402, "insufficient_quota")
    assert "Top up the wallet to go on." in no_money["error"]["message"]
    assert (no_model["error"]["class"], no_model["error"]["code"]) == ("NotFoundError", "model_not_found")
    assert all(each["error"]["requestID"].startswith("req_") for each in (bad_key, no_money, no_model))
    assert sorted(visit.status for visit in scene.asked) == [401, 402, 404]
    assert scene.served == []
    await scene.assert_settled()


@EITHER
async def test_a_broken_stream_raises_and_one_that_is_left_is_charged(scene: Scene, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.script(scripts.cut("middle", reply=Reply(text=("some ",) * 20)))
    broken = await turn(scene, alice.secret, "stream", model)
    assert "The provider broke off its answer" in broken["error"]["message"]
    scene.up.script(scripts.answer(Reply(text=("word ",) * 500, usage=Usage(input_tokens=25, output_tokens=1000)), pace_s=0.01))
    assert await turn(scene, alice.secret, "leave", model) == {}
    await scene.assert_settled()
    sources = ["partial", "estimated"]
    assert [row["source"] for row in await scene.gateway.usage_rows()] == sources
    assert len(scene.asked) == 2
