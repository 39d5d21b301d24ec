"""The requests of one user as their page shows them: what a filter asks for, a page of it, its sums, and the same as CSV.

    time     by the end of a request, in whole days: a request counts where the reports and the wallet count it
    result   what became of it, see `storage.requests.Result`
    search   a request's id (ours or the provider's), else a session's

A filter that cannot be read says what is wrong with each of its fields, and fits nothing. What a roll-up can answer is exact
over any number of requests; where only looking helps, the sums say of how many they are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.clock import rfc3339
from gateway.desk.bills import Bill, make_bill
from gateway.desk.checks import parse_time_ms
from gateway.desk.csv_text import render_csv
from gateway.desk.usage_reports import DAYS_MAX, DETAIL_CHARS_MAX
from gateway.errors import ClientError
from gateway.ids import parse_id, render_id
from gateway.money import format_usd
from gateway.storage import keys, reports, requests
from gateway.storage.calls import find_request_by_upstream_id, find_trail, find_usage
from gateway.storage.readonly import snapshot
from gateway.storage.reports import Range
from gateway.storage.requests import RESULTS, Result
from gateway.storage.retention import detail_from_ms
from gateway.storage.rollups import DAY_MS, OWN_MEASURES

PAGE_ROWS = 50
CSV_ROWS = 1_000
KEYS_LISTED = 200
TIMES = ("today", "7d", "30d", "month", "last-month", "custom")
TIME_DEFAULT = "7d"
# Of a range, as many models as anybody will look through.
_MODELS_MAX = 1_000
CSV_COLUMNS = (
    *("ended_at", "request_id", "status", "reason", "key_id", "key_name", "model", "session", "agent", "stream", "http_status"),
    *("input_tokens", "output_tokens", "cache_read_input_tokens", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"),
    *("web_search_requests", "cost_nanos", "cost_usd", "refunded_usd", "source", "flags", "first_byte_ms", "total_ms"),
    "started_at",
)


@dataclass(frozen=True, slots=True)
class Filter:
    """What is asked for, [start_ms, end_ms) in whole days; `errors` by field, and with any of them it fits nothing."""

    time: str = TIME_DEFAULT
    start_ms: int = 0
    end_ms: int = 0
    key_id: int | None = None
    model: str | None = None
    result: Result | None = None
    search: str = ""
    errors: Mapping[str, str] = field(default_factory=dict)

    def includes(self, at_ms: int) -> bool:
        return self.start_ms <= at_ms < self.end_ms


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all that the filter fits: how many were charged, and their `measures`, which are of the newest alone where not
    `complete` (`measures["requests"]` of them). `void` and its `void_complete` likewise."""

    charged: int
    measures: Mapping[str, int]
    complete: bool = True
    void: int = 0
    void_complete: bool = True
    running: int = 0

    @property
    def requests(self) -> int:
        return self.charged + self.void + self.running

    @property
    def prompt_tokens(self) -> int:
        return self.measures["input_tokens"] + self.cache_write_tokens + self.measures["cache_read_tokens"]

    @property
    def cache_write_tokens(self) -> int:
        return self.measures["cache_write_5m_tokens"] + self.measures["cache_write_1h_tokens"]


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of it. `newer` and `older` are ids to go on from. `stopped`: it has looked at many and found no full page.
    `models` are those of the range, by name; `detail_from_ms`: sessions are forgotten of what ended before (0: of nothing)."""

    rows: list[dict[str, Any]]
    totals: Totals
    newer: str | None = None
    older: str | None = None
    stopped: bool = False
    models: tuple[str, ...] = ()
    session: str | None = None
    detail_from_ms: int = 0
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """One request with all that is known of it. `bill` is None unless it was settled; `proven`: what the bill says is what the
    ledger moved."""

    row: Mapping[str, Any]
    trail: Mapping[str, Any]
    bill: Bill | None
    proven: bool


def parse_filter(texts: Mapping[str, str], now_ms: int) -> Filter:
    """`texts` are time, start, end, key, model, status, q and session, as a form or a link has them."""
    errors: dict[str, str] = {}
    text = {name: value.strip() for name, value in texts.items()}
    time = text.get("time") or ("custom" if text.get("start") or text.get("end") else TIME_DEFAULT)
    start_ms = end_ms = 0
    if time not in TIMES:
        errors["time"] = "Choose one of the times in the list."
    elif time == "custom":
        start_ms, end_ms = _parse_days(text.get("start", ""), text.get("end", ""), now_ms, errors)
    else:
        start_ms, end_ms = _days_of(time, now_ms)
    key_id = None
    if key := text.get("key"):
        # Short first: int() itself refuses thousands of digits, with another exception.
        if key.isascii() and key.isdecimal() and len(key) <= 18:
            key_id = int(key)
        else:
            errors["key"] = "There is no such key among yours. Choose one of the list."
    result: Result | None = None
    if status := text.get("status"):
        result = next((one for one in RESULTS if one == status), None)
        if result is None:
            errors["status"] = "Choose one of the results in the list."
    search = text.get("q") or text.get("session", "")
    for name, value in (("model", text.get("model", "")), ("q", search)):
        if len(value) > DETAIL_CHARS_MAX or not value.isprintable():
            errors[name] = f"Write at most {DETAIL_CHARS_MAX} printable characters."
    return Filter(time, start_ms, end_ms, key_id, text.get("model") or None, result, search, errors)


def parse_place(text: str) -> int | None:
    """The id that a page goes on from. Raises ClientError for what is none."""
    if not text:
        return None
    found = parse_id(text)
    if not found:
        raise ClientError("invalid_request", "This link to further requests is damaged; these are the newest.")
    return found


def list_page(
    conn: sqlite3.Connection,
    asked: Filter,
    *,
    user_id: int,
    wallet_id: int,
    now_ms: int,
    before_id: int | None = None,
    after_id: int | None = None,
) -> Listing:
    """The newest page, or that before or after an id. Raises ClientError with its field for a key that is not theirs."""
    with snapshot(conn):
        if asked.key_id is not None and not reports.key_of_wallet(conn, wallet_id, asked.key_id):
            raise ClientError("not_found", "There is no such key among yours. Choose one of the list.", param="key")
        request_id = _find_own(conn, asked.search, user_id, wallet_id)
        if request_id is not None:
            row = requests.find_request(conn, wallet_id, request_id)
            assert row is not None
            return Listing([row], _totals_of(row), models=(row["model"],))
        if asked.search.startswith("req_"):
            return Listing([], _NOTHING, missing="There is no request of this id among yours.")
        session = asked.search or None
        scope = _scope(conn, asked, wallet_id, session)
        running = asked.includes(now_ms)
        totals, models = _sum(conn, scope, asked.result, running)
        found, newer, older = _turn_to(conn, scope, asked.result, running, before_id, after_id)
        return Listing(
            found.rows,
            totals,
            None if newer is None else render_id(newer),
            None if older is None else render_id(older),
            found.stopped_at is not None,
            models,
            session,
            detail_from_ms(conn) if session is not None else 0,
        )


def list_csv(
    conn: sqlite3.Connection, asked: Filter, *, user_id: int, wallet_id: int, now_ms: int, before_id: int | None
) -> tuple[str, int | None]:
    """A part of the file, from the newest on or from below `before_id`, and where the next begins (None: that was the last)."""
    header = CSV_COLUMNS if before_id is None else None
    with snapshot(conn):
        if asked.key_id is not None and not reports.key_of_wallet(conn, wallet_id, asked.key_id):
            raise ClientError("not_found", "There is no such key among yours.", param="key")
        request_id = _find_own(conn, asked.search, user_id, wallet_id)
        if request_id is not None or asked.search.startswith("req_"):
            row = None if request_id is None else requests.find_request(conn, wallet_id, request_id)
            return render_csv(header, [_csv_row(row)] if row else []), None
        scope = _scope(conn, asked, wallet_id, asked.search or None)
        found = requests.list_requests(
            conn, scope, asked.result, running=asked.includes(now_ms), limit=CSV_ROWS, before_id=before_id
        )
    following = None
    if found.more:
        following = found.rows[-1]["request_id"] if found.stopped_at is None else found.stopped_at
    return render_csv(header, map(_csv_row, found.rows)), following


def get_request(conn: sqlite3.Connection, text: str, *, user_id: int | None = None) -> Told:
    """One by our id, else by the provider's; of this user if one is given. Raises ClientError `not_found`."""
    if not text.isprintable():  # nor is it text to the database
        text = ""
    with snapshot(conn):
        for request_id in (parse_id(text), find_request_by_upstream_id(conn, text, user_id)):
            row = None if request_id is None else find_usage(conn, request_id)
            if row is not None and user_id in (None, row["user_id"]):
                trail = find_trail(conn, row["request_id"])
                bill = make_bill(row) if row["state"] == "settled" else None
                charged = sum(each["amount_nanos"] for each in trail["transfers"] if each["kind"] != "refund")
                return Told(row, trail, bill, bill is not None and charged == bill.cost_nanos)
    raise ClientError(
        "not_found", "There is no request of this id; it stands in the request-id header of the answer (req_…).", param="id"
    )


