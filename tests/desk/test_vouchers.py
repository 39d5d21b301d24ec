"""Vouchers: each puts its sum into one wallet, once, whoever tries however often at the same moment."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.desk import vouchers
from gateway.desk.gate import RARE_PACE
from gateway.errors import ClientError, LedgerError
from gateway.house import House
from gateway.money import NANOS_MAX
from gateway.passcodes import VOUCHER_DIGITS
from gateway.storage.database import FILE_NAME, open_writer
from tests.desk_tools import ACTOR, act, audit_rows, desk_house, make_ada
from tests.fakes import FakeClock
from tests.signin_tools import HERE, enter, make_person


async def make(house: House, **arguments: Any) -> list[dict[str, Any]]:
    made = await act(house, "vouchers.create", **{"amount": "5", "batch": "spring", **arguments})
    listed: list[dict[str, Any]] = made["vouchers"]
    return listed


async def test_a_batch_is_made_shown_once_and_listed(house: House, clock: FakeClock) -> None:
    made = await act(house, "vouchers.create", amount="2.50", batch="spring", count=3, expires="90d")
    assert (made["count"], made["total_usd"], made["expires_at_ms"]) == (3, "7.50", clock.at_ms() + 90 * 86_400_000)
    codes = [voucher["code"] for voucher in made["vouchers"]]
    assert len(set(codes)) == 3 and all(len(code.replace("-", "")) == VOUCHER_DIGITS for code in codes)
    first = await act(house, "vouchers.list", limit=2)
    rest = await act(house, "vouchers.list", limit=2, before=first["next_before"])
    assert [voucher["id"] for page in (first, rest) for voucher in page["vouchers"]] == [3, 2, 1]
    assert rest["next_before"] is None and {voucher["amount_usd"] for voucher in first["vouchers"]} == {"2.50"}
    assert [voucher["hint"] for voucher in rest["vouchers"]] == [codes[0][:4]]
    await make(house, batch="summer")
    assert [(batch["batch"], batch["open"]) for batch in await act(house, "vouchers.batches")] == [("summer", 1), ("spring", 3)]
    assert len((await act(house, "vouchers.list", batch="summer"))["vouchers"]) == 1
    stored = repr(audit_rows(house.database)) + "".join(
        file.read_bytes().decode("latin-1") for file in house.database.parent.glob("pagegrid.db*")
    )
    assert not any(code in stored or code.replace("-", "") in stored for code in codes)


async def test_a_voucher_goes_into_one_wallet_once(house: House) -> None:
    await make_ada(house)
    await act(house, "users.create", name="bob")
    [voucher] = await make(house)
    done = await act(house, "vouchers.redeem", user="ada", code=voucher["code"].lower())
    assert (done["amount_usd"], done["balance_usd"]) == ("5.00", "15.00")
    for user in ("ada", "bob"):
        with pytest.raises(LedgerError, match="This voucher was redeemed already; nothing was moved") as caught:
            await act(house, "vouchers.redeem", user=user, code=voucher["code"])
        assert caught.value.param == "code"
    line = (await act(house, "wallets.show", user="ada"))["lines"][0]
    assert (line["kind"], line["reference"], line["amount_usd"]) == ("promo", f"voucher:{voucher['id']}", "5.00")
    assert line["note"] == f"voucher {voucher['code'][:4]}… of spring"
    [listed] = (await act(house, "vouchers.list"))["vouchers"]
    assert (listed["redeemed_by"], listed["redeemed_at_ms"]) == ("ada", house.desk.clock.at_ms())
    last = audit_rows(house.database)[-1]
    assert (last["actor"], last["action"], last["subject"]) == (ACTOR, "vouchers.redeem", "user:ada")
    assert last["after"] == {"transfer_id": done["transfer_id"], "amount_nanos": 5 * 10**9, "voucher_id": voucher["id"]}


async def test_any_number_of_tries_at_once_move_the_money_once(house: House) -> None:
    names = [f"user{number}" for number in range(5)]
    for name in names:
        await act(house, "users.create", name=name)
    made = await make(house, count=4)
    tries = [act(house, "vouchers.redeem", user=name, code=each["code"]) for each in made for name in names * 3]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(result, dict) for result in results) == 4
    assert {result.message for result in results if isinstance(result, ClientError)} == {
        "This voucher was redeemed already; nothing was moved."
    }
    assert sum(user["balance_nanos"] for user in await act(house, "users.list")) == 20 * 10**9
    assert sum(wallet.balance_nanos for wallet in house.desk.book.wallets()) == 20 * 10**9


async def test_redeeming_and_voiding_at_once_is_one_of_them(house: House) -> None:
    await make_ada(house, "0")
    for number in range(6):
        [voucher] = await make(house, batch=f"b{number}")
        acts = [
            act(house, "vouchers.redeem", user="ada", code=voucher["code"]),
            act(house, "vouchers.void", voucher_id=voucher["id"]),
        ]
        results = await asyncio.gather(*(acts if number % 2 else reversed(acts)), return_exceptions=True)
        assert sum(isinstance(result, dict) for result in results) == 1, results


async def test_what_is_void_or_has_expired_is_told_so(house: House, clock: FakeClock) -> None:
    await make_ada(house, "0")
    one, two, three = await make(house, count=3)
    assert (await act(house, "vouchers.void", voucher_id=one["id"]))["voided"] == 1
    assert (await act(house, "vouchers.void", voucher_id=one["id"]))["voided"] == 0
    await act(house, "vouchers.redeem", user="ada", code=two["code"])
    with pytest.raises(ClientError, match="was redeemed by ada already"):
        await act(house, "vouchers.void", voucher_id=two["id"])
    assert (await act(house, "vouchers.void", batch="spring"))["voided"] == 1
    for voucher in (one, three):
        with pytest.raises(LedgerError, match="was withdrawn"):
            await act(house, "vouchers.redeem", user="ada", code=voucher["code"])
    [late] = await make(house, batch="short", expires="1h")
    clock.advance(3_600_000)
    with pytest.raises(LedgerError, match="has expired"):
        await act(house, "vouchers.redeem", user="ada", code=late["code"])
    counted = {
        batch["batch"]: (batch["open"], batch["redeemed"], batch["voided"]) for batch in await act(house, "vouchers.batches")
    }
    assert counted == {"short": (1, 0, 0), "spring": (0, 1, 2)}
    assert [row["after"] for row in audit_rows(house.database) if row["action"] == "vouchers.void"] == [{"count": 1}] * 2


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vouchers.create", {"amount": "0", "batch": "x"}, "amount: '0' is out of range"),
        ("vouchers.create", {"amount": "1e3", "batch": "x"}, "amount: '1e3' is not an amount"),
        ("vouchers.create", {"amount": "5", "batch": ""}, "batch: write 1 to 64"),
        ("vouchers.create", {"amount": "5", "batch": "spring"}, "there are vouchers of 'spring' already"),
        ("vouchers.create", {"amount": "5", "batch": "x", "count": 0}, "count: write a number from 1 to 1000"),
        ("vouchers.create", {"amount": "5", "batch": "x", "count": 1001}, "count: write a number from 1 to 1000"),
        ("vouchers.create", {"amount": "5", "batch": "x", "expires": "never"}, "expires: write a duration"),
        ("vouchers.void", {}, "name a batch or a voucher_id"),
        ("vouchers.void", {"batch": "spring", "voucher_id": 1}, "name a batch or a voucher_id"),
        ("vouchers.void", {"batch": "autumn"}, "there is no such batch"),
        ("vouchers.void", {"voucher_id": 99}, "there is no such voucher"),
        ("vouchers.void", {"voucher_id": 2**70}, "there is no such voucher"),
        ("vouchers.redeem", {"user": "ada", "code": "AAAA-AAAA-AAAA-AAAA-AAAA"}, "There is no voucher of this code"),
        ("vouchers.redeem", {"user": "ada", "code": ""}, "There is no voucher of this code"),
        ("vouchers.redeem", {"user": "adda", "code": "x"}, "did you mean ada"),
        ("vouchers.list", {"limit": 0}, "limit: write a number"),
        ("vouchers.list", {"before": 0}, "before: it is the next_before"),
    ],
)
async def test_what_is_wrong_is_named(house: House, name: str, arguments: dict[str, Any], message: str) -> None:
    await make_ada(house, "0")
    await make(house)
    with pytest.raises(ClientError) as caught:
        await act(house, name, **arguments)
    assert message in caught.value.message
    assert len((await act(house, "vouchers.list"))["vouchers"]) == 1


async def test_a_disabled_user_and_a_full_wallet_redeem_nothing(house: House) -> None:
    await make_ada(house, "0")
    [voucher] = await make(house)
    await act(house, "users.disable", user="ada")
    with pytest.raises(ClientError, match="the user ada is disabled"):
        await act(house, "vouchers.redeem", user="ada", code=voucher["code"])
    await act(house, "users.enable", user="ada")
    [wallet] = house.desk.book.wallets()
    wallet.balance_nanos += NANOS_MAX
    with pytest.raises(LedgerError, match="cannot hold that much"):
        await act(house, "vouchers.redeem", user="ada", code=voucher["code"])
    wallet.balance_nanos -= NANOS_MAX
    await act(house, "vouchers.redeem", user="ada", code=voucher["code"])


async def test_who_is_signed_in_redeems_into_their_own_wallet_and_guesses_slowly(house: House, clock: FakeClock) -> None:
    await make_person(house)
    [one, two] = await make(house, count=2)
    session = (await enter(house)).session
    done = await vouchers.redeem_own_voucher(house.desk, HERE.address, session, code=one["code"])
    assert (done["user"], done["balance_usd"]) == ("ada", "5.00")
    assert audit_rows(house.database)[-1]["actor"] == "web:ada 10.0.0.1"
    for _ in range(RARE_PACE.free):
        with pytest.raises(ClientError, match="no voucher of this code"):
            await vouchers.redeem_own_voucher(house.desk, HERE.address, session, code="AAAA")
    with pytest.raises(ClientError, match="Too many tries"):
        await vouchers.redeem_own_voucher(house.desk, HERE.address, session, code=two["code"])
    clock.advance(RARE_PACE.first_ms)
    await act(house, "users.end_sessions", user="ada")
    with pytest.raises(ClientError, match="Your session has ended"):
        await vouchers.redeem_own_voucher(house.desk, HERE.address, session, code=two["code"])


async def test_what_was_made_and_redeemed_outlives_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    async with desk_house(tmp_path / "data", clock) as house:
        await make_ada(house, "0")
        one, two = await make(house, count=2)
        await act(house, "vouchers.redeem", user="ada", code=one["code"])
    async with desk_house(tmp_path / "data", clock) as house:
        with pytest.raises(LedgerError, match="redeemed already"):
            await act(house, "vouchers.redeem", user="ada", code=one["code"])
        assert (await act(house, "vouchers.redeem", user="ada", code=two["code"]))["balance_usd"] == "10.00"


@pytest.mark.parametrize(
    "sql",
    [
        "update vouchers set redeemed_at_ms = null, redeemed_by = null where id = 1",
        "update vouchers set amount_nanos = 1 where id = 2",
        "update vouchers set hash = zeroblob(32) where id = 2",
        "update vouchers set expires_at_ms = 1 where id = 2",
        "update vouchers set redeemed_by = 1 where id = 2",
        "update vouchers set redeemed_by = 1, redeemed_at_ms = 1, voided_at_ms = 1 where id = 2",
        "delete from vouchers where id = 2",
        "insert or replace into vouchers select * from vouchers where id = 2",
        "insert into vouchers select 9, batch, zeroblob(32), hint, 0, '', 1, null, null, null, null from vouchers where id = 2",
    ],
)
async def test_the_schema_keeps_what_a_voucher_was(tmp_path: Path, clock: FakeClock, sql: str) -> None:
    async with desk_house(tmp_path / "data", clock) as house:
        await make_ada(house, "0")
        one, _ = await make(house, count=2)
        await act(house, "vouchers.redeem", user="ada", code=one["code"])
    with closing(open_writer(tmp_path / "data" / FILE_NAME)) as conn, pytest.raises(sqlite3.IntegrityError):
        conn.execute(sql)
