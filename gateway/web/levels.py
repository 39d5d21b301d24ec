"""Where the limits of a key stand, in words and as a share: for its owner's pages and for the public one."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.access import Key
from gateway.desk.desk import Desk
from gateway.limits import Level
from gateway.web.text import count, duration, had, size, spent, usd

# By the names of Terms.
TITLES = {
    "rpm": "Requests per minute",
    "tpm": "Tokens per minute",
    "concurrent": "Requests at one time",
    "requests_per_day": "Requests per day",
    "tokens_per_month": "Tokens per month",
    "spend_per_day_nanos": "Spending per day",
    "spend_per_month_nanos": "Spending per month",
    "spend_total_nanos": "Spending in all",
}
_PERIODS = {
    "requests_per_day": " today",
    "tokens_per_month": " this month",
    "spend_per_day_nanos": " today",
    "spend_per_month_nanos": " this month",
    "spend_total_nanos": " in all",
}
# From here on a meter warns, and the key is told to be near its limit: what is left may be less than a request needs.
NEAR_PERCENT = 95


@dataclass(frozen=True, slots=True)
class Meter:
    """`words` such as "$3.65 of $10.00 today"; `percent` of the limit is used or reserved, 100 at most. `terms` is the limit
    alone, in a few words. `resets_at_ms` None: it does not by itself."""

    name: str
    words: str
    terms: str
    percent: int
    left: int
    resets_at_ms: int | None
    resets_in_ms: int | None

    @property
    def title(self) -> str:
        return TITLES[self.name]

    @property
    def counts_a_period(self) -> bool:
        return self.name in _PERIODS

    @property
    def is_full(self) -> bool:
        return self.left <= 0

    @property
    def is_near(self) -> bool:
        return self.counts_a_period and self.percent >= NEAR_PERCENT

    @property
    def why_full(self) -> str:
        """What a key at this limit is told, without the moment when it starts anew."""
        if self.counts_a_period:
            return self.words
        if self.resets_in_ms is None:
            return f"{self.terms}, and as many are running"
        return f"{self.terms} used up, all free again in {duration(max(1_000, self.resets_in_ms))}"


def meters_of(desk: Desk, key: Key) -> list[Meter]:
    """Of every limit that the key (completed by its plan) has. On the loop: it asks what the walk counts with."""
    at_ms, now_ms = desk.clock.at_ms(), desk.clock.now_ms()
    return [_meter(level, at_ms) for level in desk.limits.levels(key.root_id, key.terms, at_ms, now_ms)]


def limit_words(name: str, value: int) -> str:
    """A limit by its name in Terms; 0 is none."""
    if not value:
        return "no limit"
    return usd(value) if name.endswith("_nanos") else count(value)


def _meter(level: Level, at_ms: int) -> Meter:
    taken = level.used + level.reserved
    resets_in_ms = None if level.resets_at_ms is None else level.resets_at_ms - at_ms
    return Meter(
        level.name,
        f"{_used(level)}{_PERIODS.get(level.name, '')}",
        _terms(level),
        min(100, taken * 100 // level.limit),
        level.limit - taken,
        level.resets_at_ms,
        resets_in_ms,
    )


def _used(level: Level) -> str:
    taken = level.used + level.reserved
    if level.name.endswith("_nanos"):
        return f"{spent(taken)} of {had(level.limit) if level.limit % 10_000_000 == 0 else usd(level.limit)}"
    noun = "token" if level.name in ("tpm", "tokens_per_month") else "request"
    return f"{count(taken)} of {count(level.limit)} {noun}{'' if level.limit == 1 else 's'}"


def _terms(level: Level) -> str:
    limit = level.limit
    return {
        "rpm": f"{count(limit)} a minute",
        "tpm": f"{size(limit)} tokens a minute",
        "concurrent": f"{count(limit)} at a time",
        "requests_per_day": f"{count(limit)} a day",
        "tokens_per_month": f"{size(limit)} tokens a month",
        "spend_per_day_nanos": f"{usd(limit)} a day",
        "spend_per_month_nanos": f"{usd(limit)} a month",
        "spend_total_nanos": f"{usd(limit)} in all",
    }[level.name]
