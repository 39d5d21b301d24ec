"""How fast anybody may guess: whatever the order of tries and times, no more get through than the pace has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import throttle
from gateway.throttle import Pace, Throttle, TooManyTries

PACE = Pace(free=3, first_ms=1_000, most_ms=8_000, forget_ms=60_000)


def passes(throttle: Throttle, party: str, now_ms: int) -> bool:
    try:
        throttle.check(party, now_ms)
    except TooManyTries:
        return False
    throttle.count(party, now_ms)
    return True


def test_some_are_free_then_each_waits_twice_as_long_as_the_last() -> None:
    guard, now, waits = Throttle(PACE), 0, []
    for _ in range(9):
        wait = 0
        while not passes(guard, "a", now):
            now += 1_000
            wait += 1_000
        waits.append(wait)
    assert waits == [0, 0, 0, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000]


def test_the_refusal_says_when_to_come_back() -> None:
    guard = Throttle(PACE)
    for _ in range(3):
        assert passes(guard, "a", 500)
    with pytest.raises(TooManyTries) as caught:
        guard.check("a", 1_000)
    assert (caught.value.code, caught.value.status, caught.value.retry_after_s) == ("rate_limited", 429, 1)
    assert not passes(guard, "a", 1_499) and passes(guard, "a", 1_500)


def test_a_refused_try_does_not_count_and_quiet_forgets() -> None:
    guard = Throttle(PACE)
    for _ in range(3):
        assert passes(guard, "a", 0)
    assert not any(passes(guard, "a", now) for now in range(0, 1_000, 10))
    assert passes(guard, "a", 1_000)
    assert passes(guard, "a", 61_000) and passes(guard, "a", 61_000) and passes(guard, "a", 61_000)
    assert not passes(guard, "a", 61_000)


def test_what_was_right_is_given_back_or_clears_all() -> None:
    guard = Throttle(PACE)
    for _ in range(50):
        assert passes(guard, "a", 0)
        guard.give_back("a")
    for _ in range(3):
        assert passes(guard, "a", 0)
    guard.give_back("a")
    assert passes(guard, "a", 0) and not passes(guard, "a", 0)
    guard.clear("a")
    assert passes(guard, "a", 0)
    guard.give_back("nobody")


def test_parties_know_nothing_of_each_other_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "PARTIES_MAX", 5)
    guard = Throttle(PACE)
    for party in "abc":
        for _ in range(3):
            assert passes(guard, party, 0)
    for party in "abc":
        assert not passes(guard, party, 0)
    for number in range(3):
        assert passes(guard, f"other{number}", 0)
    assert len(guard._tries) == 5
    assert passes(guard, "a", 0), "who tried longest ago is forgotten"
    assert not passes(guard, "c", 0)


@given(
    pace=st.builds(
        Pace, free=st.integers(1, 6), first_ms=st.integers(1, 5_000), most_ms=st.integers(1, 60_000), forget_ms=st.just(10**9)
    ),
    steps=st.lists(st.integers(0, 20_000), max_size=80),
)
def test_no_order_of_tries_gets_more_through_than_the_pace(pace: Pace, steps: list[int]) -> None:
    guard, now, through = Throttle(pace), 0, []
    for step in steps:
        now += step
        if passes(guard, "a", now):
            through.append(now)
    for number in range(pace.free, len(through)):
        assert through[number] - through[number - 1] >= min(pace.first_ms * 2 ** (number - pace.free), pace.most_ms)


@given(st.integers(0, 10**6))
def test_a_wait_never_shrinks_and_has_an_end(tries: int) -> None:
    assert PACE.wait_ms(tries) <= PACE.wait_ms(tries + 1) <= PACE.most_ms
