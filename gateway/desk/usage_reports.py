"""Usage told to people, a page at a time: sums by day, model, key, session, agent (and user, for operators), or single requests.

    parse_question      what a query string or a command asks, checked
    report_of_owner     GET /v1/usage: all keys of one user
    report_usage        `pagegrid usage report`: everybody, with what the upstreams cost
    render_csv_page     either, as CSV

A page ends where `next_cursor` says; with the same question and that cursor the next one begins. Sums are by whole hours: `start`
and `end` of an answer say which.
"""

from __future__ import annotations

import base64
import binascii
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import orjson

from gateway.clock import SystemClock, rfc3339
from gateway.desk.checks import check_text, get_user, get_wallet, parse_time_ms, refused
from gateway.desk.csv_text import render_csv
from gateway.errors import ClientError
from gateway.ids import render_id
from gateway.money import format_usd, to_micros
from gateway.storage import reports
from gateway.storage.readonly import snapshot
from gateway.storage.reports import DETAIL, Dimension, Range
from gateway.storage.retention import detail_from_ms
from gateway.storage.rollups import DAY_MS, HOUR_MS

DAYS_DEFAULT = 30
DAYS_MAX = 366
LIMIT_DEFAULT = 100
LIMIT_MAX = 1_000
# One answer, some 2 MB; what is left goes on with the cursor.
CSV_LIMIT_MAX = 10_000
# As the database keeps them (proxy/settlement.py).
DETAIL_CHARS_MAX = 128

OWNER_DIMENSIONS: tuple[Dimension, ...] = ("day", "model", "key", "session", "agent")
ALL_DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)

PARAMETERS = ("start", "end", "key", "model", "session", "agent", "limit", "cursor")
# Of a single request, as CSV has it (`_render_request`).
REQUEST_COLUMNS = (
    *("request_id", "created_at", "created_at_ms", "settled_at_ms", "model", "upstream_model", "key_id", "key_name"),
    *("session", "agent", "stream", "http_status", "input_tokens", "output_tokens", "cache_read_input_tokens"),
    *("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens", "web_search_requests", "cost_micro", "cost_nanos", "cost_usd"),
    *("source", "flags", "admitted_ms", "first_byte_ms", "total_ms"),
)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, of whomever. No `group_by`: single requests."""

    asked: Range
    group_by: tuple[Dimension, ...]
    limit: int
    after: reports.Place | None = None

    def of_model(self, model: str) -> Question:
        return replace(self, asked=replace(self.asked, model=model))


def parse_question(
    now_ms: int,
    group_by: Sequence[str],
    texts: Mapping[str, str],
    *,
    dimensions: Sequence[Dimension] = OWNER_DIMENSIONS,
    limit_default: int = LIMIT_DEFAULT,
    limit_max: int = LIMIT_MAX,
) -> Question:
    """`texts` are of PARAMETERS. Raises ClientError that names what is wrong; a slip of the pen must not widen a report.

    `start` and `end` default to the last 30 days, today included.
    """
    for name in texts:
        if name not in PARAMETERS:
            raise refused(f"{name[:64]!r} is no parameter; there are group_by, {', '.join(PARAMETERS)}", name[:64])
    groups = _parse_dimensions(group_by, dimensions)
    start_ms, end_ms = _parse_range(texts.get("start"), texts.get("end"), now_ms)
    if groups:
        start_ms, end_ms = start_ms - start_ms % HOUR_MS, end_ms + -end_ms % HOUR_MS
    asked = Range(
        start_ms,
        end_ms,
        key_id=_parse_number(texts["key"], "key", 2**63 - 1) if "key" in texts else None,
        model=check_text(texts["model"], "model", DETAIL_CHARS_MAX) if "model" in texts else None,
        session=_check_detail(texts["session"], "session") if "session" in texts else None,
        agent=_check_detail(texts["agent"], "agent") if "agent" in texts else None,
    )
    limit = _parse_number(texts["limit"], "limit", limit_max) if "limit" in texts else limit_default
    return Question(asked, groups, limit, _parse_cursor(texts["cursor"], groups) if "cursor" in texts else None)


def report_of_owner(conn: sqlite3.Connection, question: Question, wallet_id: int) -> dict[str, Any]:
    """A page of what all keys of this wallet's user used. Raises ClientError for a key that is not theirs."""
    key_id = question.asked.key_id
    if key_id is not None and not reports.key_of_wallet(conn, wallet_id, key_id):
        raise ClientError("not_found", f"key: you have no key {key_id}; GET /v1/usage?group_by=key lists yours.", param="key")
    question = replace(question, asked=replace(question.asked, wallet_id=wallet_id))
    return _sums(conn, question) if question.group_by else _requests(conn, question)


