"""LiteLLM's SDK through both surfaces: as provider `openai` and as provider `anthropic`, on upstreams of both dialects."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.usage import Usage
from tests.clients.tools import GPT, LITELLM, SAID, Ran, Scene, environment, needs_litellm, open_scene, run
from tests.gateway_tools import MODEL, User
from tests.upstream import contains
from tests.upstreams import scripts
from tests.upstreams.replies import Reply

pytestmark = [pytest.mark.clients, needs_litellm, pytest.mark.timeout(240)]

TURNS = Path(__file__).with_name("turns_litellm.py")
SPENT = Usage(input_tokens=1000, output_tokens=90, cache_read_tokens=300)
RICH = Reply(
    text=("The weather, ", "ä ö 🌦, ", "in a moment."),
    tool="get_weather",
    tool_input={"town": "Köln"},
    more_tools=(("get_weather", {"town": "Oslo"}),),
    usage=SPENT,
)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path) as opened:
        yield opened


async def turns(scene: Scene, user: User, surface: str, model: str) -> Ran:
    home = scene.home()
    # Without it every import fetches a price list from the world.
    env = environment(scene, home, {"LITELLM_LOCAL_MODEL_COST_MAP": "True"})
    base = scene.url + ("/v1" if surface == "openai" else "")
    return await run([LITELLM, TURNS, surface, model, base, user.secret], env, home)


@pytest.mark.parametrize("surface", ["openai", "anthropic"])
@pytest.mark.parametrize("model", [MODEL, GPT])
async def test_every_turn(scene: Scene, surface: str, model: str) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.when(contains(b"be overloaded"), scripts.refuse(429, retry_after="1"))
    scene.up.when(contains(b"break off"), scripts.cut("middle", reply=Reply(text=("some ",) * 20)))
    scene.up.when(contains(b"rain"), scripts.answer(Reply(text=("Rain in both.",))))
    scene.up.when(contains(b'"get_weather"'), scripts.answer(RICH))
    ran = await turns(scene, alice, surface, model)
    assert ran.code == 0, ran.err
    came = ran.json
    assert said(came["create"]) == (SAID, "stop")
    assert said(came["stream"]) == ("".join(RICH.text), "tool_calls")
    calls = came["stream"]["choices"][0]["message"]["tool_calls"]
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [{"town": "Köln"}, {"town": "Oslo"}]
    assert len({call["id"] for call in calls}) == 2
    usage = came["stream"]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (1300, 90, 1390)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 300
    assert said(came["tool"]) == ("Rain in both.", "stop")
    refusals = [(came[turn]["class"], came[turn]["status"]) for turn in ("no_model", "bad_key", "overloaded")]
    assert refusals == [("NotFoundError", 404), ("AuthenticationError", 401), ("RateLimitError", 429)]
    assert "nobody-9 is not offered here" in came["no_model"]["message"]
    assert "This key is mistyped or cut" in came["bad_key"]["message"]
    assert "limits its requests right now" in came["overloaded"]["message"]
    assert came["broken"] is not None and "The provider broke off its answer" in came["broken"]["message"]
    path = "/v1/messages" if surface == "anthropic" else "/v1/chat/completions"
    assert {visit.path for visit in scene.asked} == {path}
    assert sorted(visit.status for visit in scene.asked) == [200, 200, 200, 200, 200, 401, 404, 429]
    if scene.served[0].path == path:
        passed = [visit.body for visit in scene.asked if visit.status not in (401, 404)]
        # Of a stream that did not ask for its usage the gateway asks for it; of these, the one that breaks off.
        assert [seen.body for seen in scene.served][:-1] == passed[:-1]
    assert len(await scene.gateway.usage_rows()) == 5
    await scene.assert_settled()


def said(completion: Any) -> tuple[str, str]:
    (choice,) = completion["choices"]
    return choice["message"]["content"], choice["finish_reason"]
