"""Timelines: what the router's health did, told in segments that a restart does not forget."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.desk.upstream_events import KEPT_DAYS, SAME_MS
from gateway.desk.upstream_history import HOUR_MS, WINDOW_MS, Gap, HourlyFigures, find_gaps, read_history, timeline
from gateway.errors import HouseError
from gateway.health import Failure, Health
from gateway.house import House
from gateway.ids import lowest_id
from gateway.storage.database import open_reader, open_writer
from gateway.storage.migrate import migrate
from gateway.storage.upstream_events import Boot, Event
from gateway.storage.upstream_figures import percentile, read_figures
from tests.desk_tools import desk_house, make_ada, open_request, settle_request
from tests.fakes import FakeClock

MINUTE_MS = 60_000
NOW = 1_780_000_000_000


def segments(
    events: Sequence[Event], *, gaps: Sequence[Gap] = (), models: int = 2, now_ms: int = NOW
) -> list[tuple[str, float, float]]:
    """(stand, minutes ago, minutes ago)"""
    found = timeline(events, gaps, models, now_ms - WINDOW_MS, now_ms)
    # One after another, without a gap, from the window's start to now.
    assert found[0].from_ms == now_ms - WINDOW_MS and found[-1].to_ms == now_ms
    assert all(earlier.to_ms == later.from_ms for earlier, later in pairwise(found))
    return [(each.stand, (now_ms - each.from_ms) / MINUTE_MS, (now_ms - each.to_ms) / MINUTE_MS) for each in found]


def event(state: str, began: float, until: float | None = None, ended: float | None = None, *, model: str = "") -> Event:
    """Times in minutes ago."""
    moments = [None if minutes is None else NOW - int(minutes * MINUTE_MS) for minutes in (began, until, ended)]
    assert moments[0] is not None
    return Event("up", model, state, "limited", "rate_limited", moments[0], moments[1], moments[2])  # type: ignore[arg-type]


DAY = 1440.0
CASES = {
    "nothing": ([], [("serving", DAY, 0)]),
    "answered before its time was up": (
        [event("cooling", 60, 30, 45)],
        [("serving", DAY, 60), ("cooling", 60, 45), ("serving", 45, 0)],
    ),
    "over by time, answered long after": (
        [event("cooling", 60, 50, 10)],
        [("serving", DAY, 60), ("cooling", 60, 50), ("serving", 50, 0)],
    ),
    "over by time, nobody has asked since": (
        [event("cooling", 60, 50)],
        [("serving", DAY, 60), ("cooling", 60, 50), ("serving", 50, 0)],
    ),
    "cooling now": ([event("cooling", 5, -10)], [("serving", DAY, 5), ("cooling", 5, 0)]),
    "rejected stays so when its time is up": ([event("rejected", 60, 50)], [("serving", DAY, 60), ("rejected", 60, 0)]),
    "since before the window": ([event("disabled", 5000)], [("disabled", DAY, 0)]),
    "ended before the window": ([event("cooling", 3000, 2000, 2000)], [("serving", DAY, 0)]),
    "one of two models": (
        [event("cooling", 60, 30, 30, model="a")],
        [("serving", DAY, 60), ("partly", 60, 30), ("serving", 30, 0)],
    ),
    "both models, one longer": (
        [event("cooling", 60, 30, model="a"), event("cooling", 50, 40, model="b")],
        [("serving", DAY, 60), ("partly", 60, 50), ("cooling", 50, 40), ("partly", 40, 30), ("serving", 30, 0)],
    ),
    "the account within a model's": (
        [event("cooling", 60, 30, model="a"), event("cooling", 50, 40), event("rejected", 45, 42, 42)],
        [
            *(("serving", DAY, 60), ("partly", 60, 50), ("cooling", 50, 45), ("rejected", 45, 42), ("cooling", 42, 40)),
            *(("partly", 40, 30), ("serving", 30, 0)),
        ],
    ),
}


@pytest.mark.parametrize("events,expected", CASES.values(), ids=CASES)
def test_segments(events: list[Event], expected: list[tuple[str, float, float]]) -> None:
    assert segments(events) == expected


def test_while_nobody_was_here_nothing_is_said() -> None:
    def boot(started: float, seen: float | None) -> Boot:
        return Boot(NOW - int(started * MINUTE_MS), None if seen is None else NOW - int(seen * MINUTE_MS))

    since_ms = NOW - WINDOW_MS
    gaps = find_gaps([boot(5000, 100), boot(90, 0)], since_ms)
    assert segments([event("cooling", 120, 60, 100)], gaps=gaps) == [
        *(("serving", DAY, 120), ("cooling", 120, 100), ("down", 100, 90), ("serving", 90, 0))
    ]
    # A release that took no note came before.
    assert segments([], gaps=find_gaps([boot(5000, None), boot(60, 0)], since_ms)) == [("unknown", DAY, 60), ("serving", 60, 0)]
    assert segments([], gaps=find_gaps([boot(30, 0)], since_ms)) == [("unknown", DAY, 30), ("serving", 30, 0)]
    assert find_gaps([boot(5000, 0)], since_ms) == find_gaps([], since_ms) == []


def fail(
    health: Health, clock: FakeClock, cause: str, model: str = "m", retry_ms: int | None = None, upstream: str = "demo"
) -> None:
    reason = {"limited": "rate_limited", "secret": "secret_refused", "connect": "connect", "no_model": "model_not_found"}[cause]
    health.failed(upstream, model, Failure(cause, reason, "c", 1, retry_ms), clock.now_ms())  # type: ignore[arg-type]


def answer(health: Health, clock: FakeClock, model: str = "m") -> None:
    health.succeeded("demo", model, clock.now_ms())


def told(house: House, clock: FakeClock) -> list[tuple[str, str, str, int, float, float | None]]:
    """(state, cause, model, rests, began, over) of all that is on disk, in minutes since the fake clock's start."""
    conn = open_reader(house.database)
    try:
        history = read_history(conn, HourlyFigures(), clock.at_ms())
    finally:
        conn.close()

    def minutes(at_ms: int) -> float:
        return (at_ms - START) / MINUTE_MS

    return [
        (each.state, each.cause, each.model, each.rests, minutes(each.began_at_ms), minutes(each.over_ms(clock.at_ms())))
        for each in history.events
    ]