def report_usage(
    conn: sqlite3.Connection,
    *,
    user: str | None = None,
    start: str | None = None,
    end: str | None = None,
    by: list[str] | None = None,
    key: int | None = None,
    model: str | None = None,
    session: str | None = None,
    agent: str | None = None,
    limit: int = LIMIT_MAX,
    cursor: str | None = None,
) -> dict[str, Any]:
    """Sums for the operator: `by` day unless something else is named; `paid`, `upstream` and `margin` beside the cost."""
    asked = {"start": start, "end": end, "model": model, "session": session, "agent": agent, "cursor": cursor}
    numbers = {"key": key, "limit": limit}
    texts = {name: str(value) for name, value in (asked | numbers).items() if value is not None}
    groups = _parse_dimensions(by or ["day"], ALL_DIMENSIONS, "by")
    question = parse_question(SystemClock().at_ms(), groups, texts, dimensions=ALL_DIMENSIONS, limit_max=CSV_LIMIT_MAX)
    if user is not None:
        wallet = get_wallet(conn, get_user(conn, user)["id"])
        question = replace(question, asked=replace(question.asked, wallet_id=wallet["id"]))
    return _sums(conn, question, operator=True)


def render_csv_page(report: Mapping[str, Any]) -> str:
    """The rows of a report, one column for each figure; what is nested stands flat."""
    columns = [*_group_columns(report["group_by"]), *_flat(report["total"])] if "total" in report else REQUEST_COLUMNS
    return render_csv(columns, [list(_flat(row).values()) for row in report["data"]])


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _sums(conn: sqlite3.Connection, question: Question, *, operator: bool = False) -> dict[str, Any]:
    asked, limit, group_by = question.asked, question.limit, question.group_by
    detail = asked.of_detail or bool(DETAIL & set(group_by))
    with snapshot(conn):
        detail_from = detail_from_ms(conn) if detail else 0
        # What is being pruned is not told in part.
        asked = replace(asked, start_ms=min(max(asked.start_ms, detail_from), asked.end_ms))
        found, total = reports.sum_usage(conn, asked, group_by, limit=limit + 1, after=question.after, upstream=operator)
    answer = _answer(
        "usage_report",
        question,
        [{**_render_group(row, group_by), **_figures(row, operator=operator)} for row, _ in found[:limit]],
        _render_cursor(found[limit - 1][1]) if len(found) > limit else None,
    )
    answer["total"] = _figures(total, operator=operator)
    if detail:
        answer["detail_since"] = rfc3339(detail_from) if detail_from else None
    return answer


def _requests(conn: sqlite3.Connection, question: Question) -> dict[str, Any]:
    before_id = None if question.after is None else int(question.after[0])
    found, before_id = reports.list_usage(conn, question.asked, limit=question.limit, before_id=before_id)
    cursor = None if before_id is None else _render_cursor((before_id,))
    return _answer("usage_list", question, [_render_request(row) for row in found], cursor)


def _answer(kind: str, question: Question, data: list[Any], cursor: str | None) -> dict[str, Any]:
    return {
        "type": kind,
        "start": rfc3339(question.asked.start_ms),
        "end": rfc3339(question.asked.end_ms),
        "group_by": list(question.group_by),
        "data": data,
        "has_more": cursor is not None,
        "next_cursor": cursor,
    }


def _figures(row: Mapping[str, Any], *, operator: bool = False) -> dict[str, Any]:
    cost, estimated, partial, recovered = (
        row[name] for name in ("cost_nanos", "estimated_requests", "partial_requests", "recovered_requests")
    )
    shown = {
        "requests": row["requests"],
        "reported_requests": row["requests"] - estimated - partial - recovered,
        "estimated_requests": estimated,
        "partial_requests": partial,
        "recovered_requests": recovered,
        **_tokens(row),
        **_cost(cost),
    }
    if not operator:
        return shown
    paid, upstream = row["paid_nanos"], row["upstream_nanos"]
    for name, nanos in (("paid", paid), ("upstream", upstream), ("margin", paid - upstream)):
        shown |= {f"{name}_nanos": nanos, f"{name}_usd": format_usd(nanos)}
    return shown | {"upstream_unknown_requests": row["upstream_unknown"]}


def _tokens(row: Mapping[str, Any]) -> dict[str, Any]:
    """As GET /v1/usage/{id} names them."""
    return {
        "input_tokens": row["input_tokens"],
        "output_tokens": row["output_tokens"],
        "cache_read_input_tokens": row["cache_read_tokens"],
        "cache_creation": {
            "ephemeral_5m_input_tokens": row["cache_write_5m_tokens"],
            "ephemeral_1h_input_tokens": row["cache_write_1h_tokens"],
        },
        "web_search_requests": row["web_searches"],
    }


