"""The tools of this folder notice what they are there for: a client that hangs, one that calls home, a bill that differs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.clients.tools import Scene, environment, open_scene, run
from tests.gateway_tools import until
from tests.upstream import Billed
from tests.upstreams import scripts


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path) as opened:
        yield opened


async def test_a_client_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    # The sleeper holds the other end of our pipe: only when it is dead, too, is there an end to read.
    async with asyncio.timeout(10):
        with pytest.raises(pytest.fail.Exception, match=r"did not end within 0.5 s; it said:\nhello"):
            await run(["/bin/sh", "-c", "echo hello; sleep 60 & wait"], os.environ, tmp_path, timeout_s=0.5)


async def test_a_client_that_calls_home_is_noticed(scene: Scene) -> None:
    home = scene.home()
    call = "import urllib.request; urllib.request.urlopen('https://telemetry.invalid/', timeout=5)"
    ran = await run([sys.executable, "-c", call], environment(scene, home, {}), home)
    assert ran.code == 1
    assert scene.outward == ["CONNECT telemetry.invalid:443 → 0"]
    with pytest.raises(AssertionError):
        await scene.assert_settled()


async def test_a_bill_that_differs_is_noticed(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    await scene.gateway.ask(alice)
    await scene.assert_settled()
    billed = scene.served[0].billed
    assert billed is not None
    for wrong in (None, Billed(billed.model, replace(billed.usage, output_tokens=11)), Billed("claude-opus-5-5", billed.usage)):
        scene.served[0].billed = wrong
        with pytest.raises(AssertionError):
            await scene.assert_settled()


async def test_the_tap_tells_what_was_asked_and_answered(scene: Scene) -> None:
    alice = await scene.gateway.make_user("alice")
    scene.gateway.url = scene.url
    stopped = asyncio.Event()
    scene.up.script(scripts.answer(released=stopped))
    waiting = asyncio.ensure_future(scene.gateway.ask(alice, path="/api/v1/messages?beta=true"))
    await scene.up.arrived(1)
    await scene.gateway.ask(None)
    stopped.set()
    await waiting
    assert [str(visit) for visit in scene.tap.journal] == ["POST /api/v1/messages?beta=true → 200", "POST /v1/messages → 401"]
    assert scene.asked[1].told.startswith("No key was sent")
    assert scene.asked[0].body == scene.served[0].body
    await scene.assert_settled()


async def test_the_tap_tells_an_answer_that_did_not_wait_for_the_body(scene: Scene) -> None:
    host, port = scene.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for _ in range(2):
        writer.write(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"{}")
        assert head.startswith(b"HTTP/1.1 401")
        if b"connection: close" in head.lower():
            break
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    writer.close()
    await until(lambda: all(visit.body == b"{}" for visit in scene.asked))
    assert {visit.status for visit in scene.asked} == {401}
