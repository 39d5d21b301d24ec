"""Connections are kept and used again: what happens when one died in the pool, or says something that nobody asked for."""

from __future__ import annotations

import asyncio

import pytest

from gateway.upstreams.transport import HttpTransport, _Wire
from tests.upstream import Exchange, ScriptedUpstream
from tests.upstreams import scripts
from tests.upstreams.replies import Reply, render_message
from tests.upstreams.requests import exchange, failure, request

HEAD = b"HTTP/1.1 200 OK\r\n"


async def test_a_reused_connection_that_died_is_tried_once_more_on_a_fresh_one(
    up: ScriptedUpstream, transport: HttpTransport
) -> None:
    up.script(scripts.answer(), scripts.cut("request"), scripts.answer())
    await exchange(transport, request(up))
    assert await exchange(transport, request(up)) == render_message(Reply(), "claude-m")
    assert [seen.connection for seen in up.journal] == [1, 1, 2]
    assert up.journal[1].body == up.journal[2].body


@pytest.mark.parametrize("how", ["reset", "fin"])
async def test_it_is_tried_only_once_more(up: ScriptedUpstream, transport: HttpTransport, how: scripts.CutWay) -> None:
    # Two idle connections, both dead: the second try must not take the other one.
    held = asyncio.Event()
    up.script(scripts.answer(released=held), scripts.answer(released=held))
    both = [asyncio.create_task(exchange(transport, request(up))) for _ in range(2)]
    await up.arrived(2)
    held.set()
    await asyncio.gather(*both)
    up.script(scripts.cut("request", how), scripts.cut("request", how), scripts.answer())
    assert (await failure(transport, request(up))).reason == "reset"
    assert [seen.connection for seen in up.journal][2:] == [1, 3]


async def test_a_large_body_on_a_dead_connection_is_sent_again_whole(up: ScriptedUpstream, transport: HttpTransport) -> None:
    up.script(scripts.answer(), scripts.cut("request"), scripts.answer())
    await exchange(transport, request(up))
    outgoing = request(up, filler=2_000_000)
    await exchange(transport, outgoing)
    assert up.journal[2].body == outgoing.body


@pytest.mark.parametrize("how", ["reset", "fin"])
async def test_a_reused_connection_that_began_to_answer_is_not_tried_again(
    up: ScriptedUpstream, transport: HttpTransport, how: scripts.CutWay
) -> None:
    up.script(scripts.answer(), scripts.raw(b"HTTP/1.1 200 OK\r\ncontent-", how=how), scripts.answer())
    await exchange(transport, request(up))
    assert (await failure(transport, request(up))).reason in ("reset", "protocol")
    assert len(up.journal) == 2


async def test_a_time_out_on_a_reused_connection_is_not_tried_again(up: ScriptedUpstream, transport: HttpTransport) -> None:
    up.script(scripts.answer(), scripts.never(), scripts.answer())
    await exchange(transport, request(up))
    assert (await failure(transport, request(up), head_s=0.05)).reason == "timeout"
    assert len(up.journal) == 2


STRAY = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray"


@pytest.mark.parametrize("stray", [STRAY, STRAY[:20]])
async def test_an_answer_that_nobody_asked_for_reaches_no_one(
    up: ScriptedUpstream, transport: HttpTransport, stray: bytes
) -> None:
    async def then_stray(exchange: Exchange) -> None:
        await exchange.body(200, (), b"first")
        await asyncio.sleep(0.02)
        await exchange.raw(stray)

    up.script(then_stray)
    assert await exchange(transport, request(up)) == b"first"
    await asyncio.sleep(0.05)
    assert await exchange(transport, request(up)) == render_message(Reply(), "claude-m")
    assert [seen.connection for seen in up.journal] == [1, 2]


@pytest.mark.parametrize("pause_s", [0, 0.02])
async def test_nor_does_one_glued_to_the_last_answer(up: ScriptedUpstream, transport: HttpTransport, pause_s: float) -> None:
    async def and_stray(exchange: Exchange) -> None:
        await exchange.raw(HEAD + b"content-length: 5\r\n\r\n")
        await asyncio.sleep(pause_s)
        await exchange.raw(b"first" + STRAY)
        await exchange.end()

    up.script(and_stray)
    assert await exchange(transport, request(up)) == b"first"
    assert await exchange(transport, request(up)) == render_message(Reply(), "claude-m")


async def test_an_upstream_that_speaks_before_it_is_asked_is_cut_off() -> None:
    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STRAY)
        await reader.read()
        writer.close()

    loop = asyncio.get_running_loop()
    async with await asyncio.start_server(banner, "127.0.0.1", 0) as server:
        _, wire = await loop.create_connection(lambda: _Wire(loop), "127.0.0.1", server.sockets[0].getsockname()[1])
        await asyncio.sleep(0.05)
        assert not wire.is_connected()