def _cost(nanos: int) -> dict[str, Any]:
    return {"cost_micro": to_micros(nanos), "cost_nanos": nanos, "cost_usd": format_usd(nanos)}


def _render_group(row: Mapping[str, Any], group_by: Sequence[Dimension]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for dimension in group_by:
        value = row[reports.COLUMNS[dimension]]
        if dimension == "day":
            shown["day"] = rfc3339(value)[:10]
        elif dimension == "key":
            shown |= {"key_id": value, "key_name": row["key_name"], "key_hint": row["key_hint"]}
        elif dimension == "user":
            shown["user"] = row["user_name"]
        else:
            shown[dimension] = value or None
    return shown


def _group_columns(group_by: Sequence[Dimension]) -> list[str]:
    return [name for by in group_by for name in (("key_id", "key_name", "key_hint") if by == "key" else (by,))]


def _render_request(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "request_id": render_id(row["request_id"]),
        "created_at": rfc3339(row["opened_at_ms"]),
        "created_at_ms": row["opened_at_ms"],
        "settled_at_ms": row["at_ms"],
        "model": row["model"],
        "upstream_model": row["upstream_model"],
        "key_id": row["key_id"],
        "key_name": row["key_name"],
        "session": row["session"] or None,
        "agent": row["agent"] or None,
        "stream": None if row["stream"] is None else bool(row["stream"]),
        "http_status": row["status"] or None,
        **_tokens(row),
        **_cost(row["cost_nanos"]),
        "source": row["source"],
        "flags": row["flags"].split(),
        "timings": {name: row[name] for name in ("admitted_ms", "first_byte_ms", "total_ms")},
    }


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= value
        else:
            flat[name] = " ".join(value) if isinstance(value, list) else value
    return flat


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


def _parse_dimensions(texts: Sequence[str], known: Sequence[Dimension], param: str = "group_by") -> tuple[Dimension, ...]:
    """Such as ["day,model", "key"], each once."""
    found: list[Dimension] = []
    for name in [part.strip() for text in texts for part in text.split(",")]:
        dimension = next((one for one in known if one == name), None)
        if dimension is None:
            raise refused(f"{param}: write one or more of {', '.join(known)}, such as day,model", param)
        if dimension not in found:
            found.append(dimension)
    return tuple(found)


def _parse_range(start: str | None, end: str | None, now_ms: int) -> tuple[int, int]:
    """[start, end) in ms; a date as `end` is the last day that counts."""
    end_ms = now_ms + 1 if end is None else _parse_time(end, "end", DAY_MS)
    if start is None:
        last_day = end_ms - 1 - (end_ms - 1) % DAY_MS
        start_ms = max(0, last_day - (DAYS_DEFAULT - 1) * DAY_MS)
    else:
        start_ms = _parse_time(start, "start", 0)
    if start_ms >= end_ms:
        raise refused("start: must be before end" if end else "start: lies in the future", "start")
    if end_ms - start_ms > DAYS_MAX * DAY_MS:
        raise refused(f"start: a report covers at most {DAYS_MAX} days; ask for each year by itself", "start")
    return start_ms, end_ms


def _parse_time(text: str, param: str, date_adds_ms: int) -> int:
    at_ms = parse_time_ms(text, param)
    return max(0, at_ms) + (date_adds_ms if len(text) == len("2026-11-20") else 0)


def _parse_number(text: str, param: str, high: int) -> int:
    # Short first: int() itself refuses thousands of digits, with another exception.
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and 1 <= int(text) <= high):
        raise refused(f"{param}: write a whole number from 1 to {high}", param)
    return int(text)


def _check_detail(text: str, param: str) -> str:
    """As a header carried it; empty means those without."""
    if len(text) > DETAIL_CHARS_MAX or not text.isprintable():
        raise refused(f"{param}: write at most {DETAIL_CHARS_MAX} printable characters", param)
    return text


def _render_cursor(place: reports.Place) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


def _parse_cursor(text: str, group_by: Sequence[Dimension]) -> reports.Place:
    kinds = reports.place_kinds(group_by) if group_by else (int,)
    try:
        place = orjson.loads(base64.urlsafe_b64decode(text[:512] + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error):
        place = None
    fits = isinstance(place, list) and [type(value) for value in place] == list(kinds)
    if not fits or any(type(value) is int and abs(value) >= 2**63 - 1 for value in place):
        raise refused("cursor: give the next_cursor of the page before, with the same grouping", "cursor")
    return tuple(place)
