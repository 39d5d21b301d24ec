"""`pagegrid usage report`: everybody's usage and what is earned by it, as a table, JSON or CSV."""

from __future__ import annotations

import asyncio
import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.house import House
from gateway.money import parse_usd
from gateway.storage.recovery import highest_request_id
from tests.cli.tools import Shell, make_shell
from tests.desk_tools import DETAIL, act, desk_house, make_ada, open_request, settle_request
from tests.fakes import FakeClock

SPAN = ("--start", "2026-05-01", "--end", "2026-05-31")


async def use(house: House) -> int:
    """Two requests of ada and one of bob, each of another session; returns what all cost."""
    ada = await make_ada(house)
    await act(house, "users.create", name="bob")
    await act(house, "wallets.topup", user="bob", amount="1", reference="b")
    bob = await act(house, "keys.create", user="bob", name="bob's laptop")
    cost = 0
    for secret, session in ((ada["secret"], "s1"), (ada["secret"], "\x1b[2Jcls"), (bob["secret"], "=1+1")):
        detail = replace(DETAIL, session=session, agent="a1")
        cost += await settle_request(house, *await open_request(house, secret, hold_nanos=10**8), detail=detail)
        await house.writer.run(lambda ledger: ledger.roll_up(highest_request_id(ledger.conn)))
    return cost


async def test_a_report_of_everybody(tmp_path: Path, clock: FakeClock) -> None:
    shell = make_shell(tmp_path)
    async with desk_house(shell.data, clock) as house:
        cost = await use(house)
    await asyncio.to_thread(look, shell, cost)


def look(shell: Shell, cost: int) -> None:
    found = shell.json("usage", "report", *SPAN)
    assert (found["group_by"], found["start"], found["end"]) == (["day"], "2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z")
    total = found["total"]
    assert (total["requests"], total["cost_nanos"], total["paid_nanos"], total["upstream_nanos"]) == (3, cost, cost, cost)
    assert (total["margin_nanos"], total["margin_usd"], total["upstream_unknown_requests"]) == (0, "0.00", 0)
    assert parse_usd(total["cost_usd"]) == cost and found["data"][0]["day"] == "2026-05-28"
    by_user = shell.json("usage", "report", *SPAN, "--by", "user,key")
    assert [(row["user"], row["key_name"], row["requests"]) for row in by_user["data"]] == [
        ("ada", "default", 2),
        ("bob", "bob's laptop", 1),
    ]
    assert shell.json("usage", "report", *SPAN, "--user", "bob")["total"]["requests"] == 1
    assert shell.json("usage", "report", *SPAN, "--key", "1", "--by", "day", "--by", "model")["total"]["requests"] == 2
    shown = shell.ok("usage", "report", *SPAN, "--by", "session", "--by", "agent")
    assert "SESSION" in shown and "MARGIN" in shown and "'\\x1b[2Jcls'" in shown and "\x1b" not in shown
    assert [line.split()[0] for line in shown.splitlines()[2:]] == ["=1+1", "'\\x1b[2Jcls'", "s1", "total"]
    first = shell.run("usage", "report", *SPAN, "--by", "session", "--limit", "1", "--csv")
    assert [row["session"] for row in csv.DictReader(io.StringIO(first.stdout))] == ["'=1+1"]
    assert "There is more: add --cursor " in first.stderr
    cursor = first.stderr.split("--cursor ")[1].strip()
    rest = shell.json("usage", "report", *SPAN, "--by", "session", "--cursor", cursor)
    assert [row["session"] for row in rest["data"]] == ["\x1b[2Jcls", "s1"] and not rest["has_more"]
    empty = shell.run("usage", "report", "--start", "2020-01-01", "--end", "2020-01-31")
    assert empty.exit_code == 0 and "Nothing was used." in empty.stderr
    assert "start: write a day" in shell.refused("usage", "report", "--start", "yesterday")
    assert "by: write one or more of day, model, key, user," in shell.refused("usage", "report", "--by", "week")
    assert "there is no user" in shell.refused("usage", "report", "--user", "nobody")


async def test_the_margin_is_what_was_paid_less_what_the_upstream_is_known_to_cost(house: House, clock: FakeClock) -> None:
    """What a crash settled, or what was pruned before it was rolled up, has no attempts."""
    ada = await make_ada(house)
    await settle_request(house, *await open_request(house, ada["secret"], hold_nanos=10**8))
    await house.writer.run(lambda ledger: ledger.conn.execute("update attempts set cost_nanos = 1000"))
    found = await act(house, "usage.report", start="2026-05-01", end="2026-05-31")
    cost = found["total"]["cost_nanos"]
    assert (found["total"]["upstream_nanos"], found["total"]["margin_nanos"]) == (2000, cost - 2000)
    await house.writer.run(lambda ledger: ledger.conn.execute("delete from attempts"))
    found = await act(house, "usage.report", start="2026-05-01", end="2026-05-31")
    assert (found["total"]["upstream_unknown_requests"], found["total"]["upstream_nanos"]) == (1, 0)


@pytest.fixture
async def house(tmp_path: Path, clock: FakeClock):  # type: ignore[no-untyped-def]
    async with desk_house(tmp_path / "data", clock) as house:
        yield house
