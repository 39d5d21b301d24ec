"""How a stream ends when it does not end well: told between two events, never like a clean end, and charged for what was made."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.usage import Usage
from tests.gateway_tools import MODEL, Gateway, ScriptedUpstream, User, open_gateway, until
from tests.upstreams import replies, scripts
from tests.upstreams.replies import Reply
from tests.upstreams.scripts import CutPoint, CutWay

# house.py builds one transport too many for a second upstream of a kind, and drops it unclosed.

TEN = 10_000_000_000
IN, OUT = 2_000, 10_000
REPLY = Reply(text=("a" * 35, "b" * 35, "c" * 35, "d" * 35), usage=Usage(input_tokens=1000, output_tokens=100))
EVENTS = [event.data for event in replies.render_stream(REPLY, MODEL)]
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def visible_tokens(events: list[bytes]) -> int:
    return sum(b"text_delta" in event for event in events) * 10


def split_error(body: bytes) -> tuple[bytes, dict[str, Any]]:
    """What came before the final error event, and that error."""
    before, _, event = body.rpartition(b"event: error\ndata: ")
    assert event.endswith(b"\n\n") and event.count(b"\n") == 2
    told: dict[str, Any] = json.loads(event)
    return before, told


@pytest.mark.parametrize("way", ["reset", "fin", "clean"])
@pytest.mark.parametrize("point", ["start", "middle", "end"])
async def test_a_stream_that_breaks_off_says_so_and_is_charged_for_what_was_made(
    tmp_path: Path, point: CutPoint, way: CutWay
) -> None:
    async with ScriptedUpstream() as up, ScriptedUpstream() as other, open_gateway(tmp_path, up.url, other.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.cut(point, way, REPLY))
        answer = await gateway.ask(alice, stream=True)
        assert answer.status == 200 and answer.cut
        answer.assert_clean()
        before, told = split_error(answer.body)
        sent = EVENTS[: {"start": 1, "middle": len(EVENTS) // 2, "end": len(EVENTS) - 1}[point]]
        if way == "fin":
            # What came in one piece with the FIN may be lost: our client raises before it hands it out.
            sent = next(sent[:count] for count in range(len(sent), 0, -1) if b"".join(sent[:count]) == before)
        assert before == b"".join(sent)
        assert told["error"]["type"] == "api_error" and told["request_id"] == answer.request_id
        (row,) = await gateway.usage_rows()
        output = 100 if any(b"message_delta" in event for event in sent) else visible_tokens(sent)
        assert (row["source"], row["cost_nanos"]) == ("partial", 1000 * IN + output * OUT)
        # After the first byte nobody else is asked.
        assert other.journal == [] and len(await gateway.attempts()) == 1
        await gateway.assert_settled()


@pytest.mark.parametrize("way", ["reset", "fin"])
@pytest.mark.parametrize("point", ["request", "head", "middle", "end"])
async def test_a_whole_answer_that_breaks_off_is_asked_for_elsewhere(tmp_path: Path, point: CutPoint, way: CutWay) -> None:
    async with ScriptedUpstream() as up, ScriptedUpstream() as other, open_gateway(tmp_path, up.url, other.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.cut(point, way, REPLY))
        other.script(scripts.answer(REPLY))
        answer = await gateway.ask(alice)
        assert answer.status == 200 and answer.body == replies.render_message(REPLY, MODEL)
        assert await gateway.attempts() == [("up1", None if point == "request" else 200, "reset"), ("up2", 200, "ok")]
        assert gateway.balance(alice) == TEN - 1000 * IN - 100 * OUT
        await gateway.assert_settled()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("way", ["reset", "fin"])
@pytest.mark.parametrize("point", ["request", "head"])
async def test_an_answer_that_never_came_costs_nothing(tmp_path: Path, point: CutPoint, way: CutWay, stream: bool) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.cut(point, way))
        answer = await gateway.ask(alice, stream=stream)
        assert (answer.status, answer.error["type"], answer.headers["retry-after"]) == (502, "api_error", "1")
        answer.assert_clean()
        assert await gateway.void_reasons() == ["reset"]
        assert gateway.balance(alice) == TEN
        await gateway.assert_settled()


@pytest.mark.parametrize("count", [1, 2, 5, len(EVENTS) - 1])
async def test_an_error_event_in_the_middle_is_the_providers_own_and_the_last_word(tmp_path: Path, count: int) -> None:
    async with ScriptedUpstream() as up, ScriptedUpstream() as other, open_gateway(tmp_path, up.url, other.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.error_after(count, reply=REPLY))
        answer = await gateway.ask(alice, stream=True)
        assert answer.status == 200 and answer.cut
        error = replies.render_error_event("overloaded_error", "broken in the middle")
        assert answer.body == b"".join(EVENTS[:count]) + error
        (row,) = await gateway.usage_rows()
        assert row["source"] == "partial" and row["input_tokens"] == 1000
        assert other.journal == []
        await gateway.assert_settled()


async def test_a_stream_of_pings_only_is_opened_and_then_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.proxy.dispatch.SILENCE_S", 0.1)
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(REPLY, quiet=(0, 3, 0.1)))
        answer = await gateway.ask(alice, stream=True)
        # Ours came first, and theirs are relayed too, as they came.
        assert not answer.cut and answer.body == PING + replies.PING * 3 + b"".join(EVENTS)
        assert (await gateway.usage_rows())[0]["source"] == "reported"
        await gateway.assert_settled()


@pytest.mark.parametrize(
    ("ending", "type"),
    [(replies.render_error_event("overloaded_error", "x"), "overloaded_error"), (b"", "api_error")],
    ids=["error", "cut"],
)
async def test_once_opened_by_a_ping_a_failure_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: bytes, type: str
) -> None:
    monkeypatch.setattr("gateway.proxy.dispatch.SILENCE_S", 0.1)

    async def silent_then_broken(exchange: Any) -> None:
        await exchange.head(200, [("content-type", "text/event-stream")])
        await asyncio.sleep(0.3)
        await exchange.send(ending)
        await exchange.close()

    async with ScriptedUpstream() as up, ScriptedUpstream() as other, open_gateway(tmp_path, up.url, other.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(silent_then_broken)
        answer = await gateway.ask(alice, stream=True)
        assert answer.status == 200 and answer.cut
        answer.assert_clean()
        before, told = split_error(answer.body)
        assert before == PING and told["error"]["type"] == type
        assert other.journal == []
        assert gateway.balance(alice) == TEN
        await gateway.assert_settled()


async def test_silence_in_the_middle_is_filled_with_pings_between_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.proxy.relay.PING_AFTER_MS", 100)

    async def slow(exchange: Any) -> None:
        await exchange.head(200, [("content-type", "text/event-stream")])
        data = b"".join(EVENTS)
        # Half an event is not yet one: nothing may stand in its middle.
        for part in (data[:100], data[100 : len(EVENTS[0]) + 30], data[len(EVENTS[0]) + 30 :]):
            await asyncio.sleep(0.35)
            await exchange.send(part)
        await exchange.end()

    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, tick_s=0.05) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(slow)
        answer = await gateway.ask(alice, stream=True)
        assert not answer.cut
        assert answer.body.replace(PING, b"") == b"".join(event for event in EVENTS if event != PING)
        assert answer.body.startswith(EVENTS[0] + PING) and answer.body.endswith(EVENTS[-1])
        assert 1 <= answer.body.count(PING) - EVENTS.count(PING) <= 4
        await gateway.assert_settled()


@pytest.mark.parametrize(
    ("more", "says"),
    [("idle_s = 0.3", "silent"), ("total_s = 0.4", "longer")],
)
async def test_a_stream_that_stalls_is_ended(tmp_path: Path, more: str, says: str) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more="[timeouts]\n" + more, tick_s=0.05) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(REPLY, pause=(5, asyncio.Event())))
        answer = await gateway.ask(alice, stream=True)
        before, told = split_error(answer.body)
        assert answer.cut and before == b"".join(EVENTS[:5])
        assert told["error"]["type"] == "timeout_error" and says in told["error"]["message"]
        (row,) = await gateway.usage_rows()
        assert (row["source"], row["cost_nanos"]) == ("partial", 1000 * IN + visible_tokens(EVENTS[:5]) * OUT)
        async with asyncio.timeout(2):
            await up.journal[0].gone.wait()
        await gateway.assert_settled()


async def test_an_upstream_that_does_not_close_after_the_end_keeps_nobody_waiting(tmp_path: Path) -> None:
    async def lingering(exchange: Any) -> None:
        await exchange.head(200, [("content-type", "text/event-stream")])
        await exchange.send(b"".join(EVENTS))
        await asyncio.Event().wait()

    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(lingering)
        async with asyncio.timeout(4):
            answer = await gateway.ask(alice, stream=True)
        assert not answer.cut and answer.body == b"".join(EVENTS)
        assert (await gateway.usage_rows())[0]["source"] == "reported"
        await gateway.assert_settled()


async def test_text_without_a_message_start_is_charged_too(tmp_path: Path) -> None:
    """An upstream that forgets its first event: what it made was delivered, so it is estimated and marked."""

    async def headless(exchange: Any) -> None:
        await exchange.head(200, [("content-type", "text/event-stream")])
        await exchange.send(b"".join(event for event in EVENTS[1:] if b"message_delta" not in event))
        await exchange.end()

    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(headless)
        answer = await gateway.ask(alice, stream=True)
        assert answer.status == 200
        (row,) = await gateway.usage_rows()
        assert (row["source"], row["flags"], row["output_tokens"]) == ("estimated", "usage_missing", 40)
        await gateway.assert_settled()


async def test_shutdown_ends_streams_with_a_word_and_settles_them(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more="[timeouts]\nshutdown_s = 0.3") as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(REPLY, pause=(6, asyncio.Event())))
        asking = asyncio.ensure_future(gateway.ask(alice, stream=True))
        await until(lambda: up.journal != [] and up.journal[0].events_sent == 6)
        await gateway.house.drain(0.3)
        assert gateway.house.walk.running == {}
        answer = await asking
        before, told = split_error(answer.body)
        assert answer.cut and before == b"".join(EVENTS[:6])
        assert told["error"]["type"] == "api_error" and "restart" in told["error"]["message"]
        refused = await gateway.ask(alice)
        assert (refused.status, refused.headers["retry-after"]) == (503, "2")
        (row,) = await gateway.usage_rows()
        assert row["source"] == "partial"
        await gateway.assert_settled()


# ── the client leaves ────────────────────────────────────────────────────────────────────────────────────────────────


async def leave_after(gateway: Gateway, user: User, events: int, **fields: Any) -> bytes:
    """Ask for a stream, read so many events, and hang up; what was read."""
    body = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], "stream": True, **fields}
    # A session of its own: closing it closes the connection.
    url, headers = gateway.url + "/v1/messages", {"x-api-key": user.secret}
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as response:
        read = b""
        while read.count(b"\n\n") < events:
            read += await response.content.readany()
        response.close()
    return read


async def test_a_client_that_leaves_pays_for_what_was_made(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more="[billing]\ndrain_seconds = 0.4") as gateway:
        alice = await gateway.make_user("alice", "10")
        # The upstream goes on for ever: a delta each 50 ms.
        up.script(
            scripts.answer(Reply(text=("y" * 35,) * 1000, usage=Usage(input_tokens=1000, output_tokens=10_000)), pace_s=0.05)
        )
        read = await leave_after(gateway, alice, 6)
        started = asyncio.get_running_loop().time()
        async with asyncio.timeout(3):
            await up.journal[0].gone.wait()
        assert asyncio.get_running_loop().time() - started < 2
        await gateway.assert_settled()
        (row,) = await gateway.usage_rows()
        delivered = read.count(b"text_delta") * 10
        drained = up.journal[0].events_sent * 10
        assert row["source"] == "estimated" and row["input_tokens"] == 1000
        assert delivered <= row["output_tokens"] <= drained and drained < 500
        assert gateway.balance(alice) == TEN - row["cost_nanos"]


async def test_an_answer_that_ends_while_the_client_leaves_is_charged_as_reported(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(REPLY, pace_s=0.03))
        await leave_after(gateway, alice, 3)
        await gateway.assert_settled()
        (row,) = await gateway.usage_rows()
        assert (row["source"], row["cost_nanos"]) == ("reported", 1000 * IN + 100 * OUT)
        assert up.journal[0].finished


async def test_with_drain_the_answer_is_read_to_its_end(tmp_path: Path) -> None:
    more = '[billing]\non_disconnect = "drain"\ndrain_seconds = 0'
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=more) as gateway:
        alice = await gateway.make_user("alice", "10")
        go_on = asyncio.Event()
        up.script(scripts.answer(REPLY, pause=(5, go_on)))
        await leave_after(gateway, alice, 3)
        await until(lambda: next(iter(gateway.house.walk.running.values())).gone)
        go_on.set()
        await gateway.assert_settled()
        assert (await gateway.usage_rows())[0]["source"] == "reported"


async def test_a_client_that_leaves_before_the_answer_pays_nothing_and_frees_the_upstream(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more="[billing]\ndrain_seconds = 0.1") as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.never())
        asking = asyncio.ensure_future(leave_after(gateway, alice, 1))
        await up.arrived(1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        async with asyncio.timeout(3):
            await up.journal[0].gone.wait()
        await gateway.assert_settled()
        assert await gateway.void_reasons() == ["client_gone"]
        assert await gateway.attempts() == [("up1", None, "client_gone")]


async def test_a_call_that_is_not_streamed_is_charged_though_the_client_is_gone(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        released = asyncio.Event()
        up.script(scripts.answer(REPLY, released=released))
        asking = asyncio.ensure_future(leave_after(gateway, alice, 1, stream=False))
        await up.arrived(1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(0.1)
        assert not up.journal[0].gone.is_set()
        released.set()
        await gateway.assert_settled()
        (row,) = await gateway.usage_rows()
        assert (row["source"], row["cost_nanos"]) == ("reported", 1000 * IN + 100 * OUT)


LONG = Reply(text=("z" * 20_000,) * 1000, usage=Usage(input_tokens=1000, output_tokens=4000))


async def stop_reading(gateway: Gateway, user: User, *, stream: bool = True) -> socket.socket:
    """Ask over a small receive buffer, and never read a byte of the answer."""
    body = json.dumps({"model": MODEL, "max_tokens": 8000, "stream": stream, "messages": []}).encode()
    head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {user.secret}\r\ncontent-length: {len(body)}\r\n\r\n"
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", int(gateway.url.rpartition(":")[2])))
    await loop.sock_sendall(client, head.encode() + body)
    return client


async def test_a_client_that_stops_reading_is_cut_off_and_settled(tmp_path: Path) -> None:
    more = "[timeouts]\nclient_write_s = 0.4\n[billing]\ndrain_seconds = 0.1"
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=more, tick_s=0.05) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(LONG, pause=(900, asyncio.Event())))
        client = await stop_reading(gateway, alice)
        await up.arrived(1)
        async with asyncio.timeout(8):
            await up.journal[0].gone.wait()
        await gateway.assert_settled()
        (row,) = await gateway.usage_rows()
        assert row["source"] == "estimated" and row["input_tokens"] == 1000
        client.close()


@pytest.mark.parametrize("ending", ["end", "cut"])
async def test_a_client_that_stops_reading_near_the_end_is_settled_and_dropped_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Its buffers are full, but no write waits for it yet, when the last event comes: neither must the end wait for ever."""
    monkeypatch.setattr("gateway.api.sink.READ_WITHIN_S", 0.2)
    protocols: list[Any] = []

    async def script(exchange: Any) -> None:
        await exchange.head(200, [("content-type", "text/event-stream")])
        events = [event.data for event in replies.render_stream(Reply(text=("z" * 2000,) * 500), MODEL)]
        await exchange.send(events[0])
        await until(lambda: bool(gateway.house.walk.streams))
        (stream,) = gateway.house.walk.streams
        transport = stream._sink._request.transport  # type: ignore[attr-defined]
        protocols.append(stream._sink._request.protocol)  # type: ignore[attr-defined]
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for event in events[1:-1]:
            await exchange.send(event)
            await asyncio.sleep(0.002)
            if transport.get_write_buffer_size() > 70_000:  # above the high-water mark: the next one that waits, waits
                break
        assert stream._writing_since_ms is None  # type: ignore[attr-defined]
        await exchange.send(events[-1] if ending == "end" else b"")
        await (exchange.end() if ending == "end" else exchange.reset())

    more = "[timeouts]\nclient_write_s = 0.4"
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url, more=more, tick_s=0.05) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(script)
        client = await stop_reading(gateway, alice)
        await up.arrived(1)
        await until(lambda: not gateway.house.walk.running, 5)
        assert [row["source"] for row in await gateway.usage_rows()] == ["estimated" if ending == "end" else "partial"]
        await until(lambda: protocols[0].transport is None, 5)
        await gateway.assert_settled()
        client.close()


async def test_a_client_that_does_not_read_a_whole_answer_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.api.sink.ANSWER_S", 0.3)
    monkeypatch.setattr("gateway.api.sink.ANSWER_BYTES_PER_S", 10**9)
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        up.script(scripts.answer(LONG))
        client = await stop_reading(gateway, alice, stream=False)
        await up.arrived(1)
        # Charged at once, and counted among those in flight until it is gone.
        await until(lambda: not gateway.house.walk.running)
        assert gateway.house.walk.door.in_flight == 1
        await until(lambda: gateway.house.walk.door.in_flight == 0, 3)
        assert [row["source"] for row in await gateway.usage_rows()] == ["reported"]
        await gateway.assert_settled()
        client.close()
