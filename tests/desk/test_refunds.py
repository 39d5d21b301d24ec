"""Giving back what a request cost: once, to whoever paid, and never more than that. Every test ends in the whole audit."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.book import Wallet
from gateway.desk.first_start import first_start, reverse_demo_credit
from gateway.desk.usage import find_usage_of
from gateway.errors import ClientError, GatewayError, HouseError, LedgerError
from gateway.house import House
from gateway.ids import render_id
from gateway.money import format_usd
from gateway.money import parse_usd as usd
from gateway.storage import refunds
from tests.desk_tools import act, audit_rows, desk_house, make_ada, open_request, settle_request, void_request
from tests.fakes import FakeClock
from tests.ledger_tools import Ledger, assert_books_balance, open_ledger

COST = "0.000123"


def ada(house: House) -> Wallet:
    return next(house.desk.book.wallets())


async def pay(house: House, cost: str = COST) -> str:
    """ada, with 10 dollars and a request that cost so much; its id."""
    key = await make_ada(house)
    request_id, live = await open_request(house, key["secret"])
    assert await settle_request(house, request_id, live, limit_nanos=usd(cost)) == usd(cost)
    return render_id(request_id)


async def refund(house: House, request: str, amount: str | None = None, number: int | None = None, **more: Any) -> Any:
    return await act(house, "wallets.refund", request_id=request, amount=amount, number=number, **more)


async def test_all_that_a_request_cost_is_given_back_once(house: House) -> None:
    request = await pay(house)
    made = await refund(house, request, note="the answer was cut off")
    assert made == {
        "request_id": request,
        "user": "ada",
        "wallet_id": ada(house).id,
        "number": 1,
        "transfer_id": 3,
        "applied": True,
        "reference": f"{request}:1",
        "amount_nanos": usd(COST),
        "amount_usd": COST,
        "paid_nanos": usd(COST),
        "paid_usd": COST,
        "refunded_nanos": usd(COST),
        "refunded_usd": COST,
        "balance_nanos": usd("10"),
        "balance_usd": "10.00",
        "available_nanos": usd("10"),
        "available_usd": "10.00",
    }
    again = await refund(house, request.lower())
    assert (again["applied"], again["transfer_id"], again["balance_usd"]) == (False, 3, "10.00")
    assert ada(house).available_nanos == usd("10")
    (row,) = [row for row in audit_rows(house.database) if row["action"] == "wallets.refund"]
    assert (row["subject"], row["after"]["request"], row["after"]["note"]) == ("user:ada", request, "the answer was cut off")
    line = (await act(house, "wallets.show", user="ada"))["lines"][0]
    assert (line["kind"], line["amount_usd"], line["reference"], line["note"]) == (
        "refund",
        COST,
        f"{request}:1",
        "the answer was cut off",
    )
    statement = await act(house, "ledger.show", user="ada")
    assert statement["closing_usd"] == "10.00" and [line["kind"] for line in statement["lines"]] == [
        "deposit",
        "settle",
        "refund",
    ]


async def test_parts_are_numbered_and_the_rest_follows(house: House) -> None:
    request = await pay(house)
    assert (await refund(house, request, "0.00002"))["number"] == 1
    assert (await refund(house, request, "0.00002"))["applied"] is False
    assert (await refund(house, request, "0.00002", 1))["applied"] is False
    with pytest.raises(LedgerError, match=r"refund 1 of this request was \$0.00002; .* a number of its own: 2 is free"):
        await refund(house, request, "0.00003")
    assert (await refund(house, request, "0.00002", 2))["refunded_usd"] == "0.00004"
    with pytest.raises(LedgerError, match=r"only \$0.000083 can be refunded: the wallet paid \$0.000123 .* \$0.00004 was"):
        await refund(house, request, "0.000083001", 3)
    rest = await refund(house, request)
    assert (rest["number"], rest["amount_usd"], rest["refunded_usd"]) == (3, "0.000083", COST)
    again = await refund(house, request)
    assert (again["applied"], again["number"], again["refunded_usd"]) == (False, 3, COST)
    for number in (1, 4):
        with pytest.raises(LedgerError, match=r"nothing is left to refund: all of the \$0.000123 that the wallet paid"):
            await refund(house, request, "0.000000001", number)
    assert (await refund(house, request, "0.00002", 1))["applied"] is False
    assert ada(house).available_nanos == usd("10")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"request_id": "req_0000000000000"}, "there is no request of this id"),
        ({"request_id": "msg_upstream"}, "there is no request of this id"),
        ({"request_id": ""}, "`pagegrid usage get ID` shows it"),
        ({"amount": "0"}, "amount: '0' is out of range"),
        ({"amount": "-1"}, "write US dollars as plain digits"),
        ({"amount": "0.000123001"}, "only $0.000123 can be refunded"),
        ({"amount": 1}, "amount: Input should be a valid string"),
        ({"number": 2}, "number: it goes with an amount"),
        ({"amount": "0.0001", "number": 0}, "number: write a number from 1 to 1000"),
        ({"amount": "0.0001", "number": 10**30}, "number: write a number from 1 to 1000"),
        ({"note": "a\x07"}, "note: write 1 to 500 printable"),
    ],
)
async def test_what_is_wrong_with_a_refund_is_named(house: House, arguments: dict[str, Any], message: str) -> None:
    request = await pay(house)
    with pytest.raises(ClientError) as caught:
        await act(house, "wallets.refund", **{"request_id": request, **arguments})
    assert message in caught.value.message
    assert ada(house).balance_nanos == usd("10") - usd(COST)


async def test_what_was_not_paid_is_not_refunded(house: House) -> None:
    key = await make_ada(house)
    running = await open_request(house, key["secret"])
    with pytest.raises(ClientError, match="still running"):
        await refund(house, render_id(running[0]))
    await void_request(house, *running, "upstream_failed")
    with pytest.raises(ClientError, match=r"cost nothing \(upstream_failed\)"):
        await refund(house, render_id(running[0]))
    free = await open_request(house, key["secret"])
    await settle_request(house, *free, limit_nanos=0)
    with pytest.raises(ClientError, match="the wallet paid nothing"):
        await refund(house, render_id(free[0]))


async def test_refunds_at_once_are_never_more_than_was_paid(house: House) -> None:
    request = await pay(house)
    asked = [refund(house, request, "0.00005", number) for number in range(1, 9)] + [refund(house, request) for _ in range(4)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(result, dict | LedgerError) for result in results), results
    made = [result for result in results if isinstance(result, dict) and result["applied"]]
    assert sum(result["amount_nanos"] for result in made) == usd(COST)
    assert ada(house).balance_nanos == usd("10")


async def test_a_refund_that_the_disk_refuses_changes_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    request = await pay(house)

    def full_disk(*arguments: object) -> None:
        raise HouseError("unavailable", "the database cannot be written")

    monkeypatch.setattr("gateway.storage.refunds.post_refund", full_disk)
    with pytest.raises(HouseError):
        await refund(house, request)
    assert ada(house).balance_nanos == usd("10") - usd(COST)


async def test_a_wallet_that_would_be_too_full_is_refused(house: House) -> None:
    request = await pay(house)
    book, wallet = house.desk.book, ada(house)
    balance = wallet.balance_nanos
    wallet.balance_nanos = 2**62
    with pytest.raises(LedgerError, match="cannot hold that much"):
        await refund(house, request)
    book.wallet(wallet.id).balance_nanos = balance


async def test_usage_tells_what_was_refunded(house: House) -> None:
    request = await pay(house)
    user_id = (await act(house, "users.show", user="ada"))["id"]
    await refund(house, request, "0.00002")
    shown = await find_usage_of(house.reader, request, user_id)
    assert shown is not None and (shown["refunded_nanos"], shown["cost_nanos"]) == (usd("0.00002"), usd(COST))
    operators = await act(house, "usage.get", request_id=request)
    assert (operators["refunded_usd"], operators["paid_usd"]) == ("0.00002", COST)


async def test_demo_credit_that_was_refunded_is_demo_credit_again(tmp_path: Path, clock: FakeClock) -> None:
    async with desk_house(tmp_path, clock) as house:
        made = await first_start(house.desk, usd("10"))
        assert made is not None
        running = await open_request(house, made.secret)
        await settle_request(house, *running, limit_nanos=usd(COST))
        await act(house, "wallets.topup", user="admin", amount="3", reference="r")
        await refund(house, render_id(running[0]))
        assert await reverse_demo_credit(house.desk) == usd("10")
        assert ada(house).balance_nanos == usd("3")


async def test_of_an_overrun_what_was_collected_can_be_refunded_and_no_more(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice, bob = await ledger.make_wallet("alice", usd("3")), await ledger.make_wallet("bob", usd("1"))
        await ledger.settle(theirs := ledger.admit(bob, usd("1")), usd("5"))
        dear, other, third = (ledger.admit(alice, usd("1")) for _ in range(3))
        await ledger.settle(dear, usd("1.75"))
        assert paid(ledger, dear.id) == usd("1")
        await ledger.settle(other, usd("0.60"))
        assert (paid(ledger, dear.id), paid(ledger, other.id)) == (usd("1.40"), usd("0.60"))
        await ledger.void(third)
        assert (paid(ledger, dear.id), paid(ledger, third.id), paid(ledger, theirs.id)) == (usd("1.75"), 0, usd("1"))
        await ledger.refund(dear.id, usd("1.75"))
        await ledger.refund(theirs.id, usd("1"))
        assert_books_balance(ledger.path, ledger.book)


async def test_an_older_request_that_runs_over_later_takes_nothing_from_one_that_was_refunded(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("4"))
        older, newer, third, fourth = (ledger.admit(alice, usd("1")) for _ in range(4))
        await ledger.settle(newer, usd("1.5"))
        await ledger.void(third)  # collects 0.50
        await ledger.refund(newer.id, usd("1.5"))
        await ledger.withdraw(alice, usd("2"), "all that is free")
        await ledger.settle(older, usd("1.75"))
        assert (paid(ledger, newer.id), paid(ledger, older.id)) == (usd("1.5"), usd("1"))
        assert_books_balance(ledger.path, ledger.book, open_holds=1)
        await ledger.void(fourth)
        assert (paid(ledger, newer.id), paid(ledger, older.id)) == (usd("1.5"), usd("1.75"))
        assert_books_balance(ledger.path, ledger.book)


def paid(ledger: Ledger, request_id: int) -> int:
    return refunds.paid_nanos(ledger.conn, request_id)


Asked = tuple[int | None, int | None]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cost=st.integers(0, 40),
    asked=st.lists(st.tuples(st.none() | st.integers(1, 45), st.none() | st.integers(1, 4)), max_size=8),
    at_once=st.booleans(),
)
def test_whatever_is_asked_the_refunds_are_never_more_than_was_paid(cost: int, asked: list[Asked], at_once: bool) -> None:
    async def ask() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with desk_house(Path(folder), FakeClock()) as house:
                request = await pay(house, format_usd(cost))
                asking = [refund(house, request, amount and format_usd(amount), number) for amount, number in asked]
                results: list[Any] = []
                if at_once:
                    results = await asyncio.gather(*asking, return_exceptions=True)
                else:
                    for each in asking:
                        results += await asyncio.gather(each, return_exceptions=True)
                assert all(isinstance(result, dict | GatewayError) for result in results), results
                made = {result["number"]: result for result in results if isinstance(result, dict) and result["applied"]}
                given_back = sum(result["amount_nanos"] for result in made.values())
                assert len(made) == len([result for result in results if isinstance(result, dict) and result["applied"]])
                assert given_back <= cost
                assert ada(house).balance_nanos == usd("10") - cost + given_back
                if any(amount is None and number is None for amount, number in asked):
                    assert given_back == cost
                # All of it again: nothing more happens.
                for amount, number in asked:
                    try:
                        await refund(house, request, amount and format_usd(amount), number)
                    except GatewayError:
                        pass
                if any(amount is None and number is None for amount, number in asked):
                    assert ada(house).balance_nanos == usd("10")

    asyncio.run(ask())