START = FakeClock().at_ms()


async def test_a_storm_is_told_as_it_was_and_a_restart_forgets_nothing(tmp_path: Path) -> None:
    clock = FakeClock()
    async with desk_house(tmp_path, clock) as house:
        health, events = house.walk.router._health, house.desk.upstream_events
        clock.advance(10 * MINUTE_MS)
        fail(health, clock, "limited", retry_ms=20 * MINUTE_MS)
        clock.advance(5 * MINUTE_MS)
        answer(health, clock)  # asked as the last resort
        clock.advance(SAME_MS)
        fail(health, clock, "limited", retry_ms=2 * MINUTE_MS)  # not back for a minute: the same
        clock.advance(60 * MINUTE_MS)
        fail(health, clock, "connect")  # all of the account, 5 s
        clock.advance(5_000)
        fail(health, clock, "connect")  # 10 s
        clock.advance(10_000)
        answer(health, clock)
        await events.flush()
        clock.advance(MINUTE_MS)
        fail(health, clock, "secret")
        expected = [
            ("cooling", "limited", "m", 2, 10, 18),
            ("cooling", "connect", "", 2, 76, 76.25),
        ]
        assert told(house, clock) == expected  # the last is only in memory yet
        await events.catch_up(1)
        clock.advance(30 * MINUTE_MS)
        assert told(house, clock) == [*expected, ("rejected", "secret", "", 1, 77.25, 107.25)]
    clock.advance(15 * MINUTE_MS)
    async with desk_house(tmp_path, clock) as house:
        # It ended with the process that knew it.
        assert told(house, clock) == [*expected, ("rejected", "secret", "", 1, 77.25, 107.25)]
        conn = open_reader(house.database)
        history = read_history(conn, HourlyFigures(), clock.at_ms())
        conn.close()
        shown = [
            (each.stand, (each.from_ms - START) / MINUTE_MS)
            for each in timeline(history.of("demo"), history.gaps, 5, START, clock.at_ms())
        ]
        assert shown == [
            *(("serving", 0), ("partly", 10), ("serving", 18), ("cooling", 76), ("serving", 76.25), ("rejected", 77.25)),
            ("down", 107.25),
        ]
        assert (await house.desk.upstreams.test("demo"))["ok"]


async def test_what_was_noted_while_the_disk_was_in_trouble_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    async with desk_house(tmp_path, clock) as house:
        health, events = house.walk.router._health, house.desk.upstream_events

        async def refuse(job: object) -> None:
            raise HouseError("unavailable", "the disk is full")

        fail(health, clock, "no_model", model="n")
        fail(health, clock, "connect")
        with monkeypatch.context() as trouble:
            trouble.setattr(house.writer, "run", refuse)
            await events.catch_up(1)
        clock.advance(1_000)
        answer(health, clock)
        await events.flush()
        await events.flush()
        assert told(house, clock) == [("cooling", "no_model", "n", 1, 0, 0.5), ("cooling", "connect", "", 1, 0, 1 / 60)]


