"""The one door outward, against a real server that misbehaves in every way we know."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time

import pytest

from gateway.errors import UpstreamError
from gateway.upstreams.base import Outgoing
from gateway.upstreams.transport import HttpTransport
from tests.upstream import Exchange, ScriptedUpstream
from tests.upstreams import scripts
from tests.upstreams.replies import Reply, render_message, render_stream
from tests.upstreams.requests import exchange, failure, opened, request, rest_of


async def test_a_whole_answer_and_its_head(up: ScriptedUpstream, transport: HttpTransport) -> None:
    incoming = await opened(transport, request(up))
    assert incoming.status == 200
    assert dict(incoming.headers)["content-type"] == "application/json"
    assert all(name == name.lower() for name, _ in incoming.headers)
    assert await rest_of(incoming) == render_message(Reply(), "claude-m")
    assert await incoming.read() == b""
    incoming.abort()
    assert (await exchange(transport, request(up))) and up.connections == 1


async def test_only_headers_that_we_chose_are_sent(up: ScriptedUpstream, transport: HttpTransport) -> None:
    await exchange(transport, request(up))
    assert {name for name, _ in up.journal[0].headers} == {"host", "content-length", "x-api-key"}


async def test_duplicate_headers_stay_in_order(up: ScriptedUpstream, transport: HttpTransport) -> None:
    headers = (("anthropic-beta", "b"), ("x-api-key", "s"), ("anthropic-beta", "a"))
    await exchange(transport, Outgoing(up.url + "/v1/messages", headers, request(up).body, False))
    assert [value for name, value in up.journal[0].headers if name == "anthropic-beta"] == ["b", "a"]


async def test_the_query_goes_out_as_written(up: ScriptedUpstream, transport: HttpTransport) -> None:
    await exchange(transport, request(up, query="?beta=true&x=%2f%41+b[]&beta=true"))
    assert up.journal[0].query == "beta=true&x=%2f%41+b[]&beta=true"


async def test_a_body_of_several_megabytes_arrives_whole(up: ScriptedUpstream, transport: HttpTransport) -> None:
    outgoing = request(up, filler=3_000_000)
    await exchange(transport, outgoing)
    assert up.journal[0].body == outgoing.body


async def test_events_come_as_they_are_sent(up: ScriptedUpstream, transport: HttpTransport) -> None:
    go_on = asyncio.Event()
    up.script(scripts.answer(pause=(1, go_on)))
    incoming = await opened(transport, request(up, stream=True))
    events = render_stream(Reply(), "claude-m")
    assert await incoming.read() == events[0].data
    go_on.set()
    assert await rest_of(incoming) == b"".join(event.data for event in events[1:])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_shown_and_not_followed(up: ScriptedUpstream, transport: HttpTransport, status: int) -> None:
    async with ScriptedUpstream() as thief:
        up.script(scripts.redirect(thief.url + "/v1/messages", status))
        incoming = await opened(transport, request(up))
        assert incoming.status == status
        await rest_of(incoming)
        assert thief.journal == [] and len(up.journal) == 1


async def test_cookies_are_not_carried(up: ScriptedUpstream, transport: HttpTransport) -> None:
    for _ in range(2):
        await exchange(transport, request(up))
    assert up.journal[1].header("cookie") is None


async def test_a_gzip_answer_is_left_as_it_is(up: ScriptedUpstream, transport: HttpTransport) -> None:
    up.script(scripts.zipped())
    incoming = await opened(transport, request(up))
    assert ("content-encoding", "gzip") in incoming.headers
    assert gzip.decompress(await rest_of(incoming)).startswith(b"{")


async def test_proxies_of_the_environment_are_not_used(
    up: ScriptedUpstream, transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert await exchange(transport, request(up))


async def test_nobody_listens(up: ScriptedUpstream, transport: HttpTransport) -> None:
    await up.stop()
    error = await failure(transport, request(up))
    assert (error.reason, error.code, error.retryable) == ("connect", "upstream_failed", True)
    assert "127.0.0.1" in error.detail


async def test_a_name_that_does_not_resolve(transport: HttpTransport) -> None:
    error = await failure(transport, Outgoing("http://nobody.invalid/v1/messages", (), b"{}", False))
    assert error.reason == "connect"
    assert "nobody" not in error.message


async def test_plain_http_where_tls_is_expected(up: ScriptedUpstream, transport: HttpTransport) -> None:
    error = await failure(transport, Outgoing(f"https://127.0.0.1:{up.port}/v1/messages", (), b"{}", False))
    assert error.reason == "connect"


async def test_connecting_takes_too_long(transport: HttpTransport) -> None:
    # A listening socket whose queue is full: the handshake is never answered.
    with socket.socket() as full, socket.socket() as filler:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        filler.connect(full.getsockname())
        fillers = [socket.socket() for _ in range(3)]
        for each in fillers:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/"
        with pytest.raises(UpstreamError) as caught:
            await opened(transport, Outgoing(url, (), b"{}", False), connect_s=0.1)
        for each in fillers:
            each.close()
    assert (caught.value.reason, caught.value.code) == ("connect", "upstream_timeout")


@pytest.mark.parametrize(
    ("at", "how", "reason"),
    [
        ("request", "reset", "reset"),
        ("request", "fin", "reset"),
        ("head", "reset", "reset"),
        ("head", "fin", "reset"),
        ("middle", "reset", "reset"),
        ("middle", "fin", "reset"),
        ("end", "reset", "reset"),
        ("end", "fin", "reset"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_cut_off_never_looks_complete(
    up: ScriptedUpstream, transport: HttpTransport, at: scripts.CutPoint, how: scripts.CutWay, reason: str, stream: bool
) -> None:
    up.script(scripts.cut(at, how))
    error = await failure(transport, request(up, stream=stream))
    assert (error.reason, error.code) == (reason, "upstream_failed")
    assert len(up.journal) == 1, "a fresh connection that breaks is not retried here"


@pytest.mark.parametrize("how", ["reset", "fin"])
async def test_a_body_without_length_ends_with_its_connection(
    up: ScriptedUpstream, transport: HttpTransport, how: scripts.CutWay
) -> None:
    up.script(scripts.raw(b"HTTP/1.1 200 OK\r\ncontent-type: x\r\n\r\nsome text", how=how))
    if how == "fin":
        assert await exchange(transport, request(up)) == b"some text"
    else:
        assert (await failure(transport, request(up))).reason == "reset"


async def test_a_clean_end_is_not_ours_to_doubt(up: ScriptedUpstream, transport: HttpTransport) -> None:
    up.script(scripts.cut("middle", "clean"))
    assert await exchange(transport, request(up, stream=True))


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", id="another protocol"),
        pytest.param(HEAD + b"a: b\r\n" * 101 + b"content-length: 0\r\n\r\n", id="too many headers"),
        pytest.param(HEAD + b"a: " + b"b" * 9000 + b"\r\ncontent-length: 0\r\n\r\n", id="a header too long"),
        pytest.param(HEAD + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd", id="two lengths"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", id="an upgrade"),
    ],
)
async def test_a_head_that_is_not_http_as_we_take_it(up: ScriptedUpstream, transport: HttpTransport, data: bytes) -> None:
    up.script(scripts.raw(data))
    assert (await failure(transport, request(up))).reason == "protocol"


async def test_headers_within_the_caps_pass(up: ScriptedUpstream, transport: HttpTransport) -> None:
    up.script(scripts.raw(HEAD + b"a: %s\r\n" % (b"b" * 7000) * 90 + b"content-length: 0\r\n\r\n"))
    incoming = await opened(transport, request(up))
    assert len(incoming.headers) == 91
    assert await rest_of(incoming) == b""


@pytest.mark.parametrize("tail", [b"zz\r\nabc\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"5\r\nab"])
async def test_bad_chunks_break_the_read(up: ScriptedUpstream, transport: HttpTransport, tail: bytes) -> None:
    up.script(scripts.raw(CHUNKED + b"2\r\nok\r\n" + tail))
    assert (await failure(transport, request(up))).reason in ("reset", "protocol")


async def test_no_head_in_time(up: ScriptedUpstream, transport: HttpTransport) -> None:
    up.script(scripts.never())
    error = await failure(transport, request(up), head_s=0.05)
    assert (error.reason, error.code) == ("timeout", "upstream_timeout")
    await asyncio.wait_for(up.journal[0].gone.wait(), 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_abort_closes_within_50_ms(up: ScriptedUpstream, transport: HttpTransport, stream: bool) -> None:
    async def half(exchange: Exchange) -> None:
        await exchange.head(200, (), length=None if stream else 1000)
        await exchange.send(b"half")
        await asyncio.Event().wait()

    up.script(half)
    incoming = await opened(transport, request(up, stream=stream))
    assert await incoming.read() == b"half"
    reading = asyncio.create_task(incoming.read())
    await asyncio.sleep(0)
    began = time.monotonic()
    incoming.abort()
    with pytest.raises(UpstreamError) as caught:
        await reading
    await asyncio.wait_for(up.journal[0].gone.wait(), 1)
    assert time.monotonic() - began < 0.05
    assert caught.value.reason == "aborted"
    with pytest.raises(UpstreamError, match="given up"):
        await incoming.read()
    incoming.abort()


async def test_abort_does_not_wait_for_a_body_that_is_still_being_sent(transport: HttpTransport) -> None:
    async def answer_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"content-length: 9\r\n\r\nhalf")
        try:
            await asyncio.wait_for(closed.wait(), 2)
        finally:
            writer.transport.abort()

    closed = asyncio.Event()
    async with await asyncio.start_server(answer_early, "127.0.0.1", 0, limit=1000) as server:
        port = server.sockets[0].getsockname()[1]
        incoming = await opened(transport, Outgoing(f"http://127.0.0.1:{port}/", (), b"x" * 20_000_000, False))
        connection = incoming._response.connection
        assert connection is not None
        wire = connection.transport
        await asyncio.sleep(0.05)  # until the kernel takes no more
        assert wire is not None and wire.get_write_buffer_size() > 0
        incoming.abort()
        await asyncio.sleep(0.02)
        assert wire.get_write_buffer_size() == 0
        closed.set()


async def test_a_caller_that_is_cancelled_leaves_no_connection(up: ScriptedUpstream, transport: HttpTransport) -> None:
    up.script(scripts.never())
    opening = asyncio.create_task(opened(transport, request(up)))
    await up.arrived(1)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await asyncio.wait_for(up.journal[0].gone.wait(), 1)


async def test_a_slow_reader_slows_the_upstream(up: ScriptedUpstream, transport: HttpTransport) -> None:
    up.script(scripts.answer(Reply(text=("x" * 100_000,) * 300)))
    incoming = await opened(transport, request(up, stream=True))
    await asyncio.sleep(0.2)
    assert up.journal[0].events_sent < 250
    assert len(await rest_of(incoming)) > 30_000_000


async def test_close_ends_what_is_open(up: ScriptedUpstream) -> None:
    transport = HttpTransport()
    up.script(scripts.answer(pause=(1, asyncio.Event())))
    incoming = await opened(transport, request(up, stream=True))
    await incoming.read()
    await transport.close()
    with pytest.raises(UpstreamError):
        await incoming.read()
