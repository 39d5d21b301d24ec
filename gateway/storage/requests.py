"""The requests of one wallet, whatever became of them: in the order of their ids, a page at a time, and what they sum up to where
no roll-up tells them apart. SQL only; plain functions on a reader's connection, in a snapshot that the caller opens.

    settled   usage, through the index of its wallet, its key, or of what is not plainly reported
    void      holds, through the index of those
    running   holds that are open: a wallet has few

A filter that fits few of many must not read all. The roll-ups say in which hours a model or a session has requests, and only
those ids are looked at; where they cannot help, looking stops after SCAN_ROWS, and the answer says where (`Found.stopped_at`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import orjson

from gateway.ids import lowest_id, render_id
from gateway.storage.reports import Range
from gateway.storage.rollups import DAY_MS, HOUR_MS, OWN_MEASURES, mark

# What became of a request: settled as the provider reported it (done), settled on other grounds, not charged, not over yet.
Result = Literal["done", "estimated", "partial", "recovered", "void", "running"]
RESULTS: tuple[Result, ...] = get_args(Result)
_SOURCES = {"done": "reported", "estimated": "estimated", "partial": "partial", "recovered": "recovered"}

SCAN_ROWS = 50_000
# Spans of ids looked at for one page: each holds at least one request of the model or session, if not of the result, asked for.
SPANS_MAX = 200

_ID_MAX = 2**63 - 1

# A span of ids, both ends included.
Span = tuple[int, int]
# The newest rows of a span, or its oldest: at most so many of the first, and the id beyond which it did not look (None: it did).
Stream = Callable[[Span, int], tuple[list[dict[str, Any]], int | None]]


@dataclass(frozen=True, slots=True)
class Found:
    """Rows, the newest first. `more`: there may be others in the direction of reading. `stopped_at`: it has looked at all from
    where it began to here and found no full page; reading goes on from there."""

    rows: list[dict[str, Any]]
    more: bool
    stopped_at: int | None = None


@dataclass(frozen=True, slots=True)
class Sums:
    """OWN_MEASURES of what was looked at; `complete` is false where there is older of it."""

    measures: dict[str, int]
    complete: bool


def list_requests(
    conn: sqlite3.Connection,
    asked: Range,
    result: Result | None,
    *,
    running: bool,
    limit: int,
    before_id: int | None = None,
    after_id: int | None = None,
) -> Found:
    """The newest `limit` requests below `before_id`, or the oldest above `after_id`.

    Times are those of the end; `running` says whether those that have not ended belong to what is asked for.
    """
    assert asked.wallet_id is not None and asked.agent is None and not (before_id and after_id)
    newest_first = after_id is None
    whole: Span = (0 if after_id is None else after_id + 1, _ID_MAX if before_id is None else before_id - 1)
    rows: list[dict[str, Any]] = []
    stops: list[int] = []
    for stream in _streams(conn, asked, result, running, newest_first):
        found, stopped_at = stream(whole, limit + 1)
        rows += found
        stops += [] if stopped_at is None else [stopped_at]
    rows.sort(key=lambda row: int(row["request_id"]), reverse=newest_first)
    stop = None
    if stops:
        # What lies beyond the first stop is not all that there is.
        stop = max(stops) if newest_first else min(stops)
        rows = [row for row in rows if (row["request_id"] >= stop if newest_first else row["request_id"] <= stop)]
    more = len(rows) > limit or stop is not None
    stopped_at = stop if len(rows) <= limit else None
    rows = rows[:limit]
    return Found(_with_refunds(conn, rows if newest_first else rows[::-1]), more, stopped_at)


def find_request(conn: sqlite3.Connection, wallet_id: int, request_id: int) -> dict[str, Any] | None:
    """One of the wallet's own, as `list_requests` tells it."""
    everything = Range(0, _ID_MAX, wallet_id)
    for sql in (
        _settled(everything, "usage_by_wallet", "", "desc"),
        _holds("holds_void", "h.wallet_id = :wallet and h.state = 'void'", "desc"),
        _holds("holds_open", "h.wallet_id = :wallet and h.state = 'open'", "desc"),
    ):
        rows = _read(conn, sql, everything, (request_id, request_id), 1)
        if rows:
            return _with_refunds(conn, rows)[0]
    return None


