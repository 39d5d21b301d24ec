"""What is limited over calendar periods, and when each begins. Days and months are UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Terms:
    """What a key may do; 0 is unlimited. Tokens are input + cache writes + output, not cache reads; days and months are UTC."""

    rpm: int = 0
    tpm: int = 0
    concurrent: int = 0
    requests_per_day: int = 0
    tokens_per_month: int = 0
    spend_per_day_nanos: int = 0
    spend_per_month_nanos: int = 0
    spend_total_nanos: int = 0

    @property
    def need_history(self) -> bool:
        """Whether what was used before this start counts."""
        return any(getattr(self, window.name) for window in WINDOWS)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a key used on one UTC day (days since 1970) before this start."""

    day: int
    requests: int
    tokens: int
    nanos: int


@dataclass(frozen=True, slots=True)
class Window:
    """One limit that counts over a calendar period: the name in Terms, and what it counts."""

    name: str
    period: Literal["day", "month", "ever"]
    unit: Literal["requests", "tokens", "nanos"]


WINDOWS = (
    Window("requests_per_day", "day", "requests"),
    Window("tokens_per_month", "month", "tokens"),
    Window("spend_per_day_nanos", "day", "nanos"),
    Window("spend_per_month_nanos", "month", "nanos"),
    Window("spend_total_nanos", "ever", "nanos"),
)


def period_of(window: Window, day: int, month: int) -> int:
    return day if window.period == "day" else month if window.period == "month" else 0


def day_and_month(at_ms: int) -> tuple[int, int]:
    """Days since 1970 and months since the year 0, UTC."""
    day = at_ms // DAY_MS
    return day, _month_of(day)


@lru_cache(maxsize=64)
def _month_of(day: int) -> int:
    date = datetime.fromtimestamp(day * DAY_MS // 1000, UTC)
    return date.year * 12 + date.month - 1


def resets_at_ms_of(window: Window, at_ms: int) -> int | None:
    day, month = day_and_month(at_ms)
    if window.period == "day":
        return (day + 1) * DAY_MS
    if window.period == "month":
        year, index = divmod(month + 1, 12)
        return int(datetime(year, index + 1, 1, tzinfo=UTC).timestamp()) * 1000
    return None
