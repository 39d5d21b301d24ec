"""GET /metrics: what the house counted and how it stands, in Prometheus' text format 0.0.4.

Rendered when asked for, from plain numbers (`gateway/metrics.py`) and from the rooms' own state. Answers this machine, and beyond
it whoever sends the token of `server.metrics_token_file`; others get 401, or 403 where there is no such token. Follows
prometheus.io/docs/instrumenting/exposition_formats and …/practices/naming (read 2026-11-20). No OpenMetrics: every Prometheus
reads this.
"""

from __future__ import annotations

import asyncio
import hmac
import platform
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import aiohttp
from aiohttp import web

from gateway import metrics
from gateway.access import unauthenticated
from gateway.api.frame import FORWARDING
from gateway.api.sink import HttpSink
from gateway.config.upstreams import is_loopback
from gateway.errors import ClientError
from gateway.house import House
from gateway.metrics import Histogram, Served
from gateway.money import format_usd
from gateway.proxy.walk import Inbound
from gateway.storage.database import SQLITE_VERSION
from gateway.version import VERSION

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
VERSIONS = {"version": VERSION, "python": platform.python_version(), "sqlite": SQLITE_VERSION, "aiohttp": aiohttp.__version__}
Labels = tuple[str, ...]
# (labels, value): a whole number as it is, anything else as its text.
Samples = Iterable[tuple[Labels, int | str]]


