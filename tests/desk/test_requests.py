"""What a user's list of requests finds, beyond what the page's own tests ask."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from gateway.desk.requests import list_page, parse_filter
from gateway.storage.database import open_reader
from gateway.storage.rollups import DAY_MS
from tests.desk_tools import desk_house, make_ada, open_request
from tests.fakes import FakeClock


@pytest.mark.parametrize("down_days", [0, 3])
async def test_what_died_with_its_process_is_found_on_the_day_of_the_next_start(
    down_days: int, tmp_path: Path, clock: FakeClock
) -> None:
    async with desk_house(tmp_path / "data", clock) as house:
        request_id, key = await open_request(house, (await make_ada(house))["secret"])
    clock.advance(down_days * DAY_MS)
    async with desk_house(tmp_path / "data", clock) as house:
        now_ms = clock.at_ms()
        asked = parse_filter({"time": "today"}, now_ms)
        with closing(open_reader(house.database)) as conn:
            found = list_page(conn, asked, user_id=key.user_id, wallet_id=key.wallet_id, now_ms=now_ms)
        assert [(row["request_id"], row["reason"]) for row in found.rows] == [(request_id, "unknown")]
        assert (found.totals.void, found.totals.void_complete) == (1, True)
