"""Limits: never more than capacity and refill, whatever the clock does; never past a cap, whatever runs side by side."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from gateway.errors import ClientError
from gateway.limits import (
    COUNT_TOKENS_PER_MINUTE,
    DAY_MS,
    GIVEN_BACK_PER_MINUTE_MAX,
    MINUTE_MS,
    Bucket,
    Lease,
    LimitHeld,
    Limits,
    Spent,
    Terms,
)
from gateway.money import parse_usd

NOW = 1_000_000
KEY = 7
# 2026-11-20 21:00 UTC.
AT = int(datetime(2026, 11, 20, 21, tzinfo=UTC).timestamp()) * 1000
TODAY = AT // DAY_MS
NEXT_MONTH = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp()) * 1000


def take(bucket: Bucket, now_ms: int, amount: int = 1) -> int:
    """As the limits do it: 0 if it was taken, else how long to wait."""
    wait_ms = bucket.wait_ms(amount, now_ms)
    if not wait_ms:
        bucket.take(amount)
    return wait_ms


def enter(limits: Limits, terms: Terms, tokens: int = 0, nanos: int = 0, at_ms: int = AT, now_ms: int = NOW) -> Lease:
    limits.check(KEY, terms, tokens, nanos, at_ms, now_ms)
    return limits.enter(KEY, terms, tokens, nanos, at_ms, now_ms)


# ── a bucket ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 600), st.lists(st.integers(-5_000, 5_000), max_size=300))
def test_a_bucket_lets_through_its_capacity_and_the_refill_and_no_more(per_minute: int, steps: list[int]) -> None:
    bucket, now_ms, latest, taken = Bucket(per_minute, NOW), NOW, NOW, 0
    for step in steps:
        now_ms += step
        latest = max(latest, now_ms)
        wait_ms = take(bucket, now_ms)
        taken += wait_ms == 0
        assert taken <= per_minute + (latest - NOW) * per_minute // MINUTE_MS
        assert 0 <= wait_ms <= -(-MINUTE_MS // per_minute)
        standing = bucket.standing(now_ms)
        assert 0 <= standing.remaining <= standing.limit == per_minute and 0 <= standing.reset_ms <= MINUTE_MS


@given(st.integers(1, 600))
def test_who_waits_as_long_as_told_gets_one_and_not_a_moment_sooner(per_minute: int) -> None:
    bucket = Bucket(per_minute, NOW)
    assert [take(bucket, NOW) for _ in range(per_minute)] == [0] * per_minute
    wait_ms = take(bucket, NOW)
    assert wait_ms > 0 and take(bucket, NOW + wait_ms - 1) > 0
    assert take(bucket, NOW + wait_ms) == 0 and take(bucket, NOW + wait_ms) > 0


@given(st.integers(1, 100_000), st.lists(st.tuples(st.integers(0, 200_000), st.integers(-90_000, 90_000)), max_size=60))
def test_amounts_never_pass_capacity_and_refill_by_more_than_one_request_of_debt(
    per_minute: int, steps: list[tuple[int, int]]
) -> None:
    bucket, now_ms, latest, taken, largest = Bucket(per_minute, NOW), NOW, NOW, 0, 0
    for amount, step in steps:
        now_ms += step
        latest = max(latest, now_ms)
        if take(bucket, now_ms, amount) == 0:
            taken, largest = taken + amount, max(largest, amount)
        assert taken <= per_minute + (latest - NOW) * per_minute // MINUTE_MS + max(0, largest - per_minute)


def test_what_is_larger_than_the_bucket_waits_until_it_is_full_and_leaves_it_in_debt() -> None:
    bucket = Bucket(100, NOW)
    assert take(bucket, NOW, 1) == 0
    assert take(bucket, NOW, 250) == 600
    assert take(bucket, NOW + 600, 250) == 0
    assert bucket.standing(NOW + 600).remaining == 0
    # 151 below "one is there": a minute for every hundred.
    assert take(bucket, NOW + 600, 1) == 151 * 600


def test_a_clock_that_jumps_neither_freezes_nor_floods() -> None:
    bucket = Bucket(2, NOW)
    assert [take(bucket, NOW), take(bucket, NOW)] == [0, 0]
    # Back by an hour: nothing flows in, and what flows in after does not wait for the hour to be made up twice.
    assert take(bucket, NOW - 3_600_000) == 30_000
    assert take(bucket, NOW + 30_000) == 0
    # Forward by a year: full, and no fuller.
    year = NOW + 365 * DAY_MS
    assert [take(bucket, year) for _ in range(3)] == [0, 0, 30_000]


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 30)), max_size=60))
def test_a_limit_that_is_changed_to_and_fro_fills_nothing(steps: list[tuple[int, int]]) -> None:
    limits, taken = Limits(), 0
    for rpm, tries in steps:
        for _ in range(tries):
            try:
                limits.take_request(KEY, Terms(rpm=rpm), NOW)
                taken += 1
            except ClientError:
                break
    assert taken <= max((rpm for rpm, _ in steps), default=0)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 2 * 10**6))
def test_another_limit_keeps_nobody_waiting_longer_than_the_one_before(before: int, after: int, taken: int) -> None:
    """600 a minute, all used, then 1 a minute: the next is free in a minute, not in ten hours."""
    bucket = Bucket(before, NOW)
    bucket.take(taken)
    reset_ms = bucket.standing(NOW).reset_ms
    bucket.resize(after, NOW)
    assert reset_ms <= bucket.standing(NOW).reset_ms <= reset_ms + 1
    assert taken > before or bucket.wait_ms(1, NOW) <= MINUTE_MS


@given(st.lists(st.tuples(st.sampled_from(["take", "give_back"]), st.integers(0, 2_000)), max_size=400), st.integers(1, 50))
def test_what_is_given_back_is_bounded(steps: list[tuple[str, int]], per_minute: int) -> None:
    limits, terms, now_ms, taken = Limits(), Terms(rpm=per_minute), NOW, 0
    for verb, step in steps:
        now_ms += step
        if verb == "take":
            try:
                limits.take_request(KEY, terms, now_ms)
                taken += 1
            except ClientError:
                pass
        else:
            limits.give_back(KEY, now_ms)
        minutes = (now_ms - NOW) // MINUTE_MS + 1
        assert taken <= per_minute * (1 + (now_ms - NOW) / MINUTE_MS) + minutes * GIVEN_BACK_PER_MINUTE_MAX
        standing = limits.requests_standing(KEY, terms, now_ms)
        assert standing is not None and standing.remaining <= per_minute


# ── requests at the door ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_key_over_its_limit_is_told_when_it_may_come_again_and_others_go_on() -> None:
    limits, terms = Limits(), Terms(rpm=2)
    limits.take_request(KEY, terms, NOW)
    limits.take_request(KEY, terms, NOW)
    with pytest.raises(ClientError) as refused:
        limits.take_request(KEY, terms, NOW)
    assert refused.value.code == "rate_limited" and refused.value.retry_after_s == 30
    assert "2 requests per minute" in refused.value.message and "30 s" in refused.value.message
    limits.take_request(8, terms, NOW)
    for _ in range(1_000):
        limits.take_request(9, Terms(), NOW)
    assert limits.requests_standing(9, Terms(), NOW) is None


def test_counting_tokens_has_a_bucket_of_its_own() -> None:
    limits = Limits()
    for _ in range(COUNT_TOKENS_PER_MINUTE):
        limits.take_count(KEY, NOW)
    with pytest.raises(ClientError, match="300 token counts per minute"):
        limits.take_count(KEY, NOW)
    limits.take_request(KEY, Terms(rpm=1), NOW)


# ── what each limit says ─────────────────────────────────────────────────────────────────────────────────────────────

CENT = parse_usd("0.01")


@pytest.mark.parametrize(
    ("terms", "used", "asked", "code", "text", "retry_after_s", "should_retry"),
    [
        (Terms(tpm=1_000), (900, 0), (200, 0), "rate_limited", "1,000 tokens per minute", 6, None),
        (Terms(tpm=100), (37, 0), (580, 0), "rate_limited", "larger than the limit: one such request is let through", 23, None),
        (Terms(spend_per_day_nanos=50_000), (0, 50_000), (0, 1_200), "cap_reached",
         "$0.00005 per day (UTC); it has spent $0.00005. This request may need $0.0000012.", None, False),
        (Terms(requests_per_day=1), (5, 0), (5, 0), "rate_limited", "1 request per day (UTC); it has made 1", 10_800, False),
        (Terms(tokens_per_month=1_000), (900, 0), (200, 0), "rate_limited", "1,000 tokens per month (UTC); it has", None, False),
        (Terms(spend_per_day_nanos=CENT), (0, CENT), (0, 1), "cap_reached", "$0.01 per day (UTC); it has spent", None, False),
        (Terms(spend_per_month_nanos=CENT), (0, CENT), (0, 1), "cap_reached", "anew at 2026-12-01 00:00 UTC", None, False),
        (Terms(spend_total_nanos=CENT), (0, CENT), (0, 1), "cap_reached", "$0.01 in all; it has spent $0.01", None, False),
    ],
)  # fmt: skip
def test_a_refusal_says_which_limit_its_value_when_it_refills_and_who_can_raise_it(
    terms: Terms,
    used: tuple[int, int],
    asked: tuple[int, int],
    code: str,
    text: str,
    retry_after_s: int | None,
    should_retry: bool | None,
) -> None:
    limits = Limits()
    limits.leave(enter(limits, terms, *used), used)
    with pytest.raises(ClientError) as refused:
        enter(limits, terms, *asked)
    error = refused.value
    assert (error.code, error.should_retry) == (code, should_retry)
    assert text in error.message and error.message.endswith("The operator can raise the limit.")
    if retry_after_s is not None:
        assert error.retry_after_s == retry_after_s
    assert not isinstance(error, LimitHeld)
    # What is refused leaves nothing behind.
    assert all(level.reserved == 0 for level in limits.levels(KEY, terms, AT, NOW))


def test_requests_at_one_time_are_told_to_wait_for_each_other() -> None:
    limits, terms = Limits(), Terms(concurrent=2)
    first = enter(limits, terms)
    enter(limits, terms)
    with pytest.raises(LimitHeld, match="2 requests at one time") as refused:
        enter(limits, terms)
    assert refused.value.retry_after_s == 5
    limits.leave(first, None)
    enter(limits, terms)


def test_what_running_requests_hold_is_told_apart_from_what_is_spent() -> None:
    limits, terms = Limits(), Terms(spend_total_nanos=100)
    running = enter(limits, terms, nanos=80)
    with pytest.raises(LimitHeld, match="running requests hold"):
        enter(limits, terms, nanos=30)
    limits.leave(running, (0, 80))
    with pytest.raises(ClientError, match="it has spent") as refused:
        enter(limits, terms, nanos=30)
    assert refused.value.code == "cap_reached" and not isinstance(refused.value, LimitHeld)
    assert limits.check(KEY, terms, 0, 20, AT, NOW) == 20


def test_a_running_request_may_grow_as_far_as_its_tightest_limit_and_is_told_which() -> None:
    limits, terms = Limits(), Terms(spend_per_day_nanos=100, spend_total_nanos=70, tokens_per_month=50)
    lease = enter(limits, terms, tokens=10, nanos=60)
    assert limits.room(lease) == (40, 10) and limits.why_full(lease) is None
    limits.change(lease, 10, 70)
    full = limits.why_full(lease)
    assert full is not None and full.code == "cap_reached" and "in all" in full.message
    limits.change(lease, 50, 60)
    full = limits.why_full(lease)
    assert full is not None and full.code == "rate_limited" and "tokens per month" in full.message
    limits.leave(lease, (20, 30))
    assert limits.room(enter(limits, terms)) == (30, 40)


def test_what_cannot_be_watched_reserves_what_it_may_use_and_the_bucket_only_what_it_should() -> None:
    limits, terms = Limits(), Terms(tpm=1_000, tokens_per_month=5_000)
    lease = enter(limits, terms, tokens=300)
    limits.widen(lease, 9_000)
    with pytest.raises(LimitHeld, match="tokens per month"):
        enter(limits, terms, tokens=1)
    standing = limits.tokens_standing(KEY, terms, NOW)
    assert standing is not None and standing.remaining == 700
    limits.leave(lease, (400, 0))
    standing = limits.tokens_standing(KEY, terms, NOW)
    assert standing is not None and standing.remaining == 600
    assert limits.check(KEY, terms, 600, 0, AT, NOW) > 0


def test_tokens_are_trued_up_when_the_request_is_over() -> None:
    limits, terms = Limits(), Terms(tpm=1_000)
    lease = enter(limits, terms, tokens=900)
    limits.change(lease, 600, 0)
    limits.leave(lease, (200, 0))
    standing = limits.tokens_standing(KEY, terms, NOW)
    assert standing is not None and standing.remaining == 800
    limits.leave(enter(limits, terms, tokens=800), None)
    standing = limits.tokens_standing(KEY, terms, NOW)
    assert standing is not None and standing.remaining == 800


# ── days, months, and clocks ─────────────────────────────────────────────────────────────────────────────────────────


def test_days_and_months_begin_at_midnight_utc() -> None:
    limits, terms = Limits(), Terms(requests_per_day=1, tokens_per_month=10)
    midnight = (TODAY + 1) * DAY_MS
    limits.leave(enter(limits, terms, tokens=6), (6, 0))
    with pytest.raises(ClientError, match="per day"):
        enter(limits, terms, tokens=1, at_ms=midnight - 1)
    with pytest.raises(ClientError, match="per month"):
        enter(limits, terms, tokens=5, at_ms=midnight)
    limits.leave(enter(limits, terms, tokens=4, at_ms=midnight), (4, 0))
    limits.leave(enter(limits, terms, tokens=10, at_ms=NEXT_MONTH), (10, 0))


def test_a_request_counts_for_the_day_on_which_it_began() -> None:
    limits, terms = Limits(), Terms(spend_per_day_nanos=100)
    midnight = (TODAY + 1) * DAY_MS
    lease = enter(limits, terms, nanos=60, at_ms=midnight - 1)
    assert limits.check(KEY, terms, 0, 100, midnight, NOW) == 100
    limits.leave(lease, (0, 60))
    assert limits.check(KEY, terms, 0, 100, midnight, NOW) == 100
    assert limits.check(KEY, terms, 0, 40, midnight - 1, NOW) == 40


@pytest.mark.parametrize("jump", [DAY_MS, -DAY_MS])
def test_a_wall_clock_that_jumps_by_a_day_and_back_neither_freezes_nor_floods_a_day(jump: int) -> None:
    limits, terms = Limits(), Terms(requests_per_day=2)
    limits.leave(enter(limits, terms), (0, 0))
    for _ in range(2):
        limits.leave(enter(limits, terms, at_ms=AT + jump), (0, 0))
    with pytest.raises(ClientError, match="per day"):
        enter(limits, terms, at_ms=AT + jump)
    # Back again: what was left of the day is left, and no more.
    limits.leave(enter(limits, terms), (0, 0))
    with pytest.raises(ClientError, match="per day"):
        enter(limits, terms)


def test_history_counts_once_in_its_own_day_and_month() -> None:
    limits = Limits()
    terms = Terms(requests_per_day=10, tokens_per_month=1_000, spend_per_day_nanos=100, spend_total_nanos=1_000)
    days = [Spent(TODAY, 3, 100, 10), Spent(TODAY - 1, 4, 200, 20), Spent(TODAY - 25, 5, 400, 40)]
    assert not limits.is_loaded(KEY)
    limits.leave(enter(limits, terms, nanos=1), (50, 1))
    for _ in range(2):
        limits.load(KEY, days, 500)
    assert {level.name: level.used for level in limits.levels(KEY, terms, AT, NOW)} == {
        "requests_per_day": 4,
        "tokens_per_month": 350,
        "spend_per_day_nanos": 11,
        "spend_total_nanos": 501,
    }


# ── everything at once ───────────────────────────────────────────────────────────────────────────────────────────────


class LimitsMachine(RuleBasedStateMachine):
    """Requests of one key come, grow and go in any order: no limit is ever passed, and what is over is counted exactly."""

    leases = Bundle("leases")
    TERMS = Terms(
        tpm=500, concurrent=4, requests_per_day=20, tokens_per_month=3_000, spend_per_day_nanos=900, spend_total_nanos=2_000
    )

    def __init__(self) -> None:
        super().__init__()
        self.limits = Limits()
        self.at_ms, self.now_ms = AT, NOW
        self.running: dict[int, Lease] = {}
        self.done: list[tuple[int, int, int]] = []  # (day, tokens, nanos)

    @rule(ms=st.sampled_from([0, 500, 30_000, 3_600_000]), jump=st.sampled_from([0, 0, 0, DAY_MS, -DAY_MS]))
    def time_passes(self, ms: int, jump: int) -> None:
        self.now_ms += ms
        self.at_ms = max(AT - DAY_MS, min(AT + DAY_MS, self.at_ms + ms + jump))

    @rule(target=leases, tokens=st.integers(0, 700), nanos=st.integers(0, 400))
    def enter(self, tokens: int, nanos: int) -> Any:
        try:
            room = self.limits.check(KEY, self.TERMS, tokens, nanos, self.at_ms, self.now_ms)
        except ClientError:
            return None
        assert room >= nanos
        lease = self.limits.enter(KEY, self.TERMS, tokens, nanos, self.at_ms, self.now_ms)
        self.running[id(lease)] = lease
        return lease

    @rule(lease=leases, tokens=st.integers(0, 300), nanos=st.integers(0, 300))
    def grow(self, lease: Lease | None, tokens: int, nanos: int) -> None:
        if lease is not None and id(lease) in self.running:
            more_tokens, more_nanos = self.limits.room(lease)
            self.limits.change(lease, lease.tokens + min(tokens, more_tokens), lease.nanos + min(nanos, more_nanos))

    @rule(lease=leases, tokens=st.integers(0, 5_000))
    def widen(self, lease: Lease | None, tokens: int) -> None:
        if lease is not None and id(lease) in self.running:
            taken = self.limits.tokens_standing(KEY, self.TERMS, self.now_ms)
            self.limits.widen(lease, tokens)
            assert self.limits.tokens_standing(KEY, self.TERMS, self.now_ms) == taken

    @rule(lease=consumes(leases), share=st.integers(0, 100), charged=st.booleans())
    def leave(self, lease: Lease | None, share: int, charged: bool) -> None:
        if lease is not None and self.running.pop(id(lease), None) is not None:
            used = (lease.tokens * share // 100, lease.nanos * share // 100)
            self.limits.leave(lease, used if charged else None)
            if charged:
                self.done.append((lease.day, *used))

    @precondition(lambda self: self.done)
    @invariant()
    def nothing_is_passed_and_all_is_counted(self) -> None:
        levels = {level.name: level for level in self.limits.levels(KEY, self.TERMS, self.at_ms, self.now_ms)}
        for level in levels.values():
            if level.name != "tpm":
                assert level.used + level.reserved <= level.limit
        today = self.at_ms // DAY_MS
        assert levels["requests_per_day"].used == sum(day == today for day, _, _ in self.done)
        assert levels["spend_per_day_nanos"].used == sum(nanos for day, _, nanos in self.done if day == today)
        assert levels["spend_total_nanos"].used == sum(nanos for _, _, nanos in self.done)
        assert levels["tokens_per_month"].used == sum(tokens for _, tokens, _ in self.done)
        assert levels["concurrent"].used == len(self.running)


TestLimitsMachine = LimitsMachine.TestCase
TestLimitsMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
