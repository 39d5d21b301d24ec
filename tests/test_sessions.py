"""Sessions in memory: when they end, whatever the clocks do, and whose they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access import hash_secret
from gateway.sessions import (
    ABSOLUTE_MS,
    AGENT_CHARS_MAX,
    HOUR_MS,
    IDLE_MS,
    SEEN_LATE_MS,
    Session,
    SessionRing,
    csrf_token,
    is_csrf_token,
    make_token,
    short_agent,
    web_actor,
)
from tests.fakes import FakeClock

DAY_MS = 24 * HOUR_MS


def session(session_id: int = 1, user_id: int = 7, at_ms: int = 0, **over: object) -> Session:
    fields = {
        "user_name": "ada",
        "role": "user",
        "totp": False,
        "created_at_ms": at_ms,
        "seen_at_ms": at_ms,
        "expires_at_ms": at_ms + ABSOLUTE_MS,
        "address": "10.0.0.1",
        "agent": "Firefox",
    }
    return Session(session_id, user_id, **{**fields, **over})  # type: ignore[arg-type]


class Ring:
    """One ring and its clock."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.ring = SessionRing()

    def open(self, session_id: int = 1, user_id: int = 7) -> str:
        token = make_token()
        self.ring.put(
            hash_secret(token), session(session_id, user_id, self.clock.at_ms()), self.clock.at_ms(), self.clock.now_ms()
        )
        return token

    def find(self, token: str) -> Session | None:
        return self.ring.find(token, self.clock.at_ms(), self.clock.now_ms())


@pytest.fixture
def ring(clock: FakeClock) -> Ring:
    return Ring(clock)