def list_user_keys(conn: sqlite3.Connection, user_id: int, key_id: int | None = None) -> list[tuple[int, str, str]]:
    """(id, name, hint) of the user's keys, by name: of dead ones too, as old requests are of old keys, but no more than anybody
    will look through. `key_id` is the one that is asked for."""
    listed = keys.list_names(conn, user_id, key_id, KEYS_LISTED)
    return sorted(listed, key=lambda each: (each[1].lower(), each[0]))


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_NOTHING = Totals(0, dict.fromkeys(OWN_MEASURES, 0))
# The column of a roll-up that counts a result; what is done is the rest.
_COUNTED = {"estimated": "estimated_requests", "partial": "partial_requests", "recovered": "recovered_requests"}


def _scope(conn: sqlite3.Connection, asked: Filter, wallet_id: int, session: str | None) -> Range:
    """A session is told of as far back as there is detail: what is being pruned is not told in part."""
    start_ms = asked.start_ms if session is None else min(max(asked.start_ms, detail_from_ms(conn)), asked.end_ms)
    return Range(start_ms, asked.end_ms, wallet_id, asked.key_id, asked.model, session)


def _find_own(conn: sqlite3.Connection, text: str, user_id: int, wallet_id: int) -> int | None:
    """The user's request of this id, ours or the provider's."""
    own = parse_id(text)
    if own is not None and requests.find_request(conn, wallet_id, own) is not None:
        return own
    return find_request_by_upstream_id(conn, text, user_id)


