"""What every kind of upstream owes the walk: one suite over the registry. A new provider is tested by existing.

Those that travel by HTTP talk to the scripted upstream; those with a transport of their own answer for themselves.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.errors import UpstreamError
from gateway.proxy.ports import Incoming, Transport
from gateway.upstreams.base import Judgement, Operation, Outgoing, Provider
from gateway.upstreams.registry import KINDS
from gateway.upstreams.transport import HttpTransport
from gateway.wire.call import Dialect
from gateway.wire.meter import AnthropicMeter, Meter, WholeReading, meter_whole
from gateway.wire.openai import ask_for_usage
from gateway.wire.openai_meter import OpenAIMeter, meter_whole_openai
from gateway.wire.sse import Splitter
from tests.upstream import ScriptedUpstream
from tests.upstreams import scripts
from tests.upstreams.replies import Reply

SECRET = "sk-upstream-secret"
CLIENTS_OWN = [
    ("host", "gateway.example"),
    ("authorization", "Bearer sk-pgrid-client"),
    ("x-api-key", "sk-pgrid-client"),
    ("api-key", "sk-pgrid-client"),
    ("cookie", "session=sk-pgrid-client"),
    ("x-forwarded-for", "sk-pgrid-client"),
    ("content-length", "99999"),
    ("transfer-encoding", "chunked"),
]
# A request that both dialects take.
BODY = {"model": "claude-m", "max_tokens": 500, "messages": [{"role": "user", "content": "Say hi"}]}
OPERATIONS: dict[Dialect, Operation] = {"anthropic": "messages", "openai": "chat"}
METERS: dict[Dialect, type[AnthropicMeter] | type[OpenAIMeter]] = {"anthropic": AnthropicMeter, "openai": OpenAIMeter}
WHOLE_METERS: dict[Dialect, Callable[[bytes], WholeReading]] = {"anthropic": meter_whole, "openai": meter_whole_openai}
# As an operator writes it: of OpenAI's kind the base URL holds the version.
BASES = {"openai": "/v1"}


@dataclass
class Room:
    provider: Provider
    transport: Transport
    up: ScriptedUpstream

    @property
    def scripted(self) -> bool:
        return isinstance(self.transport, HttpTransport)

    def outgoing(self, *, operation: Operation | None = None, stream: bool = False, **fields: Any) -> Outgoing:
        body = json.dumps(BODY | {"stream": stream} | fields).encode()
        if stream and self.provider.dialect == "openai":
            body = ask_for_usage(body)
        asked = operation or OPERATIONS[self.provider.dialect]
        return self.provider.address(asked, "beta=true", CLIENTS_OWN, body, stream=stream)

    async def streamed(self) -> tuple[list[bytes], Meter]:
        incoming = await self.open(self.outgoing(stream=True))
        assert dict(incoming.headers)["content-type"].startswith("text/event-stream")
        events = Splitter().feed(await read(incoming))
        meter = METERS[self.provider.dialect]()
        for event in events:
            meter.feed(event)
        return events, meter

    async def whole(self) -> WholeReading:
        return WHOLE_METERS[self.provider.dialect](await read(await self.open(self.outgoing())))

    async def open(self, outgoing: Outgoing) -> Incoming:
        return await self.transport.open(outgoing, connect_s=5, head_s=5)


@pytest.fixture(params=sorted(KINDS))
async def room(request: pytest.FixtureRequest) -> AsyncIterator[Room]:
    kind = KINDS[request.param]
    transport = kind.transport()
    async with ScriptedUpstream() as up:
        yield Room(kind.build(up.url + BASES.get(request.param, ""), SECRET, ()), transport, up)
        await transport.close()


async def read(incoming: Incoming) -> bytes:
    parts = []
    while part := await incoming.read():
        parts.append(part)
    assert await incoming.read() == b"", "the end stays the end"
    return b"".join(parts)


def data_of(event: bytes) -> Any:
    return json.loads(event.decode().partition("data: ")[2])


async def test_it_knows_its_name(room: Room) -> None:
    assert KINDS[room.provider.kind].build("http://127.0.0.1", "s", ()).kind == room.provider.kind
    assert room.provider.dialect in ("anthropic", "openai")


async def test_the_clients_credentials_and_framing_stay_here(room: Room) -> None:
    outgoing = room.outgoing()
    assert "sk-pgrid-client" not in str(outgoing.headers)
    assert {name for name, _ in outgoing.headers}.isdisjoint({"host", "content-length", "transfer-encoding", "cookie"})
    assert all(name == name.lower() for name, _ in outgoing.headers)
    assert SECRET not in repr(outgoing) + outgoing.url


async def test_the_body_is_the_clients_own(room: Room) -> None:
    body = b'{ "z": 1,  "model" : "claude-m", "a": [ ] }'
    assert room.provider.address(OPERATIONS[room.provider.dialect], "", [], body, stream=False).body is body


async def test_a_whole_answer(room: Room) -> None:
    incoming = await room.open(room.outgoing())
    assert (incoming.status, dict(incoming.headers)["content-type"]) == (200, "application/json")
    reading = WHOLE_METERS[room.provider.dialect](await read(incoming))
    assert reading.is_message and reading.model == "claude-m" and reading.stop_reason
    assert reading.usage is not None and reading.usage.input_tokens > 0 and reading.usage.output_tokens > 0
    assert (reading.unknown_fields, reading.malformed) == (frozenset(), False)


async def test_a_stream_ends_properly_and_its_numbers_agree_with_the_whole(room: Room) -> None:
    _, meter = await room.streamed()
    assert (meter.started, meter.ended, meter.errored, meter.malformed) == (True, True, False, False)
    assert (meter.model, meter.unknown_fields, meter.output_reported) == ("claude-m", set(), True)
    assert meter.usage == (await room.whole()).usage
    assert meter.visible_bytes > 0


async def test_an_anthropic_stream_is_in_order(room: Room) -> None:
    if room.provider.dialect != "anthropic":
        return
    raw, _ = await room.streamed()
    events = [data_of(event) for event in raw]
    kinds = [event["type"] for event in events if event["type"] != "ping"]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    open_block = None
    for event in events:
        if event["type"] == "content_block_start":
            assert open_block is None
            open_block = event["index"]
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_block
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_block
            open_block = None
    assert open_block is None
    whole = json.loads(await read(await room.open(room.outgoing())))
    assert events[-2]["delta"]["stop_reason"] == whole["stop_reason"]


async def test_its_probe_is_answered_and_names_the_secret(room: Room) -> None:
    outgoing = room.outgoing(operation=room.provider.probe)
    answer = json.loads(await read(await room.open(outgoing)))
    assert answer.get("input_tokens", 0) > 0 or answer["data"]
    if room.scripted:
        assert SECRET in str(outgoing.headers)
        assert room.up.journal[0].method == outgoing.method


async def test_a_malformed_request_passes_verbatim(room: Room) -> None:
    room.up.script(scripts.refuse(400))
    incoming = await room.open(room.outgoing(messages="not a list"))
    body = await read(incoming)
    assert incoming.status == 400
    assert room.provider.judge(400, incoming.headers, body).course == "verbatim"
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


async def test_every_status_is_judged_whatever_comes_with_it(room: Room) -> None:
    odd_headers = [("retry-after", "\u00b2"), ("date", ""), ("anthropic-ratelimit-requests-reset", "never")]
    for status in range(300, 600):
        for body in (b"", b"null", b"\xff\xfe", b'{"error":{"message":null}}', b'{"error":"' + b"x" * 9000):
            judgement = room.provider.judge(status, odd_headers, body)
            assert isinstance(judgement, Judgement)
            assert judgement.course in ("verbatim", "next", "final") and 0 < len(judgement.reason) <= 32


async def test_only_harmless_headers_of_the_answer_are_shown(room: Room) -> None:
    incoming = await room.open(room.outgoing())
    await read(incoming)
    shown = room.provider.response_headers([*incoming.headers, *scripts.LEAKY])
    assert {name for name, _ in shown} <= {"content-type", "retry-after", "x-should-retry"}
    assert "leak" not in str(shown)


async def test_an_aborted_answer_ends_at_once(room: Room) -> None:
    room.up.script(scripts.answer(Reply(text=("x",) * 50), pace_s=0.02))
    incoming = await room.open(room.outgoing(stream=True))
    await incoming.read()
    reading = asyncio.create_task(incoming.read())
    await asyncio.sleep(0)
    incoming.abort()
    incoming.abort()
    with pytest.raises(UpstreamError) as caught:
        await asyncio.wait_for(reading, 0.05)
    assert caught.value.reason == "aborted"
    if room.scripted:
        await asyncio.wait_for(room.up.journal[0].gone.wait(), 0.5)


async def test_abort_after_the_end_is_harmless(room: Room) -> None:
    incoming = await room.open(room.outgoing())
    await read(incoming)
    incoming.abort()
    assert await read(await room.open(room.outgoing()))


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.transport is HttpTransport])
def test_an_address_that_is_none_is_refused_at_construction(kind: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        KINDS[kind].build("not an address", SECRET, ())
