"""What a user sees first: what they have and how long it lasts, today and this month, by day, by key, by session, and the latest.

    standing_of       the wallet in the book, at one moment, with what holds its money; on the loop
    read_figures      by day, how long the money lasts, the latest requests
    read_shares       where the month went

Days are UTC days, by the time of the settle; sums are those of GET /v1/usage, from the same roll-ups. What the cache saved is an
estimate of its own: cache reads × (input price − cache-read price), at the list of the price in force (`sum_cache`), without what
long prompts, fast mode or batches change, so that it needs no look at each request.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gateway.book import Book
from gateway.pricing import Price, parse_terms, scale
from gateway.storage import overview, reports, requests
from gateway.storage.keys import list_keys
from gateway.storage.readonly import snapshot
from gateway.storage.reports import Range
from gateway.storage.retention import detail_from_ms
from gateway.storage.rollups import DAY_MS, HOUR_MS, OWN_MEASURES

DAYS = 30
BURN_DAYS = 7
LATEST = 8
RUNNING = 8
KEYS, SESSIONS = 5, 5
# Days × models of one user; far more than there are.
_GROUPS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Standing:
    """balance − held = available. `holds` is what each running request holds, by its id."""

    balance_nanos: int
    held_nanos: int
    owed_nanos: int
    frozen: bool
    holds: Mapping[int, int]

    @property
    def available_nanos(self) -> int:
        return self.balance_nanos - self.held_nanos


@dataclass(frozen=True, slots=True)
class Sums:
    """Of some days: the measures of reports, and what the cache was worth in them."""

    measures: Mapping[str, int]
    saved_nanos: int
    # What writing to the cache cost more than the same tokens as plain input.
    write_extra_nanos: int

    @property
    def requests(self) -> int:
        return self.measures["requests"]

    @property
    def cost_nanos(self) -> int:
        return self.measures["cost_nanos"]

    @property
    def cache_write_tokens(self) -> int:
        return self.measures["cache_write_5m_tokens"] + self.measures["cache_write_1h_tokens"]

    @property
    def prompt_tokens(self) -> int:
        return self.measures["input_tokens"] + self.measures["cache_read_tokens"] + self.cache_write_tokens

    @property
    def cache_share(self) -> float:
        return self.measures["cache_read_tokens"] / self.prompt_tokens if self.prompt_tokens else 0.0


@dataclass(frozen=True, slots=True)
class Burn:
    """What a day costs, and over how many days up to now that is the mean: as many whole ones as there are, at most BURN_DAYS."""

    nanos_per_day: int
    days: int


@dataclass(frozen=True, slots=True)
class Figures:
    """`days` are those of `DAYS` and of the month, each with its costs by model; `first_at_ms` None: nothing was ever settled;
    `running` are the latest of those that run, `latest` those that ended, charged or not."""

    now_ms: int
    days: tuple[int, ...]
    by_day: Mapping[int, Sums]
    models: Mapping[int, Mapping[str, int]]
    first_at_ms: int | None
    burn: Burn
    topped_up: tuple[int, int] | None
    running: list[dict[str, Any]]
    latest: list[dict[str, Any]]

    @property
    def today_ms(self) -> int:
        return self.days[-1]

    @property
    def month_ms(self) -> int:
        return _month_ms(self.now_ms)

    @property
    def nothing_yet(self) -> bool:
        """Of an account that has just been made."""
        return self.first_at_ms is None and not self.latest

    @property
    def today(self) -> Sums:
        return self.by_day[self.today_ms]

    @property
    def month(self) -> Sums:
        return add_up([self.by_day[day] for day in self.days if day >= self.month_ms])


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the month: the dearest keys and sessions; sessions from `sessions_from_ms` on, if older detail is gone."""

    keys: list[dict[str, Any]]
    sessions: list[dict[str, Any]]
    sessions_from_ms: int | None
    has_key: bool


def standing_of(book: Book, wallet_id: int) -> Standing:
    wallet = book.wallet(wallet_id)
    holds = {hold.id: hold.amount_nanos for hold in book.open_holds() if hold.wallet_id == wallet_id}
    return Standing(wallet.balance_nanos, wallet.held_nanos, wallet.owed_nanos, wallet.frozen, holds)


