"""What this process has counted, and the alarm bell.

Whoever knows that something happened says so here, in one line: a look-up and an addition of whole numbers, on the loop (what
the writer says, it says on its thread, about numbers of its own). Nothing is rendered until somebody asks: `api/metrics.py`.

Labels come from short lists: what the configuration names (upstreams, models), codes, statuses and reasons of our own. Never a
key, a user, a session, or a text that a client or a provider chose: the number of series is bounded by the configuration. All
counts begin anew with the process.

An alarm is a counter, a line at level CRITICAL, and nothing else: what rings must be seen by an operator, not by a client.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

from gateway.usage import Usage

logger = logging.getLogger("gateway.alarm")

Alarm = Literal["audit", "forgotten_hold", "freeze", "ledger", "overrun", "rollups", "upstream", "writer"]
# Those that are known before they are hit: a rate can only be taken of a count that was seen at 0.
LIMITS = (
    *("rpm", "tpm", "concurrent", "requests_per_day", "tokens_per_month"),
    *("spend_per_day", "spend_per_month", "spend_total", "count_tokens"),
)

# From a probe that is answered at once to the longest stream; one list for all waits, so that they can be laid side by side.
DURATIONS_MS = (
    *(5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000),
    *(20_000, 30_000, 60_000, 120_000, 300_000, 600_000, 3_600_000),
)


class Histogram:
    """How many values were up to each of `bounds`, and beyond the last; and their sum. Whole numbers in one unit."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[int]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0

    def observe(self, value: int) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Durations(dict[tuple[str, ...], Histogram]):
    """Histograms of milliseconds by two labels, made when first used."""

    def __missing__(self, labels: tuple[str, ...]) -> Histogram:
        histogram = self[labels] = Histogram(DURATIONS_MS)
        return histogram


class Served:
    """What one model at one upstream came to: tokens by price class, and money in nanos.

    `revenue_nanos` is what was charged, `cost_nanos` what the provider bills for it at list price.
    """

    __slots__ = (
        *("input", "output", "cache_write_5m", "cache_write_1h", "cache_read"),
        *("web_searches", "revenue_nanos", "cost_nanos"),
    )
    TOKENS = __slots__[:5]

    def __init__(self) -> None:
        self.input = self.output = self.cache_write_5m = self.cache_write_1h = self.cache_read = 0
        self.web_searches = self.revenue_nanos = self.cost_nanos = 0


started_at_ms = time.time_ns() // 1_000_000

# By name, whatever stands alone; alarms as `alarm_<name>`.
counters: Counter[str] = Counter({f"alarm_{name}": 0 for name in get_args(Alarm)})
limits_hit: Counter[str] = Counter(dict.fromkeys(LIMITS, 0))
notices: Counter[str] = Counter(dict.fromkeys(("told", "delivered", "failed"), 0))

requests: Counter[tuple[str, str, str]] = Counter()  # endpoint, status, error
request_ms = Durations()  # endpoint, stream
first_byte_ms = Durations()  # model, stream
settled_requests: Counter[tuple[str, str, str]] = Counter()  # upstream, source, ended
void_requests: Counter[str] = Counter()  # reason
served: dict[tuple[str, str], Served] = {}  # model, upstream

attempts: Counter[tuple[str, str]] = Counter()  # upstream, reason
attempt_ms = Durations()  # upstream, stream

writer_batch_rows = Histogram((1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048))
writer_commit_us = Histogram((250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000))
loop_lag_ms = Histogram((1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000))

# By scope: when the last audit ran, and how many invariants it found broken.
audits: dict[Literal["whole", "recent"], tuple[int, int]] = {}
# By name: how often it is done (seconds), when it last ended (None: not yet), and whether it ended well.
chores: dict[str, tuple[float, int | None, bool]] = {}

_YES_NO = ("no", "yes")


def alarm(name: Alarm, message: str) -> None:
    """Ring: `name` is the counter (`alarm_<name>`), `message` the line for the operator; no secrets, no bodies."""
    counters["alarm_" + name] += 1
    logger.critical("%s: %s", name, message)


def answered(endpoint: str, status: int, error: str, stream: bool, total_ms: int) -> None:
    """A request was answered, well or not. `error` is the code it was refused or broken off with, if any."""
    requests[endpoint, str(status), error] += 1
    request_ms[endpoint, _YES_NO[stream]].observe(total_ms)


def attempted(upstream: str, reason: str, stream: bool, duration_ms: int) -> None:
    """An upstream was asked; the time to its answer counts if it gave one (a quick refusal would look like a quick answer)."""
    attempts[upstream, _plain(reason)] += 1
    if reason == "ok":
        attempt_ms[upstream, _YES_NO[stream]].observe(duration_ms)


def settled(model: str, upstream: str, source: str, ended: str, usage: Usage, revenue_nanos: int, cost_nanos: int) -> None:
    """A request was charged; `ended` says how its answer ended if not well."""
    settled_requests[upstream, source, ended] += 1
    sums = served.get((model, upstream))
    if sums is None:
        sums = served[model, upstream] = Served()
    sums.input += usage.input_tokens
    sums.output += usage.output_tokens
    sums.cache_write_5m += usage.cache_write_5m_tokens
    sums.cache_write_1h += usage.cache_write_1h_tokens
    sums.cache_read += usage.cache_read_tokens
    sums.web_searches += usage.web_searches
    sums.revenue_nanos += revenue_nanos
    sums.cost_nanos += cost_nanos


def voided(reason: str) -> None:
    """A request that held money was not charged."""
    void_requests[_plain(reason)] += 1


def first_byte(model: str, stream: bool, waited_ms: int | None) -> None:
    """The client's first byte, from the head of its request; None if it never had one."""
    if waited_ms is not None:
        first_byte_ms[model, _YES_NO[stream]].observe(waited_ms)


def limit_hit(limit: str) -> None:
    """A request was refused, or stopped, by a limit of its key; `limit` is the name of the option or of its field."""
    limits_hit[limit.removesuffix("_nanos")] += 1


def audited(whole: bool, at_ms: int, findings: int) -> None:
    audits["whole" if whole else "recent"] = (at_ms, findings)


def chore_ran(name: str, every_s: float, *, well: bool) -> None:
    chores[name] = (every_s, time.time_ns() // 1_000_000, well)


def _plain(reason: str) -> str:
    """Without what a provider chose: `stream_error:<its own word>`."""
    return reason.partition(":")[0]
