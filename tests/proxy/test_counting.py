"""POST /v1/messages/count_tokens: free, passed through, and with the same manners as the walk where it fails."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_tools import ScriptedUpstream, open_gateway
from tests.upstream import Script
from tests.upstreams import scripts

# house.py builds one transport too many for a second upstream of a kind, and drops it unclosed.

PATH = "/v1/messages/count_tokens"


@pytest.mark.parametrize(
    ("script", "status", "type"),
    [
        (scripts.refuse(400), 400, "invalid_request_error"),
        (scripts.refuse(404), 404, "not_found_error"),
        (scripts.refuse(401), 502, "api_error"),
        (scripts.refuse(429, retry_after="9"), 429, "rate_limit_error"),
        (scripts.refuse(529), 529, "overloaded_error"),
        (scripts.cut("request"), 502, "api_error"),
        (scripts.zipped(), 502, "api_error"),
        (scripts.redirect("http://127.0.0.1:1/"), 502, "api_error"),
    ],
)
async def test_a_refusal(tmp_path: Path, script: Script, status: int, type: str) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        # Without a cent: counting is free.
        alice = await gateway.make_user("alice", "0")
        up.script(script)
        answer = await gateway.ask(alice, path=PATH, max_tokens=None)
        assert (answer.status, answer.error["type"]) == (status, type)
        answer.assert_clean()
        assert (await gateway.ask(alice, path=PATH, max_tokens=None)).json == {"input_tokens": 42}
        assert await gateway.table("select * from holds") == []
        await gateway.assert_settled()


async def test_another_upstream_counts(tmp_path: Path) -> None:
    async with ScriptedUpstream() as one, ScriptedUpstream() as two, open_gateway(tmp_path, one.url, two.url) as gateway:
        alice = await gateway.make_user("alice", "0")
        one.default = scripts.refuse(500)
        two.default = scripts.counted(7)
        for _ in range(3):
            assert (await gateway.ask(alice, path=PATH, max_tokens=None)).json == {"input_tokens": 7}
        two.default = scripts.refuse(500)
        assert (await gateway.ask(alice, path=PATH, max_tokens=None)).status == 502
        await gateway.assert_settled()


async def test_a_count_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.proxy.counting.COUNT_S", 0.2)

    async def stall(exchange: Any) -> None:
        await exchange.head(200, [("content-type", "application/json")], length=100)
        await exchange.send(b'{"input')
        await asyncio.Event().wait()

    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "0")
        for script in (stall, scripts.never()):
            up.script(script)
            answer = await gateway.ask(alice, path=PATH, max_tokens=None)
            assert (answer.status, answer.error["type"]) == (504, "timeout_error")
            async with asyncio.timeout(2):
                await up.journal[-1].gone.wait()
        await gateway.assert_settled()