async def test_a_rest_that_grows_is_one_and_a_new_account_begins_anew(tmp_path: Path) -> None:
    clock = FakeClock()
    async with desk_house(tmp_path, clock) as house:
        health, events = house.walk.router._health, house.desk.upstream_events
        fail(health, clock, "limited", retry_ms=MINUTE_MS)
        clock.advance(1_000)
        late = Failure("limited", "rate_limited", "c", 1, 10 * MINUTE_MS, asked_ms=clock.now_ms() - 2_000)
        assert health.failed("demo", "m", late, clock.now_ms()) is None
        fail(health, clock, "no_model", model="n")
        clock.advance(MINUTE_MS)
        health.forget("demo")
        await events.flush()
        assert told(house, clock) == [
            ("cooling", "limited", "m", 1, 0, 61 / 60),
            ("cooling", "no_model", "n", 1, 1 / 60, 31 / 60),
        ]


async def test_who_is_disabled_is_from_the_start_or_a_reload_on_and_old_events_are_forgotten(tmp_path: Path) -> None:
    clock = FakeClock()
    async with desk_house(tmp_path, clock) as house:
        health, events = house.walk.router._health, house.desk.upstream_events
        fail(health, clock, "limited")
        events.declare([("demo", False), ("other", True)])
        clock.advance(30 * MINUTE_MS)
        answer(health, clock)
        events.declare([("demo", True), ("other", False)])
        await events.flush()
        clock.advance(MINUTE_MS)
        assert told(house, clock) == [
            *(("cooling", "limited", "m", 1, 0, 0.5), ("disabled", "", "", 1, 0, 30), ("disabled", "", "", 1, 30, 31)),
        ]
        clock.advance((KEPT_DAYS + 1) * 86_400_000)
        await events.keep()
        assert [each[0] for each in told(house, clock)] == ["disabled"]


async def test_figures_are_those_of_the_attempts_whatever_hours_are_kept(tmp_path: Path) -> None:
    clock = FakeClock()
    async with desk_house(tmp_path, clock) as house:
        ada = await make_ada(house, "1000")
        hourly = HourlyFigures()
        for _ in range(30):
            await settle_request(house, *await open_request(house, ada["secret"]))
            clock.advance(HOUR_MS)
            conn = open_reader(house.database)
            since_ms, figures = hourly.read(conn, clock.at_ms())
            whole = read_figures(conn, since_ms, clock.at_ms() + 1)
            (sums,) = conn.execute(
                "select count(*), sum(cost_nanos) from attempts where request_id >= ?", (lowest_id(since_ms),)
            ).fetchall()
            conn.close()
            assert figures == whole
            assert (sum(each.requests for each in figures.values()), sum(each.cost_nanos for each in figures.values())) == sums
            assert figures["first"].failed == figures["first"].requests and figures["demo"].failed == 0
            # Streams of 20 ms to the first event, 30 ms in all; what failed says nothing of how long answers take.
            answered = figures["demo"].requests
            assert figures["demo"].first_byte == {20: answered} and figures["demo"].whole == {30: answered}
            assert not figures["first"].first_byte and not figures["first"].whole
        assert since_ms == clock.at_ms() - clock.at_ms() % HOUR_MS - WINDOW_MS


def test_percentiles() -> None:
    counts = {10: 50, 20: 45, 300: 5}
    assert [percentile(counts, share) for share in (0.5, 0.51, 0.95, 0.96, 1)] == [10, 20, 20, 300, 300]
    assert percentile({}, 0.5) is None


ATTEMPTS = [
    ("ok", 200, False),
    ("gone", 200, False),
    ("client_gone", None, False),
    ("dry", 200, False),
    ("shutdown", 200, False),
    ("invalid_request_error", 400, False),
    ("too_long_prompt", 413, False),
    ("not_found", 404, False),
    ("model_not_found", 404, True),
    ("secret_refused", 401, True),
    ("rate_limited", 429, True),
    ("status_529", 529, True),
    ("connect", None, True),
    ("cut", 200, True),
    ("silent", 200, True),
    ("stream_error:overloaded_error", 200, True),
]


def test_what_counts_as_a_providers_failure(tmp_path: Path) -> None:
    conn = open_writer(tmp_path / "pagegrid.db")
    migrate(conn, tmp_path / "pagegrid.db")
    conn.execute("pragma foreign_keys = off")
    for number, (reason, status, _) in enumerate(ATTEMPTS, 1):
        row = (lowest_id(1000) + number, reason, reason, status)
        conn.execute(
            """
            insert into attempts
              (request_id, number, upstream, upstream_model, reason, status, started_at_ms, duration_ms, cost_nanos)
            values (?, 1, ?, 'm', ?, ?, 1, 1, 0)
            """,
            row,
        )
    figures = read_figures(conn, 1000, 1001)
    assert {reason: each.failed for reason, each in figures.items()} == {reason: failed for reason, _, failed in ATTEMPTS}
    assert not read_figures(conn, 1001, 2000)
    conn.close()
