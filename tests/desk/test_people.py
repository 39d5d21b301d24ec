"""Users as administrators look at them: whose money, spent when."""

from __future__ import annotations

from contextlib import closing

import pytest

from gateway.desk.people import Person, get_person, list_people
from gateway.desk.rollups import in_slices
from gateway.errors import ClientError
from gateway.house import House
from gateway.storage.database import open_reader
from tests.desk_tools import act, make_ada, open_request, settle_request
from tests.fakes import FakeClock

DAY_MS = 86_400_000


def person(house: House, user_id: int = 1) -> Person:
    with closing(open_reader(house.database)) as conn:
        return get_person(conn, house.desk.clock.at_ms(), user_id)


@pytest.mark.parametrize("rolled_up", [0, 1, 2, 3])
async def test_thirty_days_are_today_and_the_29_before_however_far_the_roll_ups_reach(
    rolled_up: int, house: House, clock: FakeClock
) -> None:
    secret = (await make_ada(house))["secret"]
    costs, ids = [], []
    for days in (1, 28, 0):  # the first of them is 29 days ago at the end, and then 30
        request_id, key = await open_request(house, secret)
        costs.append(await settle_request(house, request_id, key, limit_nanos=1_000 + len(costs)))
        ids.append(request_id)
        clock.advance(days * DAY_MS)
    if rolled_up:
        await in_slices(house.desk, lambda ledger: ledger.roll_up(ids[rolled_up - 1]))
    found = person(house)
    assert found.spent_nanos == sum(costs) and [key["spent_nanos"] for key in found.keys] == [sum(costs)]
    clock.advance(DAY_MS)
    assert person(house).spent_nanos == sum(costs[1:])
    with closing(open_reader(house.database)) as conn:
        (row,) = list_people(conn, clock.at_ms()).rows
    assert (row["spent_nanos"], row["used_at_ms"]) == (sum(costs[1:]), clock.at_ms() - DAY_MS)


async def test_money_that_moved_is_told_without_charges(house: House, clock: FakeClock) -> None:
    secret = (await make_ada(house))["secret"]
    await act(house, "wallets.withdraw", user="ada", amount="1", reference="payback")
    request_id, key = await open_request(house, secret)
    await settle_request(house, request_id, key)
    await act(house, "users.create", name="bob")
    await act(house, "wallets.topup", user="bob", amount="2", reference="bobs")
    await act(house, "wallets.withdraw", user="bob", amount="1", reference="bobs")
    found = person(house)
    assert [(line["kind"], line["amount_nanos"], line["reference"]) for line in found.movements] == [
        ("withdraw", -(10**9), "payback"),
        ("deposit", 10 * 10**9, "opening"),
    ]
    assert len(found.requests) == 1 and found.running == 0
    request_id, key = await open_request(house, secret)
    assert person(house).running == 1
    await settle_request(house, request_id, key)


async def test_keys_that_work_stand_first(house: House, clock: FakeClock) -> None:
    first = await make_ada(house)
    second = await act(house, "keys.create", user="ada", name="second")
    third = await act(house, "keys.rotate", key_id=second["id"], grace="1h")
    await act(house, "keys.revoke", key_id=first["id"])
    assert [key["id"] for key in person(house).keys] == [third["id"], second["id"], first["id"]]
    clock.advance(3_600_000)
    assert [key["id"] for key in person(house).keys] == [third["id"], second["id"], first["id"]]
    with pytest.raises(ClientError, match="There is no such user"):
        person(house, 99)
