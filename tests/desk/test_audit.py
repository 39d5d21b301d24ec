"""The audit log as people read it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.desk import acts
from gateway.errors import ClientError
from gateway.house import House
from tests.desk_tools import act
from tests.fakes import FakeClock

HOUR_MS = 3_600_000


async def entries(house: House, **filters: Any) -> list[str]:
    return [f"{entry['actor']} {entry['action']}" for entry in (await act(house, "audit.list", **filters))["entries"]]


async def administer(house: House, clock: FakeClock) -> None:
    for actor, name, arguments in (
        ("cli:root", "users.create", {"name": "ada"}),
        ("admin-key:1 deploy", "wallets.topup", {"user": "ada", "amount": "5", "reference": "r"}),
        ("admin-key:11 panel", "wallets.freeze", {"user": "ada"}),
        ("cli:root", "users.create", {"name": "bob"}),
    ):
        await acts.perform(house.desk, actor, name, arguments)
        clock.advance(HOUR_MS)


async def test_what_was_done_is_told_newest_first(house: House, clock: FakeClock) -> None:
    at_ms = clock.at_ms()
    await administer(house, clock)
    found = await act(house, "audit.list")
    assert found["next_before"] is None
    assert found["entries"][1] == {
        "id": 3,
        "at_ms": at_ms + 2 * HOUR_MS,
        "actor": "admin-key:11 panel",
        "action": "wallets.freeze",
        "subject": "user:ada",
        "before": {"frozen": False},
        "after": {"frozen": True},
    }
    assert [entry["id"] for entry in found["entries"]] == [4, 3, 2, 1]
    # Looking leaves no trace.
    assert len((await act(house, "audit.list"))["entries"]) == 4


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({"actor": "cli:root"}, [4, 1]),
        ({"actor": "admin-key:1"}, [2]),
        ({"actor": "admin-key:1 deploy"}, [2]),
        ({"actor": "admin-key"}, []),
        ({"action": "wallets"}, [3, 2]),
        ({"action": "wallets.topup"}, [2]),
        ({"action": "wallet"}, []),
        ({"action": "%"}, []),
        ({"subject": "user:ada"}, [3, 2, 1]),
        ({"subject": "user:ada", "actor": "cli:root"}, [1]),
        ({"since": "2026-05-28"}, [4, 3, 2, 1]),
        ({"since": "2026-05-28T22:26:40Z"}, [4, 3]),
        ({"since": "2026-05-29T00:26:40.001+02:00"}, [4]),
        ({"since": "2027-01-01"}, []),
        ({"before": 3}, [2, 1]),
        ({"before": 2**63 - 1}, [4, 3, 2, 1]),
    ],
)
async def test_what_is_asked_for_is_told(house: House, clock: FakeClock, filters: dict[str, Any], ids: list[int]) -> None:
    clock.wall_ms = 1_780_000_000_000 // HOUR_MS * HOUR_MS + 26 * 60_000 + 40_000
    await administer(house, clock)
    assert [entry["id"] for entry in (await act(house, "audit.list", **filters))["entries"]] == ids


async def test_pages_follow_each_other_without_a_gap(house: House, clock: FakeClock) -> None:
    for number in range(7):
        await act(house, "users.create", name=f"user{number}")
    ids, before = [], None
    for _ in range(4):
        page = await act(house, "audit.list", limit=2, **({} if before is None else {"before": before}))
        ids += [entry["id"] for entry in page["entries"]]
        await act(house, "users.create", name=f"meanwhile{len(ids)}")
        before = page["next_before"]
    assert ids == [7, 6, 5, 4, 3, 2, 1] and before is None


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"limit": 0}, "limit: write a number from 1 to 1000"),
        ({"limit": 1001}, "limit: write a number from 1 to 1000"),
        ({"before": 0}, "before: it is the next_before"),
        ({"before": 10**30}, "before: it is the next_before"),
        ({"since": "yesterday"}, "since: write a day"),
        ({"since": "2026-02-30"}, "since: write a day"),
        ({"since": "2026-11-20T08:00:00"}, "since: write a day (2026-11-20, UTC) or a time with its offset"),
        ({"since": "2026-11-20T08:00:00+99:00"}, "since: write a day"),
        ({"day": "yesterday"}, "day: write a day, such as 2026-11-20 (UTC)"),
        ({"day": "2026-11-20T08:00:00Z"}, "day: write a day"),
        ({"day": "2026-02-30"}, "day: write a day"),
        ({"who": "ada"}, "it takes actor, action, subject, since, day, before, limit"),
    ],
)
async def test_what_is_wrong_with_a_question_is_named(house: House, filters: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError) as caught:
        await act(house, "audit.list", **filters)
    assert message in caught.value.message
