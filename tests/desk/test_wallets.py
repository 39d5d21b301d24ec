"""The operator's hand on a wallet. Every test ends in the whole audit (`desk_house`)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.book import Wallet
from gateway.errors import ClientError, HouseError, LedgerError
from gateway.house import House
from gateway.money import parse_usd as usd
from tests.desk_tools import act, audit_rows, make_ada, open_request, settle_request, void_request


def ada(house: House) -> Wallet:
    return next(house.desk.book.wallets())


async def test_a_topup_is_spendable_when_the_act_returns(house: House) -> None:
    await act(house, "users.create", name="ada")
    moved = await act(house, "wallets.topup", user="ada", amount="12.5", reference="invoice 1", note="by hand")
    assert (moved["applied"], moved["amount_usd"], moved["balance_usd"]) == (True, "12.50", "12.50")
    assert ada(house).available_nanos == usd("12.5")
    row = audit_rows(house.database)[-1]
    assert (row["action"], row["subject"]) == ("wallets.topup", "user:ada")
    assert row["after"] == {"transfer_id": 1, "amount_nanos": usd("12.5"), "reference": "invoice 1", "note": "by hand"}


async def test_a_topup_repeated_is_applied_once(house: House) -> None:
    await act(house, "users.create", name="ada")
    both = await asyncio.gather(*(act(house, "wallets.topup", user="ada", amount="5", reference="r") for _ in range(2)))
    assert sorted(moved["applied"] for moved in both) == [False, True]
    assert {moved["transfer_id"] for moved in both} == {1}
    assert ada(house).balance_nanos == usd("5")
    assert len(audit_rows(house.database)) == 2


async def test_a_reference_stands_for_one_movement(house: House) -> None:
    await make_ada(house)
    await act(house, "users.create", name="bob")
    for user, amount in (("ada", "11"), ("bob", "10")):
        with pytest.raises(LedgerError, match="reference 'opening' was used before"):
            await act(house, "wallets.topup", user=user, amount=amount, reference="opening")
    assert ada(house).balance_nanos == usd("10")


@pytest.mark.parametrize("verb", ["wallets.topup", "wallets.withdraw"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"amount": "0"}, "amount: '0' is out of range"),
        ({"amount": "-1"}, "write US dollars as plain digits"),
        ({"amount": "1e3"}, "write US dollars as plain digits"),
        ({"amount": "0.0000000001"}, "at most 9 decimals"),
        ({"amount": "1000000.01"}, "at most 1000000 USD"),
        ({"reference": ""}, "reference: write 1 to 128 printable"),
        ({"reference": "r" * 129}, "reference: write 1 to 128 printable"),
        ({"reference": "a\nb"}, "reference: write 1 to 128 printable"),
        ({"note": "a\x07"}, "note: write 1 to 500 printable"),
        ({"user": "eva"}, "there is no user eva"),
        ({"amount": 5}, "amount: Input should be a valid string"),
        ({"amount": 5.0}, "amount: Input should be a valid string"),
    ],
)
async def test_what_is_wrong_with_a_movement_is_named(
    house: House, verb: str, arguments: dict[str, object], message: str
) -> None:
    await make_ada(house)
    with pytest.raises(ClientError) as caught:
        await act(house, verb, **{"user": "ada", "amount": "1", "reference": "new", **arguments})
    assert message in caught.value.message
    assert ada(house).balance_nanos == usd("10")


async def test_what_running_requests_hold_cannot_be_withdrawn(house: House) -> None:
    key = await make_ada(house)
    request_id, live = await open_request(house, key["secret"], hold_nanos=usd("4"))
    with pytest.raises(LedgerError, match=r"only \$6.00 can be withdrawn: balance \$10.00, held by running requests \$4.00"):
        await act(house, "wallets.withdraw", user="ada", amount="6.000000001", reference="back")
    moved = await act(house, "wallets.withdraw", user="ada", amount="6", reference="back")
    assert (moved["balance_usd"], moved["available_usd"]) == ("4.00", "0.00")
    await void_request(house, request_id, live, "upstream_failed")
    assert ada(house).available_nanos == usd("4")


async def test_a_withdrawal_of_everything_can_be_repeated_safely(house: House) -> None:
    await make_ada(house)
    first = await act(house, "wallets.withdraw", user="ada", amount="10", reference="back")
    again = await act(house, "wallets.withdraw", user="ada", amount="10", reference="back")
    assert (first["applied"], again["applied"], again["transfer_id"]) == (True, False, first["transfer_id"])
    with pytest.raises(LedgerError, match="was used before"):
        await act(house, "wallets.withdraw", user="ada", amount="9", reference="back")
    assert ada(house).balance_nanos == 0
    assert [row["action"] for row in audit_rows(house.database)].count("wallets.withdraw") == 1


async def test_a_reference_is_single_among_topups_and_among_withdrawals(house: House) -> None:
    await make_ada(house)
    await act(house, "wallets.withdraw", user="ada", amount="1", reference="opening")
    with pytest.raises(LedgerError, match=r"for a top-up of ada \(\$10.00\); .* Use a reference of its own for each top-up"):
        await act(house, "wallets.topup", user="ada", amount="1", reference="opening")
    with pytest.raises(LedgerError, match=r"for a withdrawal of ada \(\$1.00\); .* reference of its own for each withdrawal"):
        await act(house, "wallets.withdraw", user="ada", amount="2", reference="opening")


async def test_a_withdrawal_can_be_planned_and_nothing_moves(house: House) -> None:
    key = await make_ada(house)
    running = await open_request(house, key["secret"], hold_nanos=usd("4"))

    async def plan(amount: str, user: str = "ada") -> Any:
        return await act(house, "wallets.plan_withdrawal", user=user, amount=amount, reference="r")

    planned = await plan("6")
    assert (planned["user"], planned["amount_usd"], planned["available_usd"]) == ("ada", "6.00", "6.00")
    with pytest.raises(LedgerError, match=r"only \$6.00 can be withdrawn; running requests hold \$4.00 beside it"):
        await plan("6.01")
    with pytest.raises(LedgerError, match="is not an amount"):
        await plan("-1")
    with pytest.raises(ClientError, match="did you mean ada"):
        await plan("1", user="adda")
    await act(house, "wallets.withdraw", user="ada", amount="6", reference="r")
    assert (await plan("6"))["applied"] is True
    with pytest.raises(LedgerError, match="was used before"):
        await plan("5")
    await void_request(house, *running, "client_left")
    assert ada(house).balance_nanos == usd("4")


async def test_two_withdrawals_of_one_reference_at_once_take_once(house: House) -> None:
    await make_ada(house)
    both = await asyncio.gather(*(act(house, "wallets.withdraw", user="ada", amount="4", reference="r") for _ in range(2)))
    assert sorted(moved["applied"] for moved in both) == [False, True]
    assert ada(house).balance_nanos == usd("6")


async def test_a_withdrawal_that_the_disk_refuses_is_given_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await make_ada(house)

    def full_disk(*arguments: object) -> None:
        raise HouseError("unavailable", "the database cannot be written")

    monkeypatch.setattr("gateway.storage.wallets.withdraw", full_disk)
    with pytest.raises(HouseError):
        await act(house, "wallets.withdraw", user="ada", amount="4", reference="r")
    assert ada(house).available_nanos == usd("10")


async def test_a_frozen_wallet_pays_for_nothing_new(house: House) -> None:
    key = await make_ada(house)
    running, live = await open_request(house, key["secret"])
    assert [(await act(house, "wallets.freeze", user="ada"))["changed"] for _ in range(2)] == [True, False]
    with pytest.raises(HouseError, match="frozen"):
        await open_request(house, key["secret"])
    await settle_request(house, running, live)
    assert (await act(house, "wallets.show", user="ada"))["frozen"] is True
    assert (await act(house, "wallets.unfreeze", user="ada"))["changed"]
    await void_request(house, *await open_request(house, key["secret"]), "client_left")


async def test_a_wallet_shows_what_is_in_it_and_its_latest_lines(house: House) -> None:
    key = await make_ada(house)
    request_id, live = await open_request(house, key["secret"])
    cost = await settle_request(house, request_id, live)
    await open_request(house, key["secret"], hold_nanos=usd("2"))
    shown = await act(house, "wallets.show", user="ada")
    balance = usd("10") - cost
    assert (shown["balance_nanos"], shown["held_usd"], shown["available_nanos"]) == (balance, "2.00", balance - usd("2"))
    assert (shown["owed_nanos"], shown["frozen"]) == (0, False)
    assert [(line["kind"], line["amount_nanos"], line["balance_after_nanos"]) for line in shown["lines"]] == [
        ("settle", -cost, balance),
        ("deposit", usd("10"), usd("10")),
    ]
    assert len((await act(house, "wallets.show", user="ada", lines=1))["lines"]) == 1
