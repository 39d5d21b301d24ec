"""A house whose desk is tried; leaving the test ends in the whole audit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.house import House
from tests.desk_tools import desk_house
from tests.fakes import FakeClock


@pytest.fixture
async def house(tmp_path: Path, clock: FakeClock) -> AsyncIterator[House]:
    async with desk_house(tmp_path / "data", clock) as house:
        yield house
