"""How provider accounts have stood and fared in the last 24 hours, read for people.

    events, starts of the process   →  a timeline of segments, one after another, without a gap
    attempts, hour by hour          →  figures; of an hour that is over they are read once and kept

At each moment one thing is said of an account, the first that is true: nobody was here to know, disabled, rejected, cooling (all
of it, or each of its models by itself), partly (some of its models cool), serving.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from gateway.storage.readonly import snapshot
from gateway.storage.upstream_events import Boot, Event, list_boots, list_events
from gateway.storage.upstream_figures import Figures, read_figures

HOUR_MS = 3_600_000
WINDOW_MS = 24 * HOUR_MS
# A request may run for long, and counts in the hour in which it began: an hour is kept once it has been over for as long.
LATE_MS = 2 * HOUR_MS

Stand = Literal["unknown", "down", "disabled", "rejected", "cooling", "partly", "serving"]


@dataclass(frozen=True, slots=True)
class Segment:
    """From when until when an account stood so, and for what (nothing while it served)."""

    stand: Stand
    from_ms: int
    to_ms: int
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Gap:
    """When nobody was here: the process was down, or (unknown) nobody took note yet."""

    from_ms: int
    to_ms: int
    stand: Stand


@dataclass(frozen=True, slots=True)
class History:
    """Events of all accounts, oldest first, the gaps between starts, and what came of requests since `figures_since_ms`."""

    events: tuple[Event, ...]
    gaps: tuple[Gap, ...]
    figures: dict[str, Figures]
    figures_since_ms: int

    def of(self, upstream: str) -> list[Event]:
        return [event for event in self.events if event.upstream == upstream]


class HourlyFigures:
    """What is read for the 24 whole hours before this one, and for this one so far."""

    def __init__(self) -> None:
        self._hours: dict[int, dict[str, Figures]] = {}

    def read(self, conn: sqlite3.Connection, now_ms: int) -> tuple[int, dict[str, Figures]]:
        """(since when, by upstream)"""
        since_ms = now_ms - now_ms % HOUR_MS - WINDOW_MS
        kept = {hour: figures for hour, figures in self._hours.items() if hour >= since_ms}
        total: dict[str, Figures] = {}
        for hour in range(since_ms, now_ms + 1, HOUR_MS):
            figures = kept[hour] if hour in kept else read_figures(conn, hour, hour + HOUR_MS)
            if hour + HOUR_MS + LATE_MS <= now_ms:
                kept[hour] = figures
            for upstream, each in figures.items():
                total.setdefault(upstream, Figures()).add(each)
        self._hours = kept
        return since_ms, total


def read_history(conn: sqlite3.Connection, hourly: HourlyFigures, now_ms: int) -> History:
    since_ms = now_ms - WINDOW_MS
    with snapshot(conn):
        events, boots = list_events(conn, since_ms), list_boots(conn, since_ms)
    figures_since_ms, figures = hourly.read(conn, now_ms)
    recent = (event for event in events if event.over_ms(now_ms) > since_ms)
    return History(tuple(recent), tuple(find_gaps(boots, since_ms)), figures, figures_since_ms)


def find_gaps(boots: Sequence[Boot], since_ms: int) -> list[Gap]:
    """Between the last sign of life of one start and the next start; before the first that left one nobody took note."""
    noted = [boot for boot in boots if boot.seen_at_ms is not None]
    if not noted:
        return []
    gaps = [Gap(since_ms, noted[0].started_at_ms, "unknown")] if noted[0].started_at_ms > since_ms else []
    for earlier, later in pairwise(noted):
        assert earlier.seen_at_ms is not None
        gaps.append(Gap(max(since_ms, earlier.seen_at_ms), later.started_at_ms, "down"))
    return [gap for gap in gaps if gap.to_ms > gap.from_ms]


def timeline(events: Sequence[Event], gaps: Sequence[Gap], models: int, since_ms: int, now_ms: int) -> list[Segment]:
    """An account's segments from then until now. `models`: how many it serves; where all of them cool, it does."""
    spans = [(max(since_ms, event.began_at_ms), min(now_ms, event.over_ms(now_ms)), event) for event in events]
    spans = sorted((span for span in spans if span[0] < span[1]), key=lambda span: -span[0])
    edges = {since_ms, now_ms, *(edge for span in spans for edge in span[:2])}
    edges |= {edge for gap in gaps for edge in (gap.from_ms, gap.to_ms) if since_ms <= edge <= now_ms}
    segments: list[Segment] = []
    current: list[tuple[int, int, Event]] = []
    for start, end in pairwise(sorted(edges)):
        while spans and spans[-1][0] <= start:
            current.append(spans.pop())
        current = [span for span in current if span[1] > start]
        missing = next((gap for gap in gaps if gap.from_ms <= start < gap.to_ms), None)
        stand, why = (missing.stand, ()) if missing else _stand([event for _, _, event in current], models)
        if segments and (segments[-1].stand, segments[-1].events) == (stand, why):
            start = segments.pop().from_ms
        segments.append(Segment(stand, start, end, why))
    return segments


def _stand(events: Sequence[Event], models: int) -> tuple[Stand, tuple[Event, ...]]:
    for stand in ("disabled", "rejected", "cooling"):
        whole = tuple(event for event in events if event.state == stand and not event.model)
        if whole:
            return whole[0].state, whole
    if not events:
        return "serving", ()
    resting = {event.model for event in events}
    return "cooling" if len(resting) >= models else "partly", tuple(events)
