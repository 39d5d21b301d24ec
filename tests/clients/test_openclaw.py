"""The real OpenClaw in both of its APIs. It takes some ten seconds to start, so that turns are told two at a time.

What its user sees of a refusal is OpenClaw's own wording; ours stands beside it, in what it logs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.access import make_secret
from tests.clients.tools import GPT, LOCAL, LOCAL_THERE, SAID, Scene, needs_openclaw, open_scene, openclaw, together
from tests.gateway_tools import MODEL
from tests.upstream import contains
from tests.upstreams import scripts
from tests.upstreams.replies import Reply

pytestmark = [pytest.mark.clients, needs_openclaw, pytest.mark.timeout(240)]

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path) as opened:
        yield opened


async def test_a_plain_turn_with_and_without_v1(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    config = README.read_text().partition("OpenClaw (`")[2].partition("```json\n")[2].partition("```")[0]
    config = config.replace("http://127.0.0.1:8080", scene.url).replace("sk-pgrid-…", alice.secret)
    runs = await together(
        openclaw(scene, alice.secret, config=config),
        openclaw(scene, alice.secret, base_url=f"{scene.url}/api/v1", model="claude-haiku-5-5"),
    )
    for ran in runs:
        assert ran.code == 0, ran.told
        assert SAID in ran.out
    # It takes a /v1 at the end of its base URL off by itself.
    assert sorted(visit.target for visit in scene.asked) == ["/api/v1/messages", "/v1/messages"]
    assert {visit.headers["x-api-key"] for visit in scene.asked} == {alice.secret}
    assert sorted(seen.model for seen in scene.served) == ["claude-haiku-5-5", MODEL]
    assert {visit.body for visit in scene.asked} == {seen.body for seen in scene.served}
    assert all(b"cache_control" in visit.body for visit in scene.asked)
    assert alice.secret not in str([seen.headers for seen in scene.served])
    await scene.assert_settled()


async def test_a_tool_turn_and_an_empty_wallet(scene: Scene) -> None:
    alice, poor = await scene.gateway.make_user("alice"), await scene.gateway.make_user("poor", "0")
    home = scene.home()
    note = home / "note.txt"
    note.write_text("the secret word is kumquat")
    scene.up.when(contains(b"the secret word is"), scripts.answer(Reply(text=("It is kumquat.",))))
    scene.up.script(scripts.answer(Reply(text=("Let me look.",), tool="read", tool_input={"path": str(note)})))
    told, refused = await together(openclaw(scene, alice.secret, home=home), openclaw(scene, poor.secret))
    assert told.code == 0 and "It is kumquat." in told.out
    # It renames tool ids: toolu_1 went out, toolu1 comes back, in the call and in its result alike.
    blocks = [block for message in scene.served[1].json["messages"] for block in message["content"]]
    (call,) = [block for block in blocks if block["type"] == "tool_use"]
    (result,) = [block for block in blocks if block["type"] == "tool_result"]
    assert result["tool_use_id"] == call["id"]
    assert "the secret word is kumquat" in str(result["content"])
    assert refused.code == 1 and "billing error" in refused.out
    assert "The wallet cannot pay for this request" in refused.err
    assert sorted(visit.status for visit in scene.asked) == [200, 200, 402]
    assert len(scene.served) == 2
    await scene.assert_settled()


async def test_a_bad_key_and_an_unknown_model_are_told_at_once(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    bad_key, no_model = await together(
        openclaw(scene, make_secret("sk-pgrid-")), openclaw(scene, alice.secret, model="claude-nobody-9")
    )
    assert bad_key.code == 1 and "authentication failed, HTTP 401" in bad_key.out
    assert "This key is unknown here" in bad_key.err
    assert no_model.code == 1 and "claude-nobody-9 is not offered here" in no_model.err
    assert sorted(visit.status for visit in scene.asked) == [401, 404]
    assert scene.served == []
    await scene.assert_settled()


async def test_a_stream_that_breaks_is_told_and_an_overload_is_tried_again(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.up.when(contains(b'"model":"claude-haiku-5-5"'), scripts.cut("middle", reply=Reply(text=("some ",) * 20)))
    scene.up.script(scripts.refuse(529))
    broken, overloaded = await together(
        openclaw(scene, alice.secret, model="claude-haiku-5-5"), openclaw(scene, alice.secret, model=MODEL)
    )
    assert broken.code == 1 and "broke off" in broken.err
    assert overloaded.code == 0 and SAID in overloaded.out
    assert sorted(visit.status for visit in scene.asked) == [200, 200, 529]
    assert sorted(row["source"] for row in await scene.gateway.usage_rows()) == ["partial", "reported"]
    await scene.assert_settled()


# ── openai-completions, and an OpenAI upstream ───────────────────────────────────────────────────────────────────────


async def test_tool_turns_wherever_one_side_speaks_openai(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    note = scene.folder / "note.txt"
    note.write_text("the secret word is kumquat")
    scene.up.when(contains(b"the secret word is"), scripts.answer(Reply(text=("It is kumquat.",))))
    look = Reply(text=("Let me look.",), thinking=("hm",), tool="read", tool_input={"path": str(note)})
    scene.up.default = scripts.answer(look)
    runs = await together(
        openclaw(scene, alice.secret, api="openai-completions", model=MODEL),
        openclaw(scene, alice.secret, api="openai-completions", model=LOCAL),
        openclaw(scene, alice.secret, api="anthropic-messages", model=GPT),
    )
    for ran in runs:
        assert ran.code == 0 and "It is kumquat." in ran.out, ran.told
    asked, served = [visit.path for visit in scene.asked], [(seen.path, seen.model) for seen in scene.served]
    assert sorted(asked) == ["/v1/chat/completions"] * 4 + ["/v1/messages"] * 2
    assert sorted(served) == (
        [("/v1/chat/completions", LOCAL_THERE)] * 2 + [("/v1/chat/completions", GPT)] * 2 + [("/v1/messages", MODEL)] * 2
    )
    # In this API it marks nothing for Claude's prompt cache; in the other it does.
    assert not [seen for seen in scene.served if seen.model == MODEL and b"cache_control" in seen.body]
    # It renames tool ids here as well, in the call and in its result alike.
    for seen in scene.served:
        if b"the secret word is" not in seen.body:
            continue
        turn = next(message for message in seen.json["messages"] if message["role"] == "assistant")
        if seen.is_chat:
            (call,), found = turn["tool_calls"], [message for message in seen.json["messages"] if message["role"] == "tool"]
            assert [message["tool_call_id"] for message in found] == [call["id"]]
        else:
            (use,) = [block for block in turn["content"] if block["type"] == "tool_use"]
            blocks = [block for message in seen.json["messages"] for block in message["content"]]
            assert [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"] == [use["id"]]
    assert [row["source"] for row in await scene.gateway.usage_rows()] == ["reported"] * 6
    await scene.assert_settled()


async def test_refusals_in_the_openai_api(scene: Scene) -> None:
    alice, poor = await scene.gateway.make_user("alice"), await scene.gateway.make_user("poor", "0")
    api = "openai-completions"
    refused, bad_key, no_model = await together(
        openclaw(scene, poor.secret, api=api),
        openclaw(scene, make_secret("sk-pgrid-"), api=api),
        openclaw(scene, alice.secret, api=api, model="claude-nobody-9"),
    )
    assert refused.code == 1 and "The wallet cannot pay for this request" in refused.err
    assert bad_key.code == 1 and "This key is unknown here" in bad_key.err
    assert no_model.code == 1 and "claude-nobody-9 is not offered here" in no_model.err
    assert sorted(visit.status for visit in scene.asked) == [401, 402, 404]
    assert scene.served == []
    await scene.assert_settled()


async def test_a_broken_stream_and_an_overload_in_the_openai_api_are_tried_again(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    # A stream that breaks is sent anew up to eight times here, and never in the other API; all that was made is charged.
    scene.up.script(scripts.cut("middle", reply=Reply(text=("some ",) * 20)), scripts.refuse(529))
    ran = await openclaw(scene, alice.secret, api="openai-completions")
    assert ran.code == 0 and SAID in ran.out
    assert "broke off" in ran.err and "is overloaded" in ran.err
    assert [visit.status for visit in scene.asked] == [200, 529, 200]
    assert sorted(row["source"] for row in await scene.gateway.usage_rows()) == ["partial", "reported"]
    await scene.assert_settled()
