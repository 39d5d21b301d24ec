"""What rests, when, for how long, and how it comes back. The table of gateway/health.py, and what must never happen."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.health import PROBE_MS, Cause, Change, Failure, Health

UP, MODEL, OTHER = "main", "claude-sonnet-5-5", "claude-opus-5-5"


def failure(cause: Cause, conversation: str = "a", key_id: int = 1, retry_after_ms: int | None = None) -> Failure:
    return Failure(cause, cause, conversation, key_id, retry_after_ms)


@pytest.mark.parametrize(
    ("cause", "rest_ms", "whole"),
    [
        ("secret", 600_000, True),
        ("credit", 600_000, True),
        ("connect", 5_000, True),
        ("limited", 30_000, False),
        ("forbidden", 30_000, False),
        ("no_model", 30_000, False),
    ],
)
def test_what_rests_at_once_and_for_how_long(cause: Cause, rest_ms: int, whole: bool) -> None:
    health = Health()
    assert health.failed(UP, MODEL, failure(cause), 1000) == (UP, "" if whole else MODEL)
    assert not health.may_ask(UP, MODEL, 1000 + rest_ms - 1) and health.may_ask(UP, MODEL, 1000 + rest_ms)
    assert health.may_ask(UP, OTHER, 1001) is not whole
    assert health.state(UP, MODEL, 1001).reason == cause


@pytest.mark.parametrize(("asked_ms", "rest_ms"), [(7_000, 7_000), (0, 1_000), (10**9, 3_600_000)])
def test_a_limit_rests_as_long_as_the_provider_says_within_reason(asked_ms: int, rest_ms: int) -> None:
    health = Health()
    health.failed(UP, MODEL, failure("limited", retry_after_ms=asked_ms), 0)
    assert health.state(UP, MODEL, 0).until_ms == rest_ms


def test_three_failures_of_two_conversations_within_thirty_seconds_are_an_outage() -> None:
    health = Health()
    for at_ms, conversation in ((0, "a"), (10_000, "a"), (20_000, "b")):
        assert health.may_ask(UP, MODEL, at_ms)
        health.failed(UP, MODEL, failure("failing", conversation), at_ms)
    assert not health.may_ask(UP, MODEL, 20_001) and health.may_ask(UP, OTHER, 20_001)


def test_failures_that_lie_apart_are_none() -> None:
    health = Health()
    for number in range(20):
        health.failed(UP, MODEL, failure("failing", str(number)), number * 20_000)
        assert health.may_ask(UP, MODEL, number * 20_000)


def test_a_few_failures_among_many_answers_are_none() -> None:
    health = Health()
    for number in range(20):
        health.failed(UP, MODEL, failure("failing", str(number)), number)
        for _ in range(30):
            health.succeeded(UP, MODEL, number)
    assert health.may_ask(UP, MODEL, 100)


@given(st.lists(st.tuples(st.integers(0, 5_000), st.sampled_from(["failing", "answer"])), max_size=60))
def test_no_single_conversation_can_cool_what_serves_others(steps: list[tuple[int, str]]) -> None:
    health, now_ms = Health(), 0
    for wait_ms, what in steps:
        now_ms += wait_ms
        if what == "answer":
            health.succeeded(UP, MODEL, now_ms)
        else:
            health.failed(UP, MODEL, failure("failing", "the same", 7), now_ms)
        assert health.may_ask(UP, MODEL, now_ms) and health.may_ask(UP, OTHER, now_ms)


def test_one_users_forbidden_requests_never_rest_the_upstream_and_those_of_many_do() -> None:
    health = Health()
    for number in range(50):
        assert health.failed(UP, MODEL, failure("forbidden", str(number), key_id=1), number * 31_000) == (UP, MODEL)
        assert health.may_ask(UP, OTHER, number * 31_000)
    health = Health()
    rested = [health.failed(UP, str(number), failure("forbidden", str(number), key_id=number), number) for number in range(5)]
    assert rested[-1] == (UP, "") and not health.may_ask(UP, OTHER, 5)


def test_one_probe_decides_and_each_failure_doubles_the_rest() -> None:
    health, now_ms, rests = Health(), 0, []
    health.failed(UP, MODEL, failure("connect"), now_ms)
    for _ in range(8):
        until_ms = health.state(UP, MODEL, now_ms).until_ms
        rests.append(until_ms - now_ms)
        now_ms = until_ms
        assert health.may_ask(UP, MODEL, now_ms)
        health.asked(UP, MODEL, now_ms)
        assert not health.may_ask(UP, MODEL, now_ms) and not health.may_ask(UP, OTHER, now_ms)
        health.failed(UP, MODEL, failure("connect"), now_ms)
    assert rests == [5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000]
    now_ms = health.state(UP, MODEL, now_ms).until_ms
    health.asked(UP, MODEL, now_ms)
    health.succeeded(UP, MODEL, now_ms)
    assert health.state(UP, MODEL, now_ms).serving and health.may_ask(UP, OTHER, now_ms)
    health.failed(UP, MODEL, failure("connect"), now_ms)
    assert health.state(UP, MODEL, now_ms).until_ms == now_ms + 5_000


def test_an_answer_to_what_was_asked_before_the_rest_does_not_end_it() -> None:
    health = Health()
    health.failed(UP, MODEL, failure("limited"), 1_000)
    health.succeeded(UP, MODEL, asked_ms=500)
    assert not health.may_ask(UP, MODEL, 2_000)


@pytest.mark.parametrize("released", [True, False])
def test_a_probe_that_nobody_reports_on_does_not_close_the_upstream_for_ever(released: bool) -> None:
    health = Health()
    health.failed(UP, MODEL, failure("connect"), 0)
    health.asked(UP, MODEL, 5_000)
    if released:
        health.released(UP, MODEL, 4_000)  # some other request, asked before
        assert not health.may_ask(UP, MODEL, 5_001)
        health.released(UP, MODEL, 5_000)
    assert health.may_ask(UP, MODEL, 5_001) is released
    assert health.may_ask(UP, MODEL, 5_000 + PROBE_MS)


def test_a_provider_that_answers_with_a_limit_is_reachable_again() -> None:
    health = Health()
    health.failed(UP, MODEL, failure("connect"), 0)
    health.asked(UP, MODEL, 5_000)
    health.failed(UP, MODEL, failure("limited"), 5_001)
    assert health.may_ask(UP, OTHER, 5_002) and not health.may_ask(UP, MODEL, 5_002)


@pytest.mark.parametrize("cause", ["connect", "limited"])
def test_what_was_in_flight_when_a_rest_began_does_not_prolong_it(cause: Cause) -> None:
    """A blip fails everything that was under way: that is one failure, not ten doublings."""
    health = Health()
    for number in range(10):
        health.failed(UP, MODEL, Failure(cause, cause, str(number), number, None, asked_ms=number), 1_000 + number)
    assert health.state(UP, MODEL, 1_010).until_ms == 1_000 + (5_000 if cause == "connect" else 30_000)


def test_of_two_limits_the_longer_holds() -> None:
    health = Health()
    health.failed(UP, MODEL, Failure("limited", "rate_limited", "a", 1, 600_000, asked_ms=0), 10)
    health.failed(UP, MODEL, Failure("limited", "rate_limited", "b", 1, 5_000, asked_ms=1), 20)
    assert health.state(UP, MODEL, 20).until_ms == 600_010


def test_a_straggler_does_not_end_the_rest_of_a_whole_upstream() -> None:
    health = Health()
    health.failed(UP, MODEL, failure("secret"), 1_000)
    for cause in ("failing", "limited", "forbidden"):
        health.failed(UP, OTHER, Failure(cause, cause, "b", 2, None, asked_ms=500), 2_000)  # type: ignore[arg-type]
    assert not health.may_ask(UP, MODEL, 3_000)


@pytest.mark.parametrize("seed", range(20))
def test_whoever_hears_of_every_change_knows_how_all_stand(seed: int) -> None:
    """A storm of everything that can happen, and a listener who writes down no more than what it is told."""
    dice = random.Random(seed)
    known: dict[tuple[str, str], tuple[str, str, int]] = {}
    now_ms = 1_000

    def listen(change: Change) -> None:
        subject = change.upstream, change.model
        if change.cause is None:
            del known[subject]  # only what rested is told to answer again
            return
        assert (subject in known) or not change.prolonged
        known[subject] = change.cause, change.reason, now_ms + change.rest_ms

    health = Health(listen)
    causes: tuple[Cause, ...] = ("secret", "credit", "limited", "forbidden", "no_model", "connect", "failing")
    for _ in range(2_000):
        now_ms += dice.randrange(8_000)
        model, asked_ms = dice.choice((MODEL, OTHER)), now_ms - dice.randrange(20_000)
        what = dice.random()
        if what < 0.6:
            cause = dice.choice(causes)
            retry_ms = dice.choice((None, 0, 700, 60_000))
            asked = dice.choice((None, asked_ms))
            key = dice.randrange(9)
            health.failed(UP, model, Failure(cause, f"{cause}!", str(key), key, retry_ms, asked), now_ms)
        elif what < 0.98:
            health.asked(UP, model, asked_ms)
            health.succeeded(UP, model, asked_ms)
        else:
            health.forget(UP)
        resting = {
            subject: (circuit.cause, circuit.reason, circuit.until_ms)
            for subject, circuit in health._circuits.items()
            if circuit.cooling
        }
        assert known == resting
