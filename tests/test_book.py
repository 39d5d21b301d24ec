"""The book alone: pure decisions, no database. Whoever is refused is refused for the right reason and told so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.book import DRY_MS, BalanceHeld, BalanceTooLow, Book, RanDry, Wallet
from gateway.errors import HouseError, LedgerError
from gateway.money import NANOS_MAX
from gateway.money import parse_usd as usd


def book_with(balance: int, *, owed: int = 0, released: list[int] | None = None) -> tuple[Book, Wallet]:
    book = Book() if released is None else Book(released.append)
    wallet = Wallet(7, balance, owed_nanos=owed)
    book.open_wallet(wallet)
    return book, wallet


def test_a_hold_takes_what_is_wanted_or_all_there_is_but_never_less_than_needed() -> None:
    book, wallet = book_with(100)
    assert book.admit(1, 7, 30, 40).amount_nanos == 40
    assert book.admit(2, 7, 30, 1_000).amount_nanos == 60
    assert (wallet.available_nanos, wallet.held_nanos) == (0, 100)
    assert book.admit(3, 7, 0, 5).amount_nanos == 0
    assert [hold.id for hold in book.open_holds()] == [1, 2, 3]


def test_too_little_money_is_402_and_money_that_others_hold_is_429() -> None:
    book, _ = book_with(usd("1"))
    with pytest.raises(BalanceTooLow) as low:
        book.admit(1, 7, usd("1.000000001"), usd("2"))
    assert (low.value.status, low.value.should_retry) == (402, False)
    book.admit(1, 7, usd("0.60004"), usd("0.60004"))
    with pytest.raises(BalanceHeld) as held:
        book.admit(2, 7, usd("0.39997"), usd("0.5"))
    assert (held.value.status, held.value.retry_after_s) == (429, 5)
    # What is needed is rounded up and what is there down: the sentence stays true.
    assert "needed up to $0.40, available $0.3999 (balance $1.00, held by running requests $0.60)" in held.value.message
    assert "needed up to $1.0001, available $1.00" in low.value.message


def test_a_hold_is_raised_as_far_as_there_is_money_and_lowered_as_told() -> None:
    released: list[int] = []
    book, wallet = book_with(100, released=released)
    hold = book.admit(1, 7, 10, 10)
    other = book.admit(2, 7, 50, 50)
    assert book.raise_to(hold, 30) == 20
    assert book.raise_to(hold, 30) == book.raise_to(hold, 5) == book.lower_to(hold, 40) == 0
    assert book.raise_to(hold, 1_000) == 20
    assert (hold.changes, hold.amount_nanos, wallet.available_nanos, released) == (2, 50, 0, [])
    assert book.lower_to(other, 0) == -50
    assert (other.changes, wallet.held_nanos, released) == (1, 50, [7])


@pytest.mark.parametrize(
    ("balance", "others", "held", "owed", "cost", "pay", "overrun", "collected"),
    [
        (100, 0, 50, 0, 0, 0, 0, 0),
        (100, 0, 50, 0, 30, 30, 0, 0),
        (100, 0, 50, 0, 50, 50, 0, 0),
        (100, 0, 50, 0, 80, 80, 0, 0),  # what is free pays beyond the hold
        (100, 0, 50, 0, 101, 100, 1, 0),
        (100, 50, 50, 0, 80, 50, 30, 0),  # what others hold does not
        (100, 0, 50, 10, 30, 30, 0, 0),  # what was owed before this hold is not its to pay
        (100, 0, 50, 30, 50, 50, 0, 0),
        (100, 0, 50, 30, 70, 70, 0, 0),
        (100, 50, 50, 5, 60, 50, 10, 0),
        (0, 0, 0, 0, 9, 0, 9, 0),
    ],
)
def test_a_settle_pays_from_what_is_free(
    balance: int, others: int, held: int, owed: int, cost: int, pay: int, overrun: int, collected: int
) -> None:
    book, wallet = book_with(balance, owed=owed)
    book.admit(1, 7, others, others)
    done = book.settle(book.admit(2, 7, held, held), cost)
    assert (done.pay_nanos, done.overrun_nanos, done.collected_nanos, done.released_nanos) == (pay, overrun, collected, held)
    assert (wallet.balance_nanos, wallet.held_nanos) == (balance - pay - collected, others)
    assert wallet.owed_nanos == owed + overrun - collected


def test_a_hold_resolves_once() -> None:
    book, _ = book_with(100)
    hold = book.admit(1, 7, 10, 10)
    book.settle(hold, 5)
    for again in (lambda: book.settle(hold, 5), lambda: book.void(hold), lambda: book.disown(hold)):
        with pytest.raises(AssertionError):
            again()
    with pytest.raises(AssertionError):
        book.raise_to(hold, 50)


def test_an_overrun_is_collected_from_the_holds_of_its_time_and_from_nothing_later() -> None:
    book, wallet = book_with(100)
    first, second, runaway = book.admit(1, 7, 20, 20), book.admit(2, 7, 30, 30), book.admit(3, 7, 50, 50)
    assert book.settle(runaway, 95).overrun_nanos == 45
    book.deposit(7, 1_000)
    later = book.admit(4, 7, 500, 500)
    book.raise_to(second, 200)
    assert book.void(later).collected_nanos == 0
    done = book.void(first)
    assert (done.settled, done.pay_nanos, done.collected_nanos) == (False, 0, 20)
    # Of the second hold only the 30 that it had then may be taken, whatever it was raised to since.
    assert book.settle(second, 10).collected_nanos == 25
    assert (wallet.owed_nanos, wallet.balance_nanos) == (0, 1_000 - 10 + 5)


def test_a_hold_that_the_database_refused_leaves_no_trace_in_the_book() -> None:
    """No row could carry the collection of a hold that never was: the book would differ from the database."""
    released: list[int] = []
    book, wallet = book_with(100, owed=30, released=released)
    book.disown(book.admit(1, 7, 20, 20))
    assert (wallet.balance_nanos, wallet.held_nanos, wallet.owed_nanos, released) == (100, 0, 30, [7])
    assert not list(book.open_holds())


def test_everything_that_frees_money_wakes_who_waits_for_it() -> None:
    released: list[int] = []
    book, _ = book_with(100, released=released)
    first, second, third = (book.admit(number, 7, 10, 10) for number in range(3))
    book.lower_to(first, 5)
    book.settle(first, 5)
    book.void(second)
    book.deposit(7, 1)
    book.raise_to(third, 20)
    assert released == [7] * 4


def test_a_frozen_wallet_admits_and_raises_nothing_and_may_still_end_what_runs() -> None:
    book, wallet = book_with(100)
    hold = book.admit(1, 7, 10, 10)
    book.freeze(7)
    with pytest.raises(HouseError) as frozen:
        book.admit(2, 7, 1, 1)
    assert frozen.value.status == 503
    assert book.raise_to(hold, 20) == 0
    assert book.lower_to(hold, 5) == -5
    book.settle(hold, 5)
    book.freeze(7, False)
    assert book.admit(3, 7, 95, 95) and wallet.available_nanos == 0


def test_a_conversation_that_ran_dry_is_refused_for_a_minute_or_until_a_deposit() -> None:
    book, _ = book_with(100)
    book.mark_dry(7, "talk", 1_000)
    book.mark_dry(7, "", 1_000)
    for now_ms in (1_000, 1_000 + DRY_MS - 1):
        with pytest.raises(RanDry):
            book.admit(1, 7, 1, 1, conversation="talk", now_ms=now_ms)
    book.admit(1, 7, 1, 1, conversation="another", now_ms=1_000)
    book.admit(2, 7, 1, 1, now_ms=1_000)
    book.admit(3, 7, 1, 1, conversation="talk", now_ms=1_000 + DRY_MS)
    book.mark_dry(7, "talk", 1_000)
    book.deposit(7, 1)
    book.admit(4, 7, 1, 1, conversation="talk", now_ms=1_000)


def test_withdrawals_take_what_is_available_and_deposits_stay_within_the_bound() -> None:
    book, wallet = book_with(NANOS_MAX - 5)
    book.check_deposit(7, 5)
    with pytest.raises(LedgerError):
        book.check_deposit(7, 6)
    book.admit(1, 7, 10, 10)
    with pytest.raises(LedgerError) as refused:
        book.withdraw(7, NANOS_MAX - 14)
    assert refused.value.code == "balance_too_low"
    book.withdraw(7, NANOS_MAX - 15)
    assert (wallet.balance_nanos, wallet.available_nanos) == (10, 0)


@given(
    st.integers(0, 1_000),
    st.lists(st.tuples(st.sampled_from(["admit", "raise", "lower", "settle", "void"]), st.integers(0, 600), st.integers(0, 9))),
)
def test_whatever_is_decided_money_is_neither_made_nor_lost(balance: int, steps: list[tuple[str, int, int]]) -> None:
    book, wallet = book_with(balance)
    holds = []
    paid = overrun = collected = 0
    for number, (verb, amount, pick) in enumerate(steps):
        if verb == "admit":
            try:
                holds.append(book.admit(number, 7, amount, amount + pick))
            except (BalanceTooLow, BalanceHeld):
                assert wallet.available_nanos < amount
        elif holds:
            hold = holds[pick % len(holds)]
            if verb in ("raise", "lower"):
                before = hold.amount_nanos
                delta = (book.raise_to if verb == "raise" else book.lower_to)(hold, amount)
                assert hold.amount_nanos == before + delta
            else:
                holds.remove(hold)
                done = book.void(hold) if verb == "void" else book.settle(hold, amount)
                assert done.pay_nanos + done.overrun_nanos == (0 if verb == "void" else amount)
                paid, overrun, collected = (
                    paid + done.pay_nanos,
                    overrun + done.overrun_nanos,
                    collected + done.collected_nanos,
                )
        assert wallet.balance_nanos == balance - paid - collected >= wallet.held_nanos
        assert wallet.held_nanos == sum(hold.amount_nanos for hold in holds)
        assert wallet.owed_nanos == overrun - collected >= 0