def _turn_to(
    conn: sqlite3.Connection,
    scope: Range,
    result: Result | None,
    running: bool,
    before_id: int | None,
    after_id: int | None,
) -> tuple[requests.Found, int | None, int | None]:
    """A page, and the ids from which the newer and the older ones go on."""
    if after_id is not None:
        found = requests.list_requests(conn, scope, result, running=running, limit=PAGE_ROWS, after_id=after_id)
        if found.more:
            newer = found.stopped_at or found.rows[0]["request_id"]
            return found, newer, found.rows[-1]["request_id"] if found.rows else after_id + 1
        # At the top again: a whole page, with what came since.
        before_id = None
    found = requests.list_requests(conn, scope, result, running=running, limit=PAGE_ROWS, before_id=before_id)
    newer = before_id
    if newer is not None:
        newer = found.rows[0]["request_id"] if found.rows else newer - 1
    return found, newer, (found.stopped_at or found.rows[-1]["request_id"]) if found.more else None


def _sum(conn: sqlite3.Connection, scope: Range, result: Result | None, running: bool) -> tuple[Totals, tuple[str, ...]]:
    """Of all that fits, and the models among which the filter could choose."""
    every_model = Range(scope.start_ms, scope.end_ms, scope.wallet_id, scope.key_id, None, scope.session)
    groups, total = reports.sum_usage(conn, every_model, ("model",), limit=_MODELS_MAX)
    by_model = {row["model"]: row for row, _ in groups}
    of_model = total if scope.model is None else by_model.get(scope.model, dict.fromkeys(OWN_MEASURES, 0))
    measures = {name: int(of_model[name]) for name in OWN_MEASURES}
    void, void_complete = requests.count_void(conn, scope) if result in (None, "void") else (0, True)
    runs = requests.count_running(conn, scope) if running and result in (None, "running") else 0
    charged, complete = measures["requests"], True
    if result in ("void", "running"):
        charged, measures = 0, dict(_NOTHING.measures)
    elif result is not None:
        settled = requests.sum_unusual(conn, scope, None if result == "done" else result)
        others = sum(measures[name] for name in _COUNTED.values())
        charged = charged - others if result == "done" else measures[_COUNTED[result]]
        if result != "done":
            measures, complete = settled.measures, settled.complete
        elif settled.complete:
            measures = {name: measures[name] - settled.measures[name] for name in OWN_MEASURES}
        else:
            newest = requests.sum_newest(conn, scope, result)
            measures, complete = newest.measures, newest.complete
    models = {*by_model, *([scope.model] if scope.model else [])}
    return Totals(charged, measures, complete, void, void_complete, runs), tuple(sorted(models))