def sum_unusual(conn: sqlite3.Connection, asked: Range, result: Result | None) -> Sums:
    """Of what was settled and not plainly reported: all of it, or of one source; the newest SCAN_ROWS."""
    which = "source <> 'reported'"
    return _sum(conn, "usage_unusual", which, asked, f"u.{which}" if result is None else _source(result))


def sum_newest(conn: sqlite3.Connection, asked: Range, result: Result) -> Sums:
    """Of one source among the newest SCAN_ROWS of all that was settled: where there is too much of the unusual to subtract it."""
    return _sum(conn, "usage_by_wallet", "true", asked, _source(result))


def count_void(conn: sqlite3.Connection, asked: Range) -> tuple[int, bool]:
    """How many cost nothing, and whether that is all of them or those among the newest SCAN_ROWS."""
    low, high = _by_id(conn, asked)
    floor = _floor(conn, "holds indexed by holds_void", "id", "state = 'void'", asked, (low, high))
    row = conn.execute(
        f"""
        select count(*) from holds as h indexed by holds_void {_DETAIL if asked.session is not None else ""}
        where h.wallet_id = :wallet and h.state = 'void' and h.id between :low and :high {_void_where(asked)}
        """,
        {**_parameters(asked), "low": low if floor is None else floor + 1, "high": high},
    ).fetchone()
    return int(row[0]), floor is None


