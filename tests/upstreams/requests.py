"""Plain requests through the transport, as its tests send them."""

from __future__ import annotations

import pytest

from gateway.errors import UpstreamError
from gateway.upstreams.base import Outgoing
from gateway.upstreams.transport import HttpIncoming, HttpTransport
from tests.upstream import ScriptedUpstream

SECRET = "sk-ant-very-secret"


def request(up: ScriptedUpstream, *, stream: bool = False, filler: int = 0, query: str = "") -> Outgoing:
    body = b'{"model":"claude-m","max_tokens":9,"stream":%s,"x":"%s"}' % (b"true" if stream else b"false", b"x" * filler)
    return Outgoing(f"{up.url}/v1/messages{query}", (("x-api-key", SECRET),), body, stream)


async def opened(transport: HttpTransport, outgoing: Outgoing, *, connect_s: float = 5, head_s: float = 5) -> HttpIncoming:
    return await transport.open(outgoing, connect_s=connect_s, head_s=head_s)


async def rest_of(incoming: HttpIncoming) -> bytes:
    parts = []
    while part := await incoming.read():
        parts.append(part)
    return b"".join(parts)


async def exchange(transport: HttpTransport, outgoing: Outgoing) -> bytes:
    return await rest_of(await opened(transport, outgoing))


async def failure(transport: HttpTransport, outgoing: Outgoing, *, head_s: float = 5) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await rest_of(await opened(transport, outgoing, head_s=head_s))
    error = caught.value
    assert "127.0.0.1" not in error.message
    assert SECRET not in repr(error) + error.detail + repr(error.__cause__)
    return error
