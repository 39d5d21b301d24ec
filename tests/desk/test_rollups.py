"""The upkeep of reports: rolled up some minutes later, proved and put right, pruned past its retention."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

import pytest

from gateway.desk.rollups import LAG_MS, RollUp, prove_rollups, prune
from gateway.house import House
from gateway.metrics import counters
from gateway.storage import rollups
from gateway.storage.database import open_reader
from gateway.storage.recovery import highest_request_id
from gateway.storage.rollups import DAY_MS, HOUR_MS
from tests.desk_tools import act, make_ada, open_request, settle_request
from tests.fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """At eleven in the morning, so that an hour more or less is the same day."""
    return FakeClock(at_ms=1_780_012_800_000 - 1_780_012_800_000 % DAY_MS + 11 * HOUR_MS)


def rows(house: House, sql: str) -> list[Any]:
    with closing(open_reader(house.database)) as conn:
        return conn.execute(sql).fetchall()


async def settle_some(house: House, secret: str, number: int) -> int:
    return sum([await settle_request(house, *await open_request(house, secret, hold_nanos=10**8)) for _ in range(number)])


async def test_usage_is_rolled_up_once_its_requests_have_had_time_to_end(house: House, clock: FakeClock) -> None:
    ada = await make_ada(house)
    long_one = await open_request(house, ada["secret"])
    cost = await settle_some(house, ada["secret"], 3)
    rolling = RollUp()
    await rolling.run(house.desk)
    clock.wall_ms -= DAY_MS  # the wall clock has no say
    clock.running_ms += LAG_MS - 1
    await rolling.run(house.desk)
    assert rows(house, "select * from usage_days") == []
    clock.running_ms += 1
    await rolling.run(house.desk)
    assert rows(house, "select requests, cost_nanos from usage_days") == [(3, cost)]
    # The one that ran on is added when it ends, in whatever day the clock says it is.
    late = await settle_request(house, *long_one)
    found = rows(house, "select requests, cost_nanos, upstream_nanos, upstream_unknown from usage_days order by day_at_ms")
    assert found == [(1, late, late, 0), (3, cost, cost, 0)]
    assert rows(house, "select sum(requests), sum(cost_nanos) from usage_hours") == [(4, cost + late)]
    assert rows(house, "select sum(requests), sum(cost_nanos) from usage_sessions") == [(4, cost + late)]
    assert rows(house, "select count(*) from usage where request_id > (select request_id from rollup_mark)") == [(0,)]


@pytest.mark.parametrize(
    "fault",
    [
        "update usage_days set cost_nanos = cost_nanos + 5",
        "update usage_hours set input_tokens = input_tokens - 5",
        "delete from usage_days",
        "delete from usage_hours",
        "delete from usage_hours where hour_at_ms = (select min(hour_at_ms) from usage_hours)",
        "update usage_days set day_at_ms = day_at_ms + 86400000 where day_at_ms = (select max(day_at_ms) from usage_days)",
        "update usage_hours set key_id = key_id + 7, cost_nanos = cost_nanos + 1",
        "insert into usage_days select day_at_ms + 864000000, wallet_id, key_id, model, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0, 0, "
        "0, first_request_id, last_request_id from usage_days limit 1",
    ],
)
async def test_roll_ups_that_are_not_what_usage_says_ring_and_are_put_right(house: House, clock: FakeClock, fault: str) -> None:
    ada = await make_ada(house)
    for _ in range(3):
        await settle_some(house, ada["secret"], 2)
        clock.advance(20 * HOUR_MS)
    await house.writer.run(lambda ledger: ledger.roll_up(2**62))
    kept = "requests, input_tokens, output_tokens, cost_nanos, paid_nanos"
    hours, days = (f"select {at}, wallet_id, key_id, model, {kept} from {table}" for at, table in AT)
    before = (rows(house, hours), rows(house, days))
    rung = counters["alarm_rollups"]
    await prove_rollups(house.desk)
    assert counters["alarm_rollups"] == rung
    await house.writer.run(lambda ledger: ledger.conn.execute(fault))
    assert (rows(house, hours), rows(house, days)) != before
    await prove_rollups(house.desk)
    assert counters["alarm_rollups"] > rung
    assert (rows(house, hours), rows(house, days)) == before
    rung = counters["alarm_rollups"]
    await prove_rollups(house.desk)
    assert counters["alarm_rollups"] == rung


AT = (("hour_at_ms", "usage_hours"), ("day_at_ms", "usage_days"))


async def test_what_is_rolled_up_while_a_difference_is_mended_counts_once(house: House, clock: FakeClock) -> None:
    ada = await make_ada(house)
    await settle_some(house, ada["secret"], 2)
    await house.writer.run(lambda ledger: ledger.roll_up(2**62))
    await house.writer.run(lambda ledger: ledger.conn.execute("update usage_days set requests = 1"))
    with closing(open_reader(house.database)) as conn:
        (difference,) = rollups.differences(conn)
    await settle_some(house, ada["secret"], 3)  # at or below the mark: added at once
    await house.writer.run(lambda ledger: rollups.mend(ledger.conn, difference))
    assert rows(house, "select requests from usage_days") == [(5,)]


async def test_detail_past_its_retention_goes_and_the_sums_stay(house: House, clock: FakeClock) -> None:
    ada = await make_ada(house)
    old = await open_request(house, ada["secret"])
    overnight = await open_request(house, ada["secret"])
    cost = await settle_request(house, *old)
    clock.advance(DAY_MS)
    cost += await settle_request(house, *overnight)
    cost += await settle_some(house, ada["secret"], 2)
    clock.advance(2 * DAY_MS)
    await prune(house.desk, 1)
    assert rows(house, "select count(*) from request_details") == [(4,)], "what no roll-up has is still read by reports"
    await house.writer.run(lambda ledger: ledger.conn.execute("update rollup_mark set detail_from_ms = 0"))
    await house.writer.run(lambda ledger: ledger.roll_up(highest_request_id(ledger.conn)))
    cost += await settle_some(house, ada["secret"], 1)
    await prune(house.desk, 0)
    await prune(house.desk, 3)
    assert rows(house, "select count(*) from request_details") == [(5,)]
    await prune(house.desk, 2)
    # What was settled on the first of the days kept has its detail, also where it began the day before.
    assert rows(house, "select count(*) from request_details") == [(4,)]
    assert rows(house, "select count(*) from attempts") == [(8,)]
    assert rows(house, "select sum(requests) from usage_sessions") == [(3,)]
    assert rows(house, f"select request_id from request_details where request_id = {old[0]}") == []
    assert rows(house, f"select count(*) from attempts where request_id = {old[0]}") == [(0,)]
    assert rows(house, "select sum(requests) from usage_days") == [(4,)]
    assert rows(house, "select count(*), sum(cost_nanos) from usage") == [(5, cost)]
    by_day = await act(house, "usage.report", start=DAY, end=LAST_DAY, by=["day"])
    assert (by_day["total"]["requests"], by_day["total"]["cost_nanos"]) == (5, cost) and "detail_since" not in by_day
    by_session = await act(house, "usage.report", start=DAY, end=LAST_DAY, by=["session"])
    assert (by_session["total"]["requests"], by_session["detail_since"]) == (4, f"{NEXT_DAY}T00:00:00Z")


DAY, NEXT_DAY, LAST_DAY = "2026-05-29", "2026-05-30", "2026-06-02"


async def test_a_clock_in_1970_prunes_nothing(house: House, clock: FakeClock) -> None:
    ada = await make_ada(house)
    await settle_some(house, ada["secret"], 1)
    clock.wall_ms = 5
    await prune(house.desk, 90)
    assert rows(house, "select detail_from_ms from rollup_mark") == [(0,)]


async def test_commits_go_on_between_the_slices(house: House, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = await make_ada(house)
    await settle_some(house, ada["secret"], 12)
    monkeypatch.setattr(rollups.roll_up, "__defaults__", (2,))
    rolling = RollUp()
    await rolling.run(house.desk)
    clock.running_ms += LAG_MS
    work = asyncio.ensure_future(rolling.run(house.desk))
    written = 0
    while not work.done():
        await house.writer.run(lambda ledger: None)
        written += 1
        await asyncio.sleep(0)
    assert written > 6
    assert rows(house, "select requests from usage_days") == [(12,)]