def read_figures(conn: sqlite3.Connection, wallet_id: int, standing: Standing, now_ms: int) -> Figures:
    today_ms = now_ms - now_ms % DAY_MS
    days = tuple(range(min(today_ms - (DAYS - 1) * DAY_MS, _month_ms(now_ms)), today_ms + DAY_MS, DAY_MS))
    asked = Range(days[0], today_ms + DAY_MS, wallet_id)
    with snapshot(conn):
        groups, _ = reports.sum_usage(conn, asked, ("day", "model"), limit=_GROUPS_MAX)
        cache = overview.sum_cache(conn, wallet_id, days)
        first_at_ms = overview.first_usage_at_ms(conn, wallet_id)
        burn = _burn(conn, wallet_id, first_at_ms, now_ms)
        topped_up = overview.last_top_up(conn, wallet_id, now_ms)
        running = overview.list_running(conn, wallet_id, standing.holds)
        latest = requests.list_requests(conn, asked, None, running=False, limit=LATEST).rows
    # What ended since the book was asked stands among the latest.
    ended = {row["request_id"] for row in latest}
    running = [{**row, "held_nanos": standing.holds[row["request_id"]]} for row in running if row["request_id"] not in ended]
    models: dict[int, dict[str, int]] = {day: {} for day in days}
    measures = {day: dict.fromkeys(OWN_MEASURES, 0) for day in days}
    for row, _ in groups:
        day = row["day_at_ms"]
        models[day][row["model"]] = row["cost_nanos"]
        for name in OWN_MEASURES:
            measures[day][name] += row[name]
    worth = _cache_worth(cache)
    return Figures(
        now_ms=now_ms,
        days=days,
        by_day={day: Sums(measures[day], *worth.get(day, (0, 0))) for day in days},
        models=models,
        first_at_ms=first_at_ms,
        burn=burn,
        topped_up=topped_up,
        running=running[:RUNNING],
        latest=latest,
    )


def read_shares(conn: sqlite3.Connection, user_id: int, wallet_id: int, now_ms: int) -> Shares:
    month_ms, end_ms = _month_ms(now_ms), now_ms - now_ms % DAY_MS + DAY_MS
    with snapshot(conn):
        keys = reports.dearest(conn, Range(month_ms, end_ms, wallet_id), "key", limit=KEYS)
        # What is being pruned is not told in part.
        from_ms = max(month_ms, detail_from_ms(conn))
        sessions = reports.dearest(conn, Range(min(from_ms, end_ms), end_ms, wallet_id), "session", limit=SESSIONS)
        alive = [key for key, _ in list_keys(conn, user_id) if key.dead_at_ms is None or key.dead_at_ms > now_ms]
    return Shares(keys, sessions, from_ms if from_ms > month_ms else None, bool(alive))


def add_up(parts: Sequence[Sums]) -> Sums:
    return Sums(
        {name: sum(part.measures[name] for part in parts) for name in OWN_MEASURES},
        sum(part.saved_nanos for part in parts),
        sum(part.write_extra_nanos for part in parts),
    )


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _month_ms(now_ms: int) -> int:
    first = datetime.fromtimestamp(now_ms / 1000, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return int(first.timestamp()) * 1000


def _burn(conn: sqlite3.Connection, wallet_id: int, first_at_ms: int | None, now_ms: int) -> Burn:
    """The last hour counts whole: it has just begun."""
    if first_at_ms is None:
        return Burn(0, BURN_DAYS)
    days = max(1, min(BURN_DAYS, (now_ms - first_at_ms) // DAY_MS))
    end_ms = now_ms - now_ms % HOUR_MS + HOUR_MS
    _, total = reports.sum_usage(conn, Range(end_ms - days * DAY_MS, end_ms, wallet_id), ("model",), limit=0)
    return Burn(total["cost_nanos"] // days, days)


def _cache_worth(uses: Sequence[overview.CacheUse]) -> dict[int, tuple[int, int]]:
    """(saved, extra) nanos by day."""
    prices: dict[str, Price] = {}
    worth: dict[int, tuple[int, int]] = {}
    for use in uses:
        if use.terms not in prices:
            prices[use.terms] = parse_terms(use.terms)
        price = prices[use.terms]
        rates = price.rates
        # Rounded downwards: nobody is told of a saving that is not there.
        saved = -scale(-use.read_tokens * (rates.input - rates.cache_read), price.factors)
        write_5m = use.write_5m_tokens * (rates.cache_write_5m - rates.input)
        write_1h = use.write_1h_tokens * (rates.cache_write_1h - rates.input)
        extra = scale(write_5m + write_1h, price.factors)
        before = worth.get(use.day_at_ms, (0, 0))
        worth[use.day_at_ms] = (before[0] + saved, before[1] + extra)
    return worth
