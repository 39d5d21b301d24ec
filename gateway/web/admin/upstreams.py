"""/admin/upstreams: how each provider account stands, why and until when, and how it has fared in the last 24 hours.

State and load are the router's, of this moment; the timeline and its events are remembered (desk/upstream_events.py); figures
come from the detail of requests, by whole hours. Nothing can be switched here: accounts are declared in the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway.desk.acts import perform
from gateway.desk.upstream_history import HOUR_MS, WINDOW_MS, History, Segment, read_history, timeline
from gateway.errors import ClientError
from gateway.storage.upstream_events import Event
from gateway.storage.upstream_figures import Figures, percentile
from gateway.web.page import Page, Route
from gateway.web.standing import STATES, account_state, find_stranded, reason_words
from gateway.web.text import clock, duration

PATH = "/admin/upstreams"
# A page does not wait longer for what became of accounts a moment ago to be on disk.
CATCH_UP_S = 1
EVENTS_SHOWN = 50
# A clock that is off by more makes bills and limits hard to lay side by side.
CLOCK_S_MAX = 30
# Narrower than this share of the timeline nobody sees anything.
NARROWEST_PERCENT = 0.6

_KINDS = {"anthropic": "Anthropic", "openai": "OpenAI", "demo": "Demo"}
_STANDS = {
    **{state: word for state, (_, _, word) in STATES.items()},
    "partly": "Some models cooling",
    "down": "Not running",
    "unknown": "Not recorded",
}
# (top, height) of a segment; the rest is the class of the same name.
_SHAPES = {
    "serving": (3, 20),
    "cooling": (7, 12),
    "partly": (15, 8),
    "rejected": (3, 20),
    "disabled": (12, 2),
    "down": (12, 1),
    "unknown": (12, 1),
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One piece of the timeline as it is drawn, in percent of its width and in pixels, with what it says."""

    css: str
    x: str
    width: str
    y: int
    height: int
    title: str


@dataclass(frozen=True, slots=True)
class Account:
    """`shown` is what the desk says of it; `events` are the latest first; `until_ms` and `since_ms` are of the state now."""

    shown: dict[str, Any]
    state: str
    reason: str
    since_ms: int | None
    until_ms: int | None
    asked_ms: int | None
    resting: tuple[dict[str, Any], ...]
    figures: Figures
    bars: tuple[Bar, ...]
    told: str
    events: tuple[Event, ...]

    @property
    def kind(self) -> str:
        return _KINDS[self.shown["kind"]]

    @property
    def first_byte(self) -> tuple[int | None, int | None]:
        """p50 and p95 of streams, in ms."""
        return percentile(self.figures.first_byte, 0.5), percentile(self.figures.first_byte, 0.95)

    @property
    def whole(self) -> tuple[int | None, int | None]:
        return percentile(self.figures.whole, 0.5), percentile(self.figures.whole, 0.95)

    @property
    def succeeded(self) -> float | None:
        """The share that the provider did not fail; None of no requests."""
        requests = self.figures.requests
        return (requests - self.figures.failed) / requests if requests else None


async def show_upstreams(page: Page) -> None:
    desk = page.desk
    await desk.upstream_events.catch_up(CATCH_UP_S)
    now_ms = page.now_ms
    shown = desk.upstreams.show()

    def read(conn: Any) -> tuple[History, list[Account]]:
        history = read_history(conn, desk.upstream_figures, now_ms)
        return history, [_account(each, history, now_ms) for each in shown]

    history, accounts = await page.look(read)
    counts = {state: sum(account.state == state for account in accounts) for state in STATES}
    await page.show(
        "admin/upstreams.html",
        accounts=accounts,
        counts=counts,
        stranded=find_stranded(page.house.walk, shown),
        states=STATES,
        ticks=_ticks(now_ms),
        since_ms=now_ms - WINDOW_MS,
        figures_since_ms=history.figures_since_ms,
        gaps=history.gaps,
        reason_words=reason_words,
        events_shown=EVENTS_SHOWN,
    )


async def test_all(page: Page) -> None:
    results = await perform(page.desk, page.actor, "upstreams.test", {})
    failed = [_told(result) for result in results if not result["ok"]]
    passed = len(results) - len(failed)
    await page.go(PATH, f"{passed} of {len(results)} passed the test. {' '.join(failed)}".strip(), "bad" if failed else "ok")


async def test_one(page: Page) -> None:
    name = page.request.match_info["upstream"]
    try:
        (result,) = await perform(page.desk, page.actor, "upstreams.test", {"name": name})
    except ClientError as error:
        if error.code == "not_found":
            raise ClientError("not_found", "There is no upstream of this name; the configuration may have changed.") from None
        await page.go(PATH, f"{name} was not tested: {error.message}.", "warn")
        return
    await page.go(PATH, _told(result), "ok" if result["ok"] else "bad")