def test_a_session_lives_while_it_is_seen_and_a_week_at_most(ring: Ring, clock: FakeClock) -> None:
    token = ring.open()
    for _ in range(14 * 2 - 1):
        clock.advance(IDLE_MS // 2)
        assert ring.find(token) is not None
    clock.advance(IDLE_MS // 2)
    assert ring.find(token) is None


def test_an_idle_session_ends(ring: Ring, clock: FakeClock) -> None:
    token = ring.open()
    clock.advance(IDLE_MS - 1)
    assert ring.find(token) is not None
    clock.advance(IDLE_MS)
    assert ring.find(token) is None


def test_a_wall_clock_that_is_set_back_gives_no_time(ring: Ring, clock: FakeClock) -> None:
    idle, used = ring.open(1), ring.open(2)
    clock.wall_ms -= 30 * DAY_MS
    assert ring.find(used) is not None
    clock.advance(IDLE_MS)
    assert ring.find(idle) is None and ring.find(used) is None
    absolute = ring.open(3)
    clock.wall_ms -= 30 * DAY_MS
    for _ in range(7 * 24):
        assert ring.find(absolute) is not None
        clock.advance(HOUR_MS)
    assert ring.find(absolute) is None


def test_a_wall_clock_that_goes_on_while_the_other_stands_ends_it(ring: Ring, clock: FakeClock) -> None:
    token = ring.open()
    clock.wall_ms += IDLE_MS  # a laptop that slept
    assert ring.find(token) is None


@given(moves=st.lists(st.tuples(st.integers(0, IDLE_MS), st.integers(-2 * DAY_MS, 2 * DAY_MS), st.booleans()), max_size=30))
def test_no_play_of_the_clocks_gives_a_session_more_than_it_has(moves: list[tuple[int, int, bool]]) -> None:
    clock = FakeClock()
    ring = Ring(clock)
    token, began_ms, seen_ms = ring.open(), clock.now_ms(), clock.now_ms()
    for running, jump, look in moves:
        clock.running_ms += running
        clock.wall_ms += running + jump
        if look:
            found = ring.find(token)
            assert found is None or (clock.now_ms() - seen_ms < IDLE_MS and clock.now_ms() - began_ms < ABSOLUTE_MS)
            assert found is None or clock.at_ms() < found.expires_at_ms
            seen_ms = clock.now_ms() if found else seen_ms


def test_a_stored_time_that_lies_ahead_is_not_believed_at_the_next_start(clock: FakeClock) -> None:
    token = make_token()
    at_ms, now_ms = clock.at_ms(), clock.now_ms()
    stored = session(at_ms=at_ms + 30 * DAY_MS)
    ring = SessionRing([(hash_secret(token), stored)], at_ms, now_ms)
    assert ring.find(token, at_ms + IDLE_MS, now_ms + IDLE_MS) is None


def test_who_is_nobody_is_not_found(ring: Ring) -> None:
    token = ring.open()
    for other in ("", token[:-1], token + "=", token.swapcase(), "\ud800", make_token()):
        assert ring.find(other) is None
    assert ring.find(token) is not None


def test_what_is_dropped_is_dead_and_nothing_else_is(ring: Ring) -> None:
    tokens = {number: ring.open(number, 7 if number < 4 else 8) for number in range(1, 6)}
    ring.ring.drop([1])
    ring.ring.drop_user(8)
    assert {number for number, token in tokens.items() if ring.find(token)} == {2, 3}


def test_a_users_own_are_listed_the_latest_seen_first(ring: Ring, clock: FakeClock) -> None:
    first, second, _ = ring.open(1), ring.open(2), ring.open(3, 8)
    clock.advance(1_000)
    clock.wall_ms -= DAY_MS
    assert ring.find(first)
    listed = ring.ring.of_user(7, clock.at_ms(), clock.now_ms())
    assert [each.id for each in listed] == [1, 2] and listed[0].seen_at_ms == clock.at_ms()
    assert ring.find(second)


def test_a_second_factor_is_known_of_all_of_a_users_sessions(ring: Ring) -> None:
    mine, other = ring.open(1), ring.open(2, 8)
    ring.ring.set_totp(7, True)
    found, others = ring.find(mine), ring.find(other)
    assert found is not None and found.totp and others is not None and not others.totp


def test_being_seen_is_written_every_few_minutes_and_not_at_each_look(ring: Ring, clock: FakeClock) -> None:
    token = ring.open()
    clock.advance(SEEN_LATE_MS - 1)
    ring.find(token)
    assert ring.ring.take_seen() == []
    clock.advance(1)
    ring.find(token)
    assert ring.ring.take_seen() == [(1, clock.at_ms())]
    assert ring.ring.take_seen() == []
    clock.wall_ms -= DAY_MS
    ring.find(token)
    assert ring.ring.take_seen() == [(1, clock.at_ms())], "a time that lies ahead would outlive its session"


def test_what_has_ended_is_forgotten(ring: Ring, clock: FakeClock) -> None:
    old = ring.open(1)
    clock.advance(IDLE_MS)
    new = ring.open(2)
    assert ring.ring.drop_dead(clock.at_ms(), clock.now_ms()) == [1]
    assert len(ring.ring) == 1 and ring.find(new) and not ring.find(old)


def test_a_forms_token_belongs_to_its_session() -> None:
    token, other = make_token(), make_token()
    assert is_csrf_token(token, csrf_token(token))
    for wrong in (csrf_token(other), "", token, csrf_token(token)[:-1], csrf_token(token).upper(), "é", "\ud800"):
        assert not is_csrf_token(token, wrong)
    assert token not in csrf_token(token)


def test_a_browsers_words_are_cut_and_fit_to_be_shown() -> None:
    assert short_agent("Mozilla/5.0\n\x1b[31m(X11)\u202e ") == "Mozilla/5.0[31m(X11)"
    assert len(short_agent("x" * 5000)) == AGENT_CHARS_MAX


def test_an_actor_is_found_by_its_first_word() -> None:
    assert web_actor("ada", "10.0.0.1") == "web:ada 10.0.0.1"
    assert web_actor("ada", "") == "web:ada"


def test_tokens_are_256_bits_and_stand_in_a_cookie() -> None:
    tokens = {make_token() for _ in range(100)}
    assert len(tokens) == 100 and all(len(token) == 43 and token.replace("-", "").replace("_", "").isalnum() for token in tokens)
