"""Token buckets: never more than their capacity and what flowed in since, whatever the clock does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ClientError
from gateway.limits import COUNT_TOKENS_PER_MINUTE, GIVEN_BACK_PER_MINUTE_MAX, MINUTE_MS, Bucket, RateLimits

NOW = 1_000_000


@given(st.integers(1, 600), st.lists(st.integers(-5_000, 5_000), max_size=300))
def test_a_bucket_lets_through_its_capacity_and_the_refill_and_no_more(per_minute: int, steps: list[int]) -> None:
    bucket, now_ms, latest, taken = Bucket(per_minute, NOW), NOW, NOW, 0
    for step in steps:
        now_ms += step
        latest = max(latest, now_ms)
        wait_ms = bucket.take(now_ms)
        taken += wait_ms == 0
        assert taken <= per_minute + (latest - NOW) * per_minute // MINUTE_MS
        assert 0 <= wait_ms <= -(-MINUTE_MS // per_minute)
        standing = bucket.standing(now_ms)
        assert 0 <= standing.remaining <= standing.limit == per_minute and 0 <= standing.reset_ms <= MINUTE_MS


@given(st.integers(1, 600))
def test_who_waits_as_long_as_told_gets_one_and_not_a_moment_sooner(per_minute: int) -> None:
    bucket = Bucket(per_minute, NOW)
    assert [bucket.take(NOW) for _ in range(per_minute)] == [0] * per_minute
    wait_ms = bucket.take(NOW)
    assert wait_ms > 0 and bucket.take(NOW + wait_ms - 1) > 0
    assert bucket.take(NOW + wait_ms) == 0 and bucket.take(NOW + wait_ms) > 0


def test_a_clock_that_jumps_neither_freezes_nor_floods() -> None:
    bucket = Bucket(2, NOW)
    assert [bucket.take(NOW), bucket.take(NOW)] == [0, 0]
    # Back by an hour: nothing flows in, and what flows in after does not wait for the hour to be made up twice.
    assert bucket.take(NOW - 3_600_000) == 30_000
    assert bucket.take(NOW + 30_000) == 0
    # Forward by a year: full, and no fuller.
    year = NOW + 365 * 86_400_000
    assert [bucket.take(year) for _ in range(3)] == [0, 0, 30_000]


@given(st.lists(st.tuples(st.sampled_from(["take", "give_back"]), st.integers(0, 2_000)), max_size=400), st.integers(1, 50))
def test_what_is_given_back_is_bounded(steps: list[tuple[str, int]], per_minute: int) -> None:
    bucket, now_ms, taken = Bucket(per_minute, NOW), NOW, 0
    for verb, step in steps:
        now_ms += step
        if verb == "take":
            taken += bucket.take(now_ms) == 0
        else:
            bucket.give_back(now_ms)
        minutes = (now_ms - NOW) // MINUTE_MS + 1
        assert taken <= per_minute * (1 + (now_ms - NOW) / MINUTE_MS) + minutes * GIVEN_BACK_PER_MINUTE_MAX
        assert bucket.standing(now_ms).remaining <= per_minute


def test_giving_back_never_overfills() -> None:
    bucket = Bucket(1, NOW)
    for _ in range(5):
        bucket.give_back(NOW)
    assert bucket.take(NOW) == 0 and bucket.take(NOW) > 0


def test_limits_are_of_the_key_and_told_in_words() -> None:
    limits = RateLimits()
    limits.take_request(1, 1, NOW)
    with pytest.raises(ClientError) as refused:
        limits.take_request(1, 1, NOW)
    assert (refused.value.code, refused.value.retry_after_s, refused.value.should_retry) == ("rate_limited", 60, None)
    assert "1 requests per minute" in refused.value.message and "60 s" in refused.value.message
    limits.take_request(2, 1, NOW)
    for _ in range(1000):
        limits.take_request(3, 0, NOW)  # 0 is unlimited
    assert limits.standing(3, 0, NOW) is None
    standing = limits.standing(1, 1, NOW + 30_000)
    assert standing is not None and (standing.limit, standing.remaining, standing.reset_ms) == (1, 0, 30_000)
    limits.give_back(1, NOW)
    limits.give_back(99, NOW)  # who never came has nothing to get
    limits.take_request(1, 1, NOW)


def test_counting_tokens_has_a_bucket_of_its_own() -> None:
    limits = RateLimits()
    limits.take_request(1, 1, NOW)
    for _ in range(COUNT_TOKENS_PER_MINUTE):
        limits.take_count(1, NOW)
    with pytest.raises(ClientError):
        limits.take_count(1, NOW)


def test_a_changed_limit_applies_at_once() -> None:
    limits = RateLimits()
    limits.take_request(1, 1, NOW)
    limits.take_request(1, 5, NOW)
    standing = limits.standing(1, 5, NOW)
    assert standing is not None and standing.remaining == 4