async def get_metrics(house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
    _check_allowed(house, inbound)
    # The disk and /proc are asked on a thread: a disk that hangs is when somebody looks here.
    files = await asyncio.to_thread(measure, house.data_dir, house.database)
    await sink.answer(200, [("content-type", CONTENT_TYPE)], render(house, files))


def render(house: House, measured: Mapping[str, int]) -> bytes:
    """The whole page. `measured` is what `measure` found."""
    page = _Page()
    _render_requests(page, house)
    _render_money(page, house)
    _render_upstreams(page, house)
    _render_ledger(page, house, measured)
    _render_process(page, measured)
    return page.text().encode()


# ── who may look ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_allowed(house: House, inbound: Inbound) -> None:
    """Raises ClientError `forbidden` where nobody else may look, `unauthenticated` for a token that is not the one."""
    # A proxy stands on this machine and before the whole world: what it forwards is never taken for this machine's.
    if is_loopback(inbound.address) and not any(inbound.header(name) for name in FORWARDING):
        return
    token = house.settings.metrics_token.get_secret_value()
    if not token:
        raise ClientError(
            "forbidden", "Metrics are told to this machine only; set server.metrics_token_file to ask from elsewhere."
        )
    scheme, _, sent = inbound.header("authorization").strip().partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(sent.strip().encode(), token.encode()):
        raise unauthenticated("Metrics want Authorization: Bearer with the token in server.metrics_token_file.")


# ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _render_requests(page: _Page, house: House) -> None:
    walk = house.walk
    page.counter(
        "pagegrid_requests_total",
        "Requests answered, by endpoint, HTTP status and error code (empty: none of ours).",
        ("endpoint", "status", "error"),
        metrics.requests.copy().items(),
    )
    page.histogram(
        "pagegrid_request_duration_seconds",
        "From the head of a request to the end of its answer.",
        ("endpoint", "stream"),
        metrics.request_ms,
        unit=1000,
    )
    page.histogram(
        "pagegrid_first_byte_seconds",
        "From the head of a request to the first byte of its answer.",
        ("model", "stream"),
        metrics.first_byte_ms,
        unit=1000,
    )
    page.gauge("pagegrid_requests_in_flight", "Requests with a body that are inside now.", walk.door.in_flight)
    page.gauge("pagegrid_requests_in_flight_max", "server.max_in_flight: beyond it 503.", walk.rules.max_in_flight)
    page.gauge("pagegrid_request_body_bytes", "Bytes of request bodies in memory, as announced.", walk.door.body_bytes)
    page.gauge("pagegrid_streams_open", "Streams that are being relayed now.", len(walk.streams))
    page.counter(
        "pagegrid_limits_hit_total",
        "Requests refused for a limit of their key.",
        ("limit",),
        _by_name(metrics.limits_hit),
    )


def _render_money(page: _Page, house: House) -> None:
    served = metrics.served.copy()
    page.counter(
        "pagegrid_tokens_total",
        "Tokens that were charged, by price class.",
        ("model", "upstream", "class"),
        (((*labels, name), getattr(sums, name)) for labels, sums in served.items() for name in Served.TOKENS),
    )
    page.counter(
        "pagegrid_web_searches_total",
        "Web searches that were charged.",
        ("model", "upstream"),
        ((labels, sums.web_searches) for labels, sums in served.items()),
    )
    page.counter(
        "pagegrid_revenue_usd_total",
        "US dollars charged for requests, with what wallets could not pay.",
        ("model", "upstream"),
        ((labels, format_usd(sums.revenue_nanos)) for labels, sums in served.items()),
    )
    page.counter(
        "pagegrid_cost_usd_total",
        "US dollars that providers bill for them, at list price.",
        ("model", "upstream"),
        ((labels, format_usd(sums.cost_nanos)) for labels, sums in served.items()),
    )
    page.counter(
        "pagegrid_settled_requests_total",
        "Requests charged: how their usage is known, and how the answer ended if not well.",
        ("upstream", "source", "ended"),
        metrics.settled_requests.copy().items(),
    )
    page.counter(
        "pagegrid_void_requests_total",
        "Requests that had held money and were not charged.",
        ("reason",),
        _by_name(metrics.void_requests),
    )
    balance = held = owed = frozen = wallets = 0
    for wallet in house.walk.book.wallets():
        wallets += 1
        balance += wallet.balance_nanos
        held += wallet.held_nanos
        owed += wallet.owed_nanos
        frozen += wallet.frozen
    page.gauge("pagegrid_holds_open", "Requests that hold money now.", sum(1 for _ in house.walk.book.open_holds()))
    page.gauge("pagegrid_held_usd", "US dollars that they hold.", format_usd(held))
    page.gauge("pagegrid_balance_usd", "US dollars in all wallets, held ones included.", format_usd(balance))
    page.gauge("pagegrid_owed_usd", "US dollars that requests cost beyond their wallets.", format_usd(owed))
    page.gauges(
        "pagegrid_wallets",
        "Wallets; a frozen one pays for nothing new.",
        ("state",),
        ((("open",), wallets - frozen), (("frozen",), frozen)),
    )
    page.counter(
        "pagegrid_notices_total", "Low balances: told in the log, and to the webhook.", ("outcome",), _by_name(metrics.notices)
    )


def _render_upstreams(page: _Page, house: House) -> None:
    upstreams = house.desk.upstreams.show()
    page.gauges(
        "pagegrid_upstream_serving",
        "1 while it is asked, 0 while all of it rests after a failure.",
        ("upstream",),
        (((upstream["name"],), int(upstream["state"] == "serving")) for upstream in upstreams),
    )
    page.gauges(
        "pagegrid_upstream_requests_in_flight",
        "Requests that run there now.",
        ("upstream",),
        (((upstream["name"],), upstream["running"]) for upstream in upstreams),
    )
    page.gauges(
        "pagegrid_deployment_resting_seconds",
        "A model (by the upstream's name) that rests by itself, and for how long still; not there while it serves.",
        ("upstream", "model"),
        (
            ((upstream["name"], resting["model"]), resting["seconds_left"])
            for upstream in upstreams
            for resting in upstream["resting_models"]
        ),
    )
    page.counter(
        "pagegrid_upstream_attempts_total",
        "Requests sent to an upstream, by what came of each.",
        ("upstream", "reason"),
        metrics.attempts.copy().items(),
    )
    page.histogram(
        "pagegrid_upstream_duration_seconds",
        "From asking an upstream to its answer: all of it, or a stream's first event. Only of those that it answered.",
        ("upstream", "stream"),
        metrics.attempt_ms,
        unit=1000,
    )


def _render_ledger(page: _Page, house: House, measured: Mapping[str, int]) -> None:
    writer = house.writer
    page.gauge(
        "pagegrid_writer_accepting", "0 while the ledger cannot be written: every request gets 503.", int(writer.accepting)
    )
    page.gauge("pagegrid_writer_queue_length", "Rows and jobs that wait for the disk.", writer.pending)
    page.gauge(
        "pagegrid_writer_lag_seconds", "Since the writer last got on, while something waits.", _decimal(writer.lag_ms, 1000)
    )
    page.histogram("pagegrid_writer_batch_rows", "Rows of each commit.", (), {(): metrics.writer_batch_rows}, unit=1)
    page.histogram(
        "pagegrid_writer_commit_seconds",
        "Each commit with its rows and its fsync.",
        (),
        {(): metrics.writer_commit_us},
        unit=1_000_000,
    )
    page.counter(
        "pagegrid_writer_replays_total",
        "Batches that the database refused and that were replayed row by row.",
        (),
        (((), metrics.counters["writer_replays"]),),
    )
    audits = metrics.audits.copy()
    page.gauges(
        "pagegrid_audit_last_run_timestamp_seconds",
        "When the books were last audited: whole, or since the last clean audit.",
        ("scope",),
        (((scope,), _decimal(at_ms, 1000)) for scope, (at_ms, _) in audits.items()),
    )
    page.gauges(
        "pagegrid_audit_findings",
        "Broken invariants that it found.",
        ("scope",),
        (((scope,), findings) for scope, (_, findings) in audits.items()),
    )
    page.counter(
        "pagegrid_alarms_total",
        "What an operator must look at; the log has each at level CRITICAL.",
        ("alarm",),
        (((name.removeprefix("alarm_"),), count) for name, count in metrics.counters.copy().items() if name.startswith("alarm_")),
    )
    page.measured_gauge("pagegrid_database_bytes", "Size of the database file.", measured)
    page.measured_gauge("pagegrid_wal_bytes", "Size of its write-ahead log.", measured)
    page.measured_gauge("pagegrid_disk_free_bytes", "Room left for the data directory.", measured)


def _render_process(page: _Page, measured: Mapping[str, int]) -> None:
    page.histogram(
        "pagegrid_loop_lag_seconds",
        "How late the event loop runs what is due, looked at twice a second.",
        (),
        {(): metrics.loop_lag_ms},
        unit=1000,
    )
    page.measured_gauge("pagegrid_process_resident_memory_bytes", "Memory in use (Linux).", measured)
    page.measured_gauge("pagegrid_process_open_fds", "Open file descriptors.", measured)
    page.measured_gauge("pagegrid_process_max_fds", "How many may be open.", measured)
    page.counter(
        "pagegrid_process_cpu_seconds_total", "User and system time.", (), (((), _decimal(time.process_time_ns(), 10**9)),)
    )
    page.gauge("pagegrid_process_start_time_seconds", "When the process started.", _decimal(metrics.started_at_ms, 1000))
    page.gauges("pagegrid_build_info", "Always 1: the versions at work.", tuple(VERSIONS), ((tuple(VERSIONS.values()), 1),))


def measure(data_dir: Path, database: Path) -> dict[str, int]:
    """By the name of the series, what only the system knows; what it does not tell is left out."""
    on_linux = sys.platform == "linux"
    sources: dict[str, Callable[[], int]] = {
        "pagegrid_database_bytes": lambda: database.stat().st_size,
        "pagegrid_wal_bytes": lambda: database.with_name(database.name + "-wal").stat().st_size,
        "pagegrid_disk_free_bytes": lambda: shutil.disk_usage(data_dir).free,
        # The listing's own descriptor is among them.
        "pagegrid_process_open_fds": lambda: len(list(Path("/proc/self/fd" if on_linux else "/dev/fd").iterdir())) - 1,
        "pagegrid_process_max_fds": lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }
    if on_linux:
        sources["pagegrid_process_resident_memory_bytes"] = lambda: (
            int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        )
    measured = {}
    for name, source in sources.items():
        with suppress(OSError):
            measured[name] = source()
    return measured


# ── the format ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Page:
    """Families one after another; each is told with its help and type, also while it has no sample."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def counter(self, name: str, help_text: str, labels: Labels, samples: Samples) -> None:
        self._family(name, "counter", help_text)
        self._samples(name, labels, samples)

    def gauges(self, name: str, help_text: str, labels: Labels, samples: Samples) -> None:
        self._family(name, "gauge", help_text)
        self._samples(name, labels, samples)

    def gauge(self, name: str, help_text: str, value: int | str) -> None:
        self.gauges(name, help_text, (), (((), value),))

    def measured_gauge(self, name: str, help_text: str, measured: Mapping[str, int]) -> None:
        self.gauges(name, help_text, (), [((), measured[name])] if name in measured else ())

    def histogram(
        self, name: str, help_text: str, labels: Labels, series: Mapping[tuple[str, ...], Histogram], *, unit: int
    ) -> None:
        """`unit` is how many of the histogram's own make one of the series'."""
        self._family(name, "histogram", help_text)
        for values, histogram in list(series.items()):
            totals = list(accumulate(histogram.counts))
            bounds = [*(_decimal(bound, unit) for bound in histogram.bounds), "+Inf"]
            cumulated = (((*values, bound), total) for bound, total in zip(bounds, totals, strict=True))
            self._samples(name + "_bucket", (*labels, "le"), cumulated)
            self._samples(name + "_sum", labels, ((values, _decimal(histogram.sum, unit)),))
            self._samples(name + "_count", labels, ((values, totals[-1]),))

    def _family(self, name: str, kind: str, help_text: str) -> None:
        self._lines += (f"# HELP {name} {help_text}", f"# TYPE {name} {kind}")

    def _samples(self, name: str, labels: Labels, samples: Samples) -> None:
        for values, value in samples:
            told = ",".join(f'{label}="{_escape(text)}"' for label, text in zip(labels, values, strict=True))
            self._lines.append(f"{name}{{{told}}} {value}" if told else f"{name} {value}")


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _decimal(value: int, unit: int) -> str:
    """value ÷ unit (a power of ten), exactly."""
    whole, rest = divmod(value, unit)
    return f"{whole}.{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else str(whole)


def _by_name(counts: Counter[str]) -> Samples:
    return [((name,), count) for name, count in counts.copy().items()]