def count_running(conn: sqlite3.Connection, asked: Range) -> int:
    sql = f"select count(*) from holds as h indexed by holds_open where {_running_where(asked)}"
    return int(conn.execute(sql, _parameters(asked)).fetchone()[0])


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _streams(
    conn: sqlite3.Connection, asked: Range, result: Result | None, running: bool, newest_first: bool
) -> Iterable[Stream]:
    order = "desc" if newest_first else "asc"

    def in_part(span: Span, table: str, column: str, which: str) -> tuple[Span, int | None]:
        """The first SCAN_ROWS of a span, and where they end if that is not its end."""
        stop = _floor(conn, table, column, which, asked, span, newest_first)
        if stop is None:
            return span, None
        return ((stop + 1, span[1]), stop + 1) if newest_first else ((span[0], stop - 1), stop - 1)

    def settled(span: Span, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        index, which = "usage_by_wallet" if asked.key_id is None else "usage_by_key", "true"
        spans = _spans(conn, asked)
        if result not in (None, "done"):
            index, which = "usage_unusual", "source <> 'reported'"
            spans = spans if asked.session is not None else [_extent(spans)]
        sql = _settled(asked, index, "" if result is None else f"and {_source(result)}", order)
        spans = [(max(low, span[0]), min(high, span[1])) for low, high in (spans[::-1] if newest_first else spans)]
        found: list[dict[str, Any]] = []
        looked = 0
        for low, high in spans:
            if low > high:
                continue
            if looked == SPANS_MAX:
                return found, high + 1 if newest_first else low - 1
            looked += 1
            part, stop = in_part((low, high), f"usage indexed by {index}", "request_id", which)
            found += _read(conn, sql, asked, part, limit - len(found))
            if len(found) >= limit:
                return found, None
            if stop is not None:
                return found, stop
        return found, None

    def void(span: Span, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        low, high = _by_id(conn, asked)
        part, stop = in_part((max(low, span[0]), min(high, span[1])), "holds indexed by holds_void", "id", "state = 'void'")
        sql = _holds("holds_void", f"h.wallet_id = :wallet and h.state = 'void' {_void_where(asked)}", order)
        found = _read(conn, sql, asked, part, limit)
        return found, stop if len(found) < limit else None

    def open_(span: Span, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        return _read(conn, _holds("holds_open", _running_where(asked), order), asked, span, limit), None

    if result in (None, *_SOURCES):
        yield settled
    if result in (None, "void"):
        yield void
    if running and result in (None, "running"):
        yield open_


def _spans(conn: sqlite3.Connection, asked: Range) -> list[Span]:
    """Spans of ids, rising and apart, in which all that was settled and is asked for lies (results aside).

    Ids tell when a request began, the range is about when it ended, and clocks may have jumped between the two; so the roll-ups
    say where its ids are. What is not rolled up lies above the mark.
    """
    hours = range(asked.start_ms - asked.start_ms % HOUR_MS, asked.end_ms, HOUR_MS)
    days = range(asked.start_ms - asked.start_ms % DAY_MS, asked.end_ms, DAY_MS)
    at_times = "json_each(:times) as t cross join {} as r on r.{} = t.value where r.wallet_id = :wallet"
    times: range | None = None
    if asked.session is not None:
        source = "usage_sessions as r indexed by usage_sessions_by_session where r.wallet_id = :wallet and r.session = :session"
        source += " and r.hour_at_ms >= :first_hour and r.hour_at_ms < :end"
    elif asked.model is not None:
        times, source = hours, at_times.format("usage_hours", "hour_at_ms")
    else:
        times, source = days, at_times.format("usage_days", "day_at_ms")
    source += "" if asked.key_id is None else " and r.key_id = :key_id"
    source += "" if asked.model is None else " and r.model = :model"
    spans: list[Span] = conn.execute(
        f"select r.first_request_id, r.last_request_id from {source}",
        {**_parameters(asked), "first_hour": hours.start, "times": _json(times or ())},
    ).fetchall()
    merged: list[Span] = []
    for low, high in sorted([*spans, (mark(conn) + 1, _ID_MAX)]):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    if asked.model is None and asked.session is None:
        # Of one wallet or key: there is nothing between its days to leave out.
        rolled = merged[:-1]
        merged = [*([(rolled[0][0], rolled[-1][1])] if rolled else []), merged[-1]]
    return merged


def _extent(spans: Sequence[Span]) -> Span:
    return spans[0][0], spans[-1][1]


def _by_id(conn: sqlite3.Connection, asked: Range) -> Span:
    """The ids of what ended in the range, by their time: nothing runs for a day, and clocks are set by less. But what died with
    its process ended when the next one started, however long nobody was here."""
    (died_ms,) = conn.execute(
        """
        select min(left_at_ms) from (
          select started_at_ms, lag(coalesce(seen_at_ms, started_at_ms)) over (order by id) as left_at_ms from boots
        )
        where started_at_ms >= ? and started_at_ms < ?
        """,
        (asked.start_ms - DAY_MS, asked.end_ms),
    ).fetchone()
    since_ms = asked.start_ms if died_ms is None else min(asked.start_ms, died_ms)
    low, high = lowest_id(max(0, since_ms - DAY_MS)), lowest_id(asked.end_ms + DAY_MS)
    return min(low, _ID_MAX), min(high, _ID_MAX)


def _floor(
    conn: sqlite3.Connection, table: str, column: str, which: str, asked: Range, span: Span, newest_first: bool = True
) -> int | None:
    """The id after the first SCAN_ROWS of a span; None if there are not so many. Read from the index alone."""
    owner = "key_id" if "usage_by_key" in table else "wallet_id"
    row = conn.execute(
        f"""
        select {column} from {table}
        where {owner} = ? and {which} and {column} between ? and ?
        order by {column} {"desc" if newest_first else "asc"}
        limit 1 offset ?
        """,
        (asked.key_id if owner == "key_id" else asked.wallet_id, *span, SCAN_ROWS),
    ).fetchone()
    return None if row is None else int(row[0])


# ── statements ───────────────────────────────────────────────────────────────────────────────────────────────────────

_DETAIL = "left join request_details as d on d.request_id = h.id"
# How its last attempt ended: what a stream that was cut short is told by.
_ENDING = "(select t.reason from attempts as t where t.request_id = h.id order by t.number desc limit 1) as ending"
_COUNTS = ("input_tokens", "output_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "cache_read_tokens", "web_searches")


def _settled(asked: Range, index: str, source: str, order: str) -> str:
    return f"""
        select u.request_id, 'settled' as state, null as reason, h.opened_at_ms, u.at_ms as ended_at_ms,
          u.key_id, k.name as key_name, u.model, {", ".join(f"u.{name}" for name in _COUNTS)}, u.cost_nanos, u.source, u.flags,
          d.stream, d.status, d.session, d.agent, d.first_byte_ms, d.total_ms, {_ENDING}
        from usage as u indexed by {index}
        cross join holds as h on h.id = u.request_id
        cross join keys as k on k.id = u.key_id
        {_DETAIL}
        where u.{"key_id = :key_id and u.wallet_id" if asked.key_id is not None else "wallet_id"} = :wallet
          and u.request_id between :low and :high and u.at_ms >= :start and u.at_ms < :end
          {"and u.source <> 'reported'" if index == "usage_unusual" else ""} {source} {_where(asked, "u")}
        order by u.request_id {order}
        limit :limit
    """


def _holds(index: str, which: str, order: str) -> str:
    """Of requests that were never settled: there is nothing to count."""
    return f"""
        select h.id as request_id, h.state, h.reason, h.opened_at_ms, h.resolved_at_ms as ended_at_ms,
          h.key_id, k.name as key_name, h.model, {", ".join(f"null as {name}" for name in _COUNTS)},
          0 as cost_nanos, null as source, '' as flags,
          d.stream, d.status, d.session, d.agent, d.first_byte_ms, d.total_ms, {_ENDING}
        from holds as h indexed by {index}
        cross join keys as k on k.id = h.key_id
        {_DETAIL}
        where {which} and h.id between :low and :high
        order by h.id {order}
        limit :limit
    """


def _read(conn: sqlite3.Connection, sql: str, asked: Range, span: Span, limit: int) -> list[dict[str, Any]]:
    cursor = conn.execute(sql, {**_parameters(asked), "low": span[0], "high": span[1], "limit": limit})
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _where(asked: Range, table: str) -> str:
    where = "" if asked.key_id is None else f"and {table}.key_id = :key_id "
    where += "" if asked.model is None else f"and {table}.model = :model "
    return where + ("" if asked.session is None else "and d.session = :session ")


def _void_where(asked: Range) -> str:
    return f"and h.resolved_at_ms >= :start and h.resolved_at_ms < :end {_where(asked, 'h')}"


def _running_where(asked: Range) -> str:
    """What runs has no detail yet, so it is of no session."""
    return "h.wallet_id = :wallet and h.state = 'open' " + ("and false" if asked.session is not None else _where(asked, "h"))


def _source(result: Result) -> str:
    return f"u.source = '{_SOURCES[result]}'"


def _sum(conn: sqlite3.Connection, index: str, of_index: str, asked: Range, which: str) -> Sums:
    """`of_index` is what the rows of the index have in common, `which` of them are summed."""
    spans = _spans(conn, asked)
    floor = _floor(conn, f"usage indexed by {index}", "request_id", of_index, asked, _extent(spans))
    sums = [0] * len(OWN_MEASURES)
    # A session lies in few spans that are far apart; all else is summed in one go.
    for low, high in spans if asked.session is not None else [_extent(spans)]:
        row = conn.execute(
            f"""
            select {", ".join(f"coalesce(sum({told}), 0)" for told in OWN_MEASURES.values())}
            from usage as u indexed by {index} {_DETAIL.replace("h.id", "u.request_id") if asked.session is not None else ""}
            where u.wallet_id = :wallet and u.request_id between :low and :high and u.at_ms >= :start and u.at_ms < :end
              {"" if of_index == "true" else f"and u.{of_index}"} and {which} {_where(asked, "u")}
            """,
            {**_parameters(asked), "low": low if floor is None else max(low, floor + 1), "high": high},
        ).fetchone()
        sums = [one + other for one, other in zip(sums, row, strict=True)]
    return Sums(dict(zip(OWN_MEASURES, sums, strict=True)), floor is None)


def _with_refunds(conn: sqlite3.Connection, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with what was given back of it."""
    texts = _json([render_id(row["request_id"]) for row in rows])
    given = conn.execute(
        """
        select coalesce((
          select sum(t.amount_nanos) from transfers as t
          where t.kind = 'refund' and t.reference > r.value || ':' and t.reference < r.value || ';'
        ), 0)
        from json_each(?) as r order by r.key
        """,
        (texts,),
    )
    return [{**row, "refunded_nanos": refunded} for row, (refunded,) in zip(rows, given, strict=True)]


def _parameters(asked: Range) -> dict[str, Any]:
    return {
        "wallet": asked.wallet_id,
        "start": asked.start_ms,
        "end": asked.end_ms,
        "key_id": asked.key_id,
        "model": asked.model,
        "session": asked.session,
    }


def _json(values: Sequence[Any]) -> str:
    return orjson.dumps(list(values)).decode()
