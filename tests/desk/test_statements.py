"""The ledger as people read it."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from gateway.errors import ClientError
from gateway.house import House
from gateway.ids import render_id
from gateway.money import parse_usd as usd
from tests.desk_tools import act, make_ada, open_request, settle_request


async def test_a_statement_adds_up_from_whichever_line_it_begins(house: House) -> None:
    key = await make_ada(house)
    for _ in range(3):
        await settle_request(house, *await open_request(house, key["secret"]))
    await act(house, "wallets.withdraw", user="ada", amount="1.000000001", reference="back")
    for limit in (1, 2, 4, 100):
        shown = await act(house, "ledger.show", user="ada", limit=limit)
        assert len(shown["lines"]) == min(limit, 5)
        balance = shown["opening_nanos"]
        for line in shown["lines"]:
            balance += line["amount_nanos"]
            assert line["balance_after_nanos"] == balance
        assert balance == shown["closing_nanos"]
    assert shown["opening_nanos"] == 0
    ids = [line["transfer_id"] for line in shown["lines"]]
    assert ids == sorted(ids)


async def test_an_empty_wallet_has_an_empty_statement(house: House) -> None:
    await act(house, "users.create", name="ada")
    shown = await act(house, "ledger.show", user="ada")
    assert (shown["opening_nanos"], shown["closing_usd"], shown["lines"]) == (0, "0.00", [])


async def test_a_clean_audit_in_the_house_is_remembered(house: House) -> None:
    await make_ada(house)
    report = await act(house, "ledger.audit")
    assert report == {"clean": True, "transfers": 1, "unknown_holds": 0, "findings": []}
    checkpoints = await house.writer.run(lambda ledger: ledger.conn.execute("select transfer_id from checkpoints").fetchall())
    assert checkpoints == [(1,)]


async def test_a_broken_invariant_is_shown_with_its_rows(house: House) -> None:
    await make_ada(house)

    def tamper(amount: int) -> None:
        with closing(sqlite3.connect(house.database)) as conn, conn:
            conn.execute("update accounts set balance_nanos = balance_nanos + ? where kind = 'wallet'", (amount,))

    tamper(usd("1"))
    report = await act(house, "ledger.audit")
    tamper(-usd("1"))
    assert not report["clean"]
    assert report["findings"][0]["rows"] == [{"sum_nanos": usd("1")}]


async def test_a_finding_names_requests_and_accounts_as_people_know_them(house: House) -> None:
    key = await make_ada(house)
    request_id, live = await open_request(house, key["secret"])
    cost = await settle_request(house, request_id, live)

    def tamper(delta: int, paid: int) -> None:
        with closing(sqlite3.connect(house.database)) as conn, conn:
            conn.execute("update accounts set balance_nanos = balance_nanos + ? where kind in ('wallet', 'revenue')", (delta,))
            (trigger,) = conn.execute("select sql from sqlite_schema where name = 'usage_no_update'").fetchone()
            conn.execute("drop trigger usage_no_update")
            conn.execute("update usage set paid_nanos = ? where request_id = ?", (paid, request_id))
            conn.execute(trigger)

    tamper(5, cost - 1)
    findings = {finding["invariant"][:2]: finding["rows"] for finding in (await act(house, "ledger.audit"))["findings"]}
    tamper(-5, cost)
    assert [row["account_name"] for row in findings["2 "]] == ["revenue", "wallet of ada"]
    assert (findings["4a"][0]["request_id"], findings["4a"][0]["request"]) == (request_id, render_id(request_id))


async def test_models_are_listed_with_their_prices(house: House) -> None:
    listed = await act(house, "models.list")
    assert [model["id"] for model in listed] == [model.id for model in house.desk.catalog]
    assert set(listed[0]["prices_usd_per_mtok"]) == {"input", "output", "cache_write_5m", "cache_write_1h", "cache_read"}


async def test_what_is_no_act_is_refused(house: House) -> None:
    for name in ("", "users", "users.drop", "__class__", "ledger.checkpoint"):
        with pytest.raises(ClientError, match="there is no act"):
            await act(house, name)