def _totals_of(row: Mapping[str, Any]) -> Totals:
    """Of a single request."""
    if row["state"] != "settled":
        return Totals(0, _NOTHING.measures, void=int(row["state"] == "void"), running=int(row["state"] == "open"))
    return Totals(1, {name: int(row[name]) if name in row else 0 for name in OWN_MEASURES} | {"requests": 1})


def _days_of(time: str, now_ms: int) -> tuple[int, int]:
    """[first midnight, the one after the last) of a named time, today included."""
    today = datetime.fromtimestamp(now_ms // 1000, UTC).replace(hour=0, minute=0, second=0)
    tomorrow = today + timedelta(days=1)
    month = today.replace(day=1)
    last_month = (month - timedelta(days=1)).replace(day=1)
    start, end = {
        "today": (today, tomorrow),
        "7d": (today - timedelta(days=6), tomorrow),
        "30d": (today - timedelta(days=29), tomorrow),
        "month": (month, tomorrow),
        "last-month": (last_month, month),
    }[time]
    return int(start.timestamp()) * 1000, int(end.timestamp()) * 1000


def _parse_days(start: str, end: str, now_ms: int, errors: dict[str, str]) -> tuple[int, int]:
    """From one day to another, both included; without an end until today, without a start 30 days."""
    days: dict[str, int] = {}
    for name, text in (("start", start), ("end", end)):
        try:
            if text:
                days[name] = parse_time_ms(text, name) if len(text) == len("2026-11-20") else -1
        except ClientError:
            days[name] = -1
        if days.get(name, 0) < 0:
            errors[name] = "Write a day such as 2026-11-20."
    if errors:
        return 0, 0
    last_ms = days.get("end", now_ms - now_ms % DAY_MS)
    start_ms = days.get("start", max(0, last_ms - 29 * DAY_MS))
    if start_ms > last_ms:
        errors["start"] = "The first day is after the last." if end else "This day is still to come."
    elif last_ms - start_ms >= DAYS_MAX * DAY_MS:
        errors["start"] = f"At most {DAYS_MAX} days at once; ask for each year by itself."
    return (0, 0) if errors else (start_ms, last_ms + DAY_MS)


def _csv_row(row: Mapping[str, Any]) -> Sequence[object]:
    settled = row["state"] == "settled"
    return (
        *(None if row["ended_at_ms"] is None else rfc3339(row["ended_at_ms"]), render_id(row["request_id"])),
        *("running" if row["state"] == "open" else row["state"], row["reason"], row["key_id"], row["key_name"], row["model"]),
        *(row["session"] or None, row["agent"] or None, row["stream"], row["status"] or None),
        *(row["input_tokens"], row["output_tokens"], row["cache_read_tokens"], row["cache_write_5m_tokens"]),
        *(row["cache_write_1h_tokens"], row["web_searches"]),
        *((row["cost_nanos"], format_usd(row["cost_nanos"])) if row["state"] != "open" else (None, None)),
        *(format_usd(row["refunded_nanos"]) if settled else None, row["source"], row["flags"]),
        *(row["first_byte_ms"], row["total_ms"], rfc3339(row["opened_at_ms"])),
    )
