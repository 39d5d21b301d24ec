"""What a user's list of requests finds, beyond what the page's own tests ask."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.clock import rfc3339
from gateway.desk.requests import list_page, parse_filter
from gateway.house import House
from gateway.storage.database import open_reader
from gateway.storage.ledger import LedgerWriter
from gateway.storage.retention import prune_detail, start_pruning
from gateway.storage.rollups import DAY_MS
from tests.desk_tools import DETAIL, desk_house, make_ada, open_request, settle_request
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


@pytest.mark.parametrize("status", ["", "done", "void"])
@pytest.mark.parametrize(("kept_days", "found"), [(2, 1), (1, 0), (0, 0)])
async def test_of_a_session_what_is_being_pruned_is_not_told_in_part(
    kept_days: int, found: int, status: str, house: House, clock: FakeClock
) -> None:
    """Of a day some kinds of rows are deleted before others."""
    request_id, key = await open_request(house, (await make_ada(house))["secret"])
    await settle_request(house, request_id, key, detail=replace(DETAIL, session="s-1"))
    await house.writer.run(lambda ledger: ledger.roll_up(request_id))
    clock.advance(2 * DAY_MS)
    now_ms = clock.at_ms()
    before_ms = now_ms - now_ms % DAY_MS - kept_days * DAY_MS

    def prune(ledger: LedgerWriter) -> None:
        start_pruning(ledger.conn, before_ms)
        prune_detail(ledger.conn, before_ms)

    await house.writer.run(prune)
    asked = parse_filter({"session": "s-1", "status": status, "end": rfc3339(now_ms - DAY_MS)[:10]}, now_ms)
    with closing(open_reader(house.database)) as conn:
        listing = list_page(conn, asked, user_id=key.user_id, wallet_id=key.wallet_id, now_ms=now_ms)
    expected = 0 if status == "void" else found
    assert (len(listing.rows), listing.totals.requests, listing.totals.measures["requests"]) == (expected, expected, expected)
