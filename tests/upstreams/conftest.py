"""A scripted upstream and a transport, for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.upstreams.transport import HttpTransport
from tests.upstream import ScriptedUpstream


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    transport = HttpTransport()
    yield transport
    await transport.close()
