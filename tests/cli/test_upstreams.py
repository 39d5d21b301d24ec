"""`pagegrid upstreams`: how provider accounts stand in a running server."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.desk import acts
from tests.cli.tools import make_shell
from tests.gateway_tools import MODEL, ScriptedUpstream, open_gateway
from tests.upstreams import scripts

TWO = """
[[upstreams]]
name = "small"
kind = "anthropic"
base_url = "{small}"
api_key = "x"
max_concurrent = 2
[[upstreams]]
name = "large"
kind = "anthropic"
base_url = "{large}"
api_key = "x"
priority = 1
"""


async def test_the_list_says_what_rests_why_and_for_how_long(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(default=scripts.refuse(429, retry_after="40")) as limited,
        ScriptedUpstream() as good,
        open_gateway(tmp_path, limited.url, "http://127.0.0.1:9", good.url) as gateway,
    ):
        alice = await gateway.make_user("alice", "10")
        assert (await gateway.ask(alice)).status == 200
        shown = await acts.perform(gateway.house.desk, "test", "upstreams.list", {})
        assert [(each["name"], each["state"], each["reason"]) for each in shown] == [
            ("up1", "serving", None),
            ("up2", "cooling", "connect"),
            ("up3", "serving", None),
        ]
        (resting,) = shown[0]["resting_models"]
        assert (resting["model"], resting["reason"]) == (MODEL, "rate_limited") and 30 <= resting["seconds_left"] <= 40
        assert "upstream-secret" not in repr(shown)
        await gateway.assert_settled()


async def test_a_test_reaches_each_upstream_with_its_secret_and_costs_nothing(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream() as good,
        ScriptedUpstream(default=scripts.refuse(401)) as revoked,
        ScriptedUpstream(default=scripts.refuse(404)) as plain,
        open_gateway(tmp_path, good.url, revoked.url, "http://127.0.0.1:9", plain.url) as gateway,
    ):
        results = await acts.perform(gateway.house.desk, "test", "upstreams.test", {})
        assert [(each["ok"], each["status"], each["detail"].split()[0]) for each in results] == [
            (True, 200, "ok"),
            (False, 401, "secret_refused"),
            (False, None, "connect"),
            (True, 404, "model_not_found"),
        ]
        assert [seen.path for seen in good.journal] == ["/v1/messages/count_tokens"]
        assert good.journal[0].header("x-api-key") == "upstream-secret-1"
        await gateway.assert_settled()


CHATTING = """
[[upstreams]]
name = "{name}"
kind = "openai"
base_url = "{url}/v1"
api_key = "upstream-secret-chat"
[[models]]
id = "{name}-model"
routes = [{{ upstream = "{name}" }}]
input = "1"
output = "2"
cache_write_5m = "1"
cache_write_1h = "1"
cache_read = "1"
context_tokens = 1000
max_output_tokens = 100
"""


async def test_a_test_asks_a_chat_server_for_its_models(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream() as good,
        ScriptedUpstream(default=scripts.refuse(401)) as revoked,
        open_gateway(
            tmp_path, more=CHATTING.format(name="good", url=good.url) + CHATTING.format(name="revoked", url=revoked.url)
        ) as gateway,
    ):
        results = await acts.perform(gateway.house.desk, "test", "upstreams.test", {})
        assert [(each["ok"], each["status"], each["detail"]) for each in results] == [
            (True, 200, "ok"),
            (False, 401, "secret_refused"),
        ]
        assert [(seen.method, seen.path) for seen in good.journal] == [("GET", "/v1/models")]
        assert good.journal[0].header("authorization") == "Bearer upstream-secret-chat"
        await gateway.assert_settled()


async def test_a_cap_sends_further_requests_elsewhere(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with (
        ScriptedUpstream(default=scripts.answer(released=released)) as small,
        ScriptedUpstream() as large,
        open_gateway(tmp_path, more=TWO.format(small=small.url, large=large.url)) as gateway,
    ):
        alice = await gateway.make_user("alice", "10")
        talks = [gateway.ask(alice, messages=[{"role": "user", "content": f"talk {number}"}]) for number in range(6)]
        running = [asyncio.ensure_future(talk) for talk in talks]
        await small.arrived(2)
        await large.arrived(4)
        released.set()
        assert {(await talk).status for talk in running} == {200}
        assert (len(small.journal), len(large.journal)) == (2, 4)
        await gateway.assert_settled()


def test_without_a_server_the_next_step_is_told(tmp_path: Path) -> None:
    shell = make_shell(tmp_path)
    assert "pagegrid serve" in shell.refused("upstreams", "list")