ROUTES = (
    Route(PATH, "admin/upstreams", "admin", get=show_upstreams),
    Route(f"{PATH}/test", "admin/upstreams/test", "admin", post=test_all),
    Route(f"{PATH}/{{upstream}}/test", "admin/upstreams/test-one", "admin", post=test_one),
)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _told(result: dict[str, Any]) -> str:
    """What a test came to, in a sentence."""
    name, took = result["name"], duration(result["ms"])
    status = f"status {result['status']}, " if result["status"] is not None else ""
    if not result["ok"]:
        return f"{name} failed the test: {status}{reason_words(result['detail'])}, after {took}."
    ahead_s = result["ahead_s"] or 0
    clocks = f" This machine's clock is {duration(abs(ahead_s) * 1000)} {'ahead of' if ahead_s > 0 else 'behind'} the provider's."
    return f"{name} was reached with its key: {status}{took}.{clocks if abs(ahead_s) > CLOCK_S_MAX else ''}"


def _account(shown: dict[str, Any], history: History, now_ms: int) -> Account:
    events = history.of(shown["name"])
    segments = timeline(events, history.gaps, max(1, shown["models"]), now_ms - WINDOW_MS, now_ms)
    stand = account_state(shown)
    open_events = {event.model: event for event in events if event.ended_at_ms is None and event.over_ms(now_ms) >= now_ms}
    # All of its models may cool one by one: the first that is back ends it.
    why = open_events.get("") or min(open_events.values(), key=lambda event: event.until_ms or 0, default=None)
    return Account(
        shown=shown,
        state=stand.state,
        reason=reason_words(stand.reason),
        since_ms=why.began_at_ms if why and stand.state != "serving" else None,
        until_ms=now_ms + stand.seconds_left * 1000 if stand.seconds_left else None,
        asked_ms=why.asked_ms if why and stand.state == "cooling" else None,
        resting=tuple(each for each in shown["resting_models"] if each["seconds_left"]) if stand.state == "serving" else (),
        figures=history.figures.get(shown["name"], Figures()),
        bars=tuple(_bars(segments, now_ms)),
        told=_in_words(segments, now_ms),
        events=tuple(sorted(events, key=lambda event: -event.began_at_ms)),
    )


def _bars(segments: Sequence[Segment], now_ms: int) -> list[Bar]:
    """What is drawn: the same stands that lie closer than anybody could see them apart are one piece, and none is too narrow."""
    start_ms = now_ms - WINDOW_MS
    bars = []
    for group in _joined(segments):
        top, height = _SHAPES[group[0].stand]
        x = (group[0].from_ms - start_ms) / WINDOW_MS * 100
        width = max(NARROWEST_PERCENT, (group[-1].to_ms - group[0].from_ms) / WINDOW_MS * 100)
        x = min(x, 100 - width)
        bars.append(Bar(group[0].stand, f"{x:.2f}%", f"{width:.2f}%", top, height, _title(group, now_ms)))
        if group[0].stand == "partly":  # the others serve behind it
            bars.append(replace(bars[-1], css="serving", y=_SHAPES["serving"][0], height=_SHAPES["serving"][1]))
    # What is not quiet is drawn over what is, which it may have been widened into.
    return sorted(bars, key=lambda bar: bar.css != "serving")


def _joined(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Serving segments one by one; of the others those of one stand with less than the narrowest piece between them together."""
    groups: list[list[Segment]] = []
    last: dict[str, list[Segment]] = {}
    for segment in segments:
        group = last.get(segment.stand)
        if segment.stand != "serving" and group and segment.from_ms - group[-1].to_ms < WINDOW_MS * NARROWEST_PERCENT / 100:
            group.append(segment)
            continue
        if segment.stand == "serving" and groups and segment.to_ms - segment.from_ms < WINDOW_MS * NARROWEST_PERCENT / 100:
            continue
        last[segment.stand] = [segment]
        groups.append(last[segment.stand])
    return groups


def _title(group: Sequence[Segment], now_ms: int) -> str:
    first, last = group[0], group[-1]
    end = "now" if last.to_ms == now_ms else clock(last.to_ms)
    reasons = dict.fromkeys(reason_words(event.reason) for segment in group for event in segment.events if event.reason)
    times = f", {len(group)} times" if len(group) > 1 else ""
    return f"{_STANDS[first.stand]} {clock(first.from_ms)}–{end}{times}{': ' if reasons else ''}{'; '.join(reasons)}"


def _in_words(segments: Sequence[Segment], now_ms: int) -> str:
    """What the timeline shows, for whoever does not see it."""
    others = [_title(group, now_ms) for group in _joined(segments) if group[0].stand != "serving"]
    if not others:
        return "serving all the time"
    more = f"; and {len(others) - 5} more" if len(others) > 5 else ""
    served = any(segment.stand == "serving" for segment in segments)
    return f"{'serving, but: ' if served else ''}{'; '.join(others[:5])}{more}"


def _ticks(now_ms: int) -> list[tuple[str, str]]:
    """(place in percent, words) of every sixth hour that has room between both ends."""
    start_ms = now_ms - WINDOW_MS
    first = start_ms - start_ms % (6 * HOUR_MS) + 6 * HOUR_MS
    places = [(at_ms, (at_ms - start_ms) / WINDOW_MS * 100) for at_ms in range(first, now_ms, 6 * HOUR_MS)]
    return [(f"{x:.1f}%", "midnight" if clock(at_ms) == "00:00" else clock(at_ms)) for at_ms, x in places if 20 < x < 88]
