"""Statements of account: what happens to a wallet's money, told as a bank would, each ending in the whole audit."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.book import BalanceHeld, BalanceTooLow
from gateway.errors import HouseError, LedgerError
from gateway.money import NANOS_MAX
from gateway.storage import wallets
from gateway.storage.database import open_reader
from gateway.storage.ledger import EXTERNAL, LOSS, PROMO, REVENUE
from tests.fakes import FakeClock
from tests.ledger_tools import assert_books_balance, open_ledger, read_wallets, usd


def balances(path: Path) -> dict[int, int]:
    with closing(open_reader(path)) as conn:
        return dict(conn.execute("select id, balance_nanos from accounts"))


def lines(path: Path, wallet_id: int) -> list[tuple[str, int, int]]:
    """(kind, amount, balance after) of a wallet's statement, oldest first."""
    with closing(open_reader(path)) as conn:
        rows = wallets.statement(conn, wallet_id, 1000)
    return [(row["kind"], row["amount_nanos"], row["balance_after_nanos"]) for row in reversed(rows)]


def rows_of(path: Path, sql: str, *parameters: int) -> list[tuple[object, ...]]:
    with closing(open_reader(path)) as conn:
        return conn.execute(sql, parameters).fetchall()


async def test_a_deposit_is_spent_by_requests_and_the_rest_withdrawn(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice")
        await ledger.deposit(alice, usd("10"), "invoice 1")
        first = ledger.admit(alice, usd("0.40"))
        second = ledger.admit(alice, usd("1"), usd("2"))
        assert second.amount_nanos == usd("2")
        assert ledger.raise_to(first, usd("0.60")) == usd("0.20")
        assert ledger.lower_to(second, usd("0.50")) == -usd("1.50")
        wallet = ledger.book.wallet(alice)
        assert (wallet.balance_nanos, wallet.held_nanos, wallet.available_nanos) == (usd("10"), usd("1.10"), usd("8.90"))
        await ledger.drained()
        assert_books_balance(ledger.path, ledger.book, open_holds=2)
        await ledger.settle(first, usd("0.123456789"))
        await ledger.void(second)
        await ledger.withdraw(alice, usd("9.876543211"), "paid back")
        assert_books_balance(ledger.path, ledger.book)
    assert lines(ledger.path, alice) == [
        ("deposit", usd("10"), usd("10")),
        ("settle", -usd("0.123456789"), usd("9.876543211")),
        ("withdraw", -usd("9.876543211"), 0),
    ]
    assert balances(ledger.path) == {EXTERNAL: -usd("0.123456789"), PROMO: 0, REVENUE: usd("0.123456789"), LOSS: 0, alice: 0}


async def test_an_overrun_is_owed_and_collected_from_the_wallets_own_holds(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("3"))
        dear, other, third = (ledger.admit(alice, usd("1")) for _ in range(3))
        await ledger.settle(dear, usd("1.75"))
        wallet = ledger.book.wallet(alice)
        assert (wallet.balance_nanos, wallet.held_nanos, wallet.owed_nanos) == (usd("2"), usd("2"), usd("0.75"))
        await ledger.settle(other, usd("0.60"))
        assert (wallet.balance_nanos, wallet.owed_nanos) == (usd("1"), usd("0.35"))
        await ledger.void(third)
        assert (wallet.balance_nanos, wallet.held_nanos, wallet.owed_nanos) == (usd("0.65"), 0, 0)
        assert_books_balance(ledger.path, ledger.book)
    assert lines(ledger.path, alice)[1:] == [
        ("settle", -usd("1"), usd("2")),
        ("settle", -usd("0.60"), usd("1.40")),
        ("overrun_collected", -usd("0.40"), usd("1")),
        ("overrun_collected", -usd("0.35"), usd("0.65")),
    ]
    assert balances(ledger.path)[LOSS] == 0
    assert balances(ledger.path)[REVENUE] == usd("2.35")


async def test_what_is_owed_is_never_taken_from_a_later_deposit(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("1"))
        await ledger.settle(ledger.admit(alice, usd("1")), usd("5"))
        await ledger.deposit(alice, usd("2"), "invoice 2")
        assert read_wallets(ledger.conn)[alice] == (usd("2"), 0, usd("4"), False)
        await ledger.settle(ledger.admit(alice, usd("0.5")), usd("0.1"))
        assert read_wallets(ledger.conn)[alice] == (usd("1.9"), 0, usd("4"), False)
        assert_books_balance(ledger.path, ledger.book)


async def test_a_settle_may_take_what_is_free_beyond_its_hold_but_nothing_that_others_hold(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        other = ledger.admit(alice, usd("4"))
        await ledger.settle(ledger.admit(alice, usd("1")), usd("7"))
        assert read_wallets(ledger.conn)[alice] == (usd("4"), usd("4"), usd("1"), False)
        await ledger.settle(other, usd("3"))
        assert read_wallets(ledger.conn)[alice] == (0, 0, 0, False)
        assert_books_balance(ledger.path, ledger.book)


async def test_a_request_that_cost_nothing_has_a_usage_row_and_no_transfer(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("1"))
        free = ledger.admit(alice, 0)
        await ledger.settle(free, 0)
        assert_books_balance(ledger.path, ledger.book)
    assert lines(ledger.path, alice) == [("deposit", usd("1"), usd("1"))]
    assert rows_of(ledger.path, "select cost_nanos, paid_nanos from usage where request_id = ?", free.id) == [(0, 0)]


async def test_promo_credit_is_given_spent_and_the_rest_reversed(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        demo = await ledger.make_wallet("demo")
        await ledger.grant_promo(demo, usd("1"), "demo credit")
        await ledger.settle(ledger.admit(demo, usd("0.3")), usd("0.25"))
        await ledger.reverse_promo(demo, usd("0.75"), "demo credit")
        assert_books_balance(ledger.path, ledger.book)
    assert lines(ledger.path, demo) == [
        ("promo", usd("1"), usd("1")),
        ("settle", -usd("0.25"), usd("0.75")),
        ("promo_reversed", -usd("0.75"), 0),
    ]
    assert balances(ledger.path)[PROMO] == -usd("0.25")


# ── references ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_same_reference_twice_is_applied_once_and_says_so(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice")
        first = await ledger.deposit(alice, usd("5"), "invoice 1")
        again = await ledger.deposit(alice, usd("5"), "invoice 1")
        assert (first.applied, again.applied, again.transfer_id) == (True, False, first.transfer_id)
        out = await ledger.withdraw(alice, usd("2"), "invoice 1")  # another kind of movement counts for itself
        assert out.applied and not (await ledger.withdraw(alice, usd("2"), "invoice 1")).applied
        assert read_wallets(ledger.conn)[alice][0] == usd("3")
        assert_books_balance(ledger.path, ledger.book)


async def test_a_reference_that_stands_for_something_else_is_refused_and_moves_nothing(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice, bob = await ledger.make_wallet("alice", usd("9")), await ledger.make_wallet("bob", usd("9"))
        await ledger.deposit(alice, usd("5"), "invoice 1")
        await ledger.withdraw(alice, usd("1"), "cash 1")
        for wallet, amount in ((alice, usd("5.01")), (bob, usd("5"))):
            with pytest.raises(LedgerError, match="was used before"):
                await ledger.deposit(wallet, amount, "invoice 1")
        for wallet, amount in ((alice, usd("2")), (bob, usd("1"))):
            with pytest.raises(LedgerError, match="was used before"):
                await ledger.withdraw(wallet, amount, "cash 1")
        assert read_wallets(ledger.conn) == {alice: (usd("13"), 0, 0, False), bob: (usd("9"), 0, 0, False)}
        assert_books_balance(ledger.path, ledger.book)


async def test_a_voucher_redeemed_by_many_at_once_is_applied_once(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice")
        movements = await asyncio.gather(*(ledger.grant_promo(alice, usd("5"), "voucher 7") for _ in range(50)))
        assert sum(movement.applied for movement in movements) == 1
        assert read_wallets(ledger.conn)[alice][0] == usd("5")
        assert_books_balance(ledger.path, ledger.book)


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_only_what_is_available_can_be_withdrawn(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("5"))
        hold = ledger.admit(alice, usd("2"))
        with pytest.raises(LedgerError, match=r"only \$3\.00 can be withdrawn"):
            await ledger.withdraw(alice, usd("3.000000001"), "cash")
        await ledger.withdraw(alice, usd("3"), "cash")
        with pytest.raises(BalanceHeld):
            ledger.admit(alice, 1)
        await ledger.void(hold)
        assert_books_balance(ledger.path, ledger.book)


async def test_many_withdrawals_at_once_never_take_more_than_there_is(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        results = await asyncio.gather(
            *(ledger.withdraw(alice, usd("3"), f"cash {n}") for n in range(20)), return_exceptions=True
        )
        assert sum(isinstance(result, wallets.Movement) for result in results) == 3
        assert read_wallets(ledger.conn)[alice][0] == usd("1")
        assert_books_balance(ledger.path, ledger.book)


async def test_fifty_requests_at_once_spend_the_balance_once(tmp_path: Path, clock: FakeClock) -> None:
    """Check-then-deduct: 50 concurrent calls spent five times the balance elsewhere."""
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        served: list[int] = []

        async def call() -> None:
            hold, row = ledger.decide_hold(alice, usd("1"))
            await ledger.writer.submit_acknowledged(row)
            served.append(hold.id)
            await asyncio.sleep(0)
            await ledger.settle(hold, usd("1"))

        results = await asyncio.gather(*(call() for _ in range(50)), return_exceptions=True)
        assert len(served) == 10
        assert sum(isinstance(result, BalanceHeld | BalanceTooLow) for result in results) == 40
        assert read_wallets(ledger.conn)[alice] == (0, 0, 0, False)
        assert_books_balance(ledger.path, ledger.book)


async def test_no_account_passes_its_bound(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice, bob = await ledger.make_wallet("alice"), await ledger.make_wallet("bob")
        await ledger.deposit(alice, NANOS_MAX, "all there is")
        with pytest.raises(LedgerError, match="cannot hold that much"):
            await ledger.deposit(alice, 1, "one more")
        with pytest.raises(sqlite3.IntegrityError):  # not the wallet but external:manual is at its bound
            await ledger.deposit(bob, 1, "one for bob")
        assert_books_balance(ledger.path, ledger.book)


async def test_a_frozen_wallet_admits_nothing_but_settles_what_runs(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("5"))
        hold = ledger.admit(alice, usd("1"))
        await ledger.writer.run(lambda writer: wallets.set_frozen(writer.conn, alice, True))
        ledger.book.freeze(alice)
        with pytest.raises(HouseError):
            ledger.admit(alice, 1)
        assert ledger.raise_to(hold, usd("2")) == 0
        await ledger.settle(hold, usd("1.5"))
        assert_books_balance(ledger.path, ledger.book)
    async with open_ledger(tmp_path, clock) as ledger:
        assert ledger.book.wallet(alice).frozen


# ── how others lost money ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_client_that_stops_waiting_still_pays(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("5"))
        hold = ledger.admit(alice, usd("1"))
        async with ledger.writer_held_back():
            ledger.settle(hold, usd("0.5"), "estimated").cancel()
        await ledger.drained()
        assert read_wallets(ledger.conn)[alice] == (usd("4.5"), 0, 0, False)
        assert_books_balance(ledger.path, ledger.book)


async def test_retries_that_the_provider_billed_are_on_record_with_their_cost(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("5"))
        hold = ledger.admit(alice, usd("1"))
        await ledger.settle(hold, usd("0.5"))
        assert_books_balance(ledger.path, ledger.book)
    sql = "select number, upstream, reason, cost_nanos from attempts where request_id = ?"
    assert rows_of(ledger.path, sql, hold.id) == [(1, "first", "status_529", 0), (2, "second", "ok", usd("0.5"))]


async def test_a_hold_that_an_exception_left_behind_is_named_by_the_audit_and_freed_at_the_next_start(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("5"))
        leaked = ledger.admit(alice, usd("5"))
    async with open_ledger(tmp_path, clock) as ledger:
        assert ledger.recovered.unknown == (leaked.id,)
        assert ledger.book.wallet(alice).available_nanos == usd("5")
        assert_books_balance(ledger.path, ledger.book)


async def test_numbers_go_on_where_they_stopped_after_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    """Counters that restart with the process; here with a clock that was set back a day meanwhile."""
    request_ids: list[int] = []
    for start in range(3):
        async with open_ledger(tmp_path, clock) as ledger:
            alice = 5 if start else await ledger.make_wallet("alice", usd("5"))
            hold = ledger.admit(alice, usd("1"))
            await ledger.settle(hold, usd("0.5"))
            request_ids.append(hold.id)
            assert ledger.boot_id == start + 1
            assert_books_balance(ledger.path, ledger.book)
        clock.wall_ms -= 86_400_000
    assert request_ids == sorted(set(request_ids))
    assert [row[0] for row in rows_of(ledger.path, "select id from transfers order by id")] == [1, 2, 3, 4]


async def test_every_served_request_has_its_usage_row_with_the_price_that_applied(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("5"))
        holds = [ledger.admit(alice, usd("0.1")) for _ in range(20)]
        for hold in holds:
            ledger.settle(hold, usd("0.07"))
        await ledger.drained()
        assert_books_balance(ledger.path, ledger.book)
    assert rows_of(ledger.path, "select count(*), count(distinct price_id), sum(cost_nanos) from usage") == [
        (20, 1, 20 * usd("0.07"))
    ]


async def test_a_statement_shows_the_balance_after_each_line(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice, bob = await ledger.make_wallet("alice", usd("5")), await ledger.make_wallet("bob", usd("7"))
        await ledger.deposit(alice, usd("1"), "more")
        await ledger.settle(ledger.admit(bob, usd("1")), usd("1"))
        assert lines(ledger.path, alice) == [("deposit", usd("5"), usd("5")), ("deposit", usd("1"), usd("6"))]
        assert lines(ledger.path, bob) == [("deposit", usd("7"), usd("7")), ("settle", -usd("1"), usd("6"))]
        newest = wallets.statement(ledger.conn, alice, 1)
        assert [(row["reference"], row["balance_after_nanos"]) for row in newest] == [("more", usd("6"))]
        assert_books_balance(ledger.path, ledger.book)
