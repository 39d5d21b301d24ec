"""What was used, summed up or request by request. SQL only; plain functions on a reader's connection.

    whole days          usage_days     ─┐
    hours at the edges  usage_hours     ├─ one statement, so one state of the database: exact at every moment
    above the mark      usage itself   ─┘

By session or agent: usage_sessions instead of the first two. Times are those of the settle. Sums are by whole hours, single
requests to the millisecond.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from gateway.storage.readonly import snapshot
from gateway.storage.rollups import DAY_MS, HOUR_MS, MEASURES, OWN_MEASURES, UPSTREAM_COST, mark

Dimension = Literal["day", "model", "key", "user", "session", "agent"]

COLUMNS: dict[Dimension, str] = {
    "day": "day_at_ms",
    "model": "model",
    "key": "key_id",
    "user": "wallet_id",
    "session": "session",
    "agent": "agent",
}
DETAIL: frozenset[Dimension] = frozenset({"session", "agent"})
# What a page of single requests looks at, at most: a filter that fits few of them must not read all.
SCAN_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Range:
    """Whose usage (of everybody if `wallet_id` is None), from when until before when, and which of it."""

    start_ms: int
    end_ms: int
    wallet_id: int | None = None
    key_id: int | None = None
    model: str | None = None
    session: str | None = None
    agent: str | None = None

    @property
    def of_detail(self) -> bool:
        return self.session is not None or self.agent is not None


Place = tuple[int | str, ...]


def sum_usage(
    conn: sqlite3.Connection,
    asked: Range,
    group_by: Sequence[Dimension],
    *,
    limit: int,
    after: Place | None = None,
    upstream: bool = False,
) -> tuple[list[tuple[dict[str, Any], Place]], dict[str, Any]]:
    """At most `limit` groups with their measures (those of the upstream too, if asked), each with its place in the order; and the
    sums over all groups.

    Latest day first, then by name; sessions and agents by their first request, the latest first. `after` is the place of the last
    group of the page before. `asked` must begin and end with an hour.
    """
    assert group_by and asked.start_ms % HOUR_MS == asked.end_ms % HOUR_MS == 0
    columns = [COLUMNS[dimension] for dimension in group_by]
    measures = MEASURES if upstream else OWN_MEASURES
    order = _order(group_by)
    names = [*columns, *measures, *(name for dimension in group_by for name in _NAMES.get(dimension, {}).values())]
    rows = conn.execute(
        f"""
        with sums as materialized (
          select {", ".join([*columns, *(f"sum({name}) as {name}" for name in measures)])},
            min(first_request_id) as first_request_id
          from ({_sources(asked, measures, detail=asked.of_detail or bool(DETAIL & set(group_by)))})
          group by {", ".join(columns)}
        )
        select * from (
          select {", ".join([*(f"s.{name}" for name in (*columns, *measures)), *_named(group_by), *order])}
          from sums as s {"".join(_JOINS.get(dimension, "") for dimension in group_by)}
          {f"where ({', '.join(order)}) > ({', '.join(f':after{n}' for n in range(len(order)))})" if after else ""}
          order by {", ".join(order)}
          limit :limit
        )
        union all
        select {", ".join([*["null"] * len(columns), *(f"coalesce(sum({name}), 0)" for name in measures)])}
          {", null" * (len(_named(group_by)) + len(order))}
        from sums
        """,
        {**_parameters(asked), "limit": limit, **{f"after{n}": value for n, value in enumerate(after or ())}},
    ).fetchall()
    groups = [(dict(zip(names, row[: len(names)], strict=True)), row[len(names) :]) for row in rows]
    total, _ = groups.pop()
    return groups, total


def dearest(conn: sqlite3.Connection, asked: Range, by: Dimension, *, limit: int) -> list[dict[str, Any]]:
    """The groups of one dimension that cost most, with requests and cost; what has none (requests of no session) is left out.

    `asked` must begin and end with an hour.
    """
    assert asked.start_ms % HOUR_MS == asked.end_ms % HOUR_MS == 0
    column = COLUMNS[by]
    measures = {name: OWN_MEASURES[name] for name in ("requests", "cost_nanos")}
    cursor = conn.execute(
        f"""
        select s.*{"".join(f", {told} as {name}" for told, name in _NAMES.get(by, {}).items())}
        from (
          select {column}, {", ".join(f"sum({name}) as {name}" for name in measures)}
          from ({_sources(asked, measures, detail=asked.of_detail or by in DETAIL)})
          where {column} <> ''
          group by {column}
          order by sum(cost_nanos) desc, {column}
          limit :limit
        ) as s {_JOINS.get(by, "")}
        order by s.cost_nanos desc, s.{column}
        """,
        {**_parameters(asked), "limit": limit},
    )
    names = [told[0] for told in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def place_kinds(group_by: Sequence[Dimension]) -> tuple[type, ...]:
    """Of what a place in the order of these groups consists."""
    return tuple(str if column == "s.model" else int for column in _order(group_by))


def list_usage(
    conn: sqlite3.Connection, asked: Range, *, limit: int, before_id: int | None = None
) -> tuple[list[Any], int | None]:
    """Single requests of one wallet as dicts, the latest first, and the `before_id` of the next page if there is one.

    A page may be short, or empty, before the last: it looks at SCAN_ROWS requests at most.
    """
    assert asked.wallet_id is not None
    found: list[dict[str, Any]] = []
    with snapshot(conn):
        for low, high in _id_ranges(conn, asked, before_id):
            floor = _floor(conn, asked, low, high)
            parameters = {**_parameters(asked), "low": floor, "high": high, "limit": limit + 1 - len(found)}
            rows = conn.execute(_requests(asked), parameters)
            names = [column[0] for column in rows.description]
            found += [dict(zip(names, row, strict=True)) for row in rows.fetchall()]
            if len(found) > limit:
                return found[:limit], found[limit - 1]["request_id"]
            if floor > low:
                return found, floor + 1
    return found, None


def key_of_wallet(conn: sqlite3.Connection, wallet_id: int, key_id: int) -> bool:
    return (
        conn.execute(
            "select 1 from keys as k join accounts as a on a.user_id = k.user_id where a.id = ? and k.id = ?", (wallet_id, key_id)
        ).fetchone()
        is not None
    )


# ── sums ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

# What people call a key and a user: expression → name.
_NAMES: dict[Dimension, dict[str, str]] = {"key": {"k.name": "key_name", "k.hint": "key_hint"}, "user": {"p.name": "user_name"}}
_JOINS: dict[Dimension, str] = {
    "key": " left join keys as k on k.id = s.key_id",
    "user": " left join accounts as a on a.id = s.wallet_id left join users as p on p.id = a.user_id",
}


def _named(group_by: Sequence[Dimension]) -> list[str]:
    return [expression for dimension in group_by for expression in _NAMES.get(dimension, {})]


def _order(group_by: Sequence[Dimension]) -> list[str]:
    """Expressions, all ascending, whose values are different for each group."""
    order = ["-s.day_at_ms"] if "day" in group_by else []
    if DETAIL & set(group_by):
        # A request stands in one group only.
        return [*order, "-s.first_request_id"]
    return [*order, *(f"s.{COLUMNS[dimension]}" for dimension in group_by if dimension != "day")]


def _sources(asked: Range, measures: dict[str, str], *, detail: bool) -> str:
    """Everything in the range as rows of one shape: day, wallet, key, model, session, agent, measures, first id."""
    parts = [_tail(asked, measures, detail=detail)]
    if detail:
        parts.append(_rolled(asked, measures, "usage_sessions", "hour_at_ms", "all_hours", detail=True))
    else:
        parts.append(_rolled(asked, measures, "usage_days", "day_at_ms", "days", detail=False))
        parts.append(_rolled(asked, measures, "usage_hours", "hour_at_ms", "edge_hours", detail=False))
    return "\nunion all\n".join(parts)


def _rolled(asked: Range, measures: dict[str, str], table: str, at: str, times: str, *, detail: bool) -> str:
    # One search per hour or day, and wallet: the tables are in order of time. A session of a wallet has an index of its own.
    where = _where(asked, "r", session="r.session", agent="r.agent")
    source = f"json_each(:{times}) as t cross join {table} as r on r.{at} = t.value"
    if table == "usage_sessions" and asked.session is not None and asked.wallet_id is not None:
        source = f"{table} as r indexed by usage_sessions_by_session where r.{at} >= :start and r.{at} < :end"
    return f"""
        select r.{at} - r.{at} % {DAY_MS} as day_at_ms, r.wallet_id, r.key_id, r.model,
          {"r.session, r.agent" if detail else "'' as session, '' as agent"}, {", ".join(f"r.{name}" for name in measures)},
          r.first_request_id
        from {source} {where}
    """


def _tail(asked: Range, measures: dict[str, str], *, detail: bool) -> str:
    where = _where(asked, "u", session="coalesce(d.session, '')", agent="coalesce(d.agent, '')")
    cost = f", {UPSTREAM_COST}" if len(measures) > len(OWN_MEASURES) else ""
    return f"""
        select u.at_ms - u.at_ms % {DAY_MS} as day_at_ms, u.wallet_id, u.key_id, u.model,
          {"coalesce(d.session, '') as session, coalesce(d.agent, '') as agent" if detail else "'' as session, '' as agent"},
          {", ".join(f"{told} as {name}" for name, told in measures.items())}, u.request_id as first_request_id
        from (select usage.*{cost} from usage) as u
        {"left join request_details as d on d.request_id = u.request_id" if detail else ""}
        where u.request_id > (select request_id from rollup_mark) and u.at_ms >= :start and u.at_ms < :end {where}
    """


def _where(asked: Range, table: str, *, session: str, agent: str) -> str:
    where = [
        *([f"{table}.wallet_id = :wallet"] if asked.wallet_id is not None else []),
        *([f"{table}.key_id = :key"] if asked.key_id is not None else []),
        *([f"{table}.model = :model"] if asked.model is not None else []),
        *([f"{session} = :session"] if asked.session is not None else []),
        *([f"{agent} = :agent"] if asked.agent is not None else []),
    ]
    return "".join(f"and {condition} " for condition in where)


def _parameters(asked: Range) -> dict[str, Any]:
    start, end = asked.start_ms, asked.end_ms
    first_day, last_day = start + -start % DAY_MS, end - end % DAY_MS
    days = range(first_day, last_day, DAY_MS)
    edges = [*range(start, first_day, HOUR_MS), *range(last_day, end, HOUR_MS)] if days else range(start, end, HOUR_MS)
    return {
        "start": start,
        "end": end,
        "days": _json(days),
        "edge_hours": _json(edges),
        "all_hours": _json(range(start, end, HOUR_MS)) if start % HOUR_MS == 0 else "[]",
        "wallet": asked.wallet_id,
        "key": asked.key_id,
        "model": asked.model,
        "session": asked.session,
        "agent": asked.agent,
    }


def _json(times: Sequence[int]) -> str:
    return orjson.dumps(list(times)).decode()


# ── single requests ──────────────────────────────────────────────────────────────────────────────────────────────────


def _id_ranges(conn: sqlite3.Connection, asked: Range, before_id: int | None) -> list[tuple[int, int]]:
    """(low, high] ranges of ids in which all that is asked for lies, the latest first: what is not rolled up, and what is.

    Ids tell when a request began, the range is about when it was settled, and clocks may have jumped between the two; so the
    roll-ups say where the ids of those days lie.
    """
    top = 2**63 - 1 if before_id is None else before_id - 1
    rolled_up_to = mark(conn)
    hours = range(asked.start_ms - asked.start_ms % HOUR_MS, asked.end_ms, HOUR_MS)
    days = range(asked.start_ms - asked.start_ms % DAY_MS, asked.end_ms, DAY_MS)
    table, at, times = ("usage_sessions", "hour_at_ms", hours) if asked.of_detail else ("usage_days", "day_at_ms", days)
    first, last = conn.execute(
        f"""
        select min(r.first_request_id), max(r.last_request_id)
        from json_each(:times) as t cross join {table} as r
        on r.{at} = t.value {_where(asked, "r", session="r.session", agent="r.agent")}
        """,
        {**_parameters(asked), "times": _json(times)},
    ).fetchone()
    ranges = [(rolled_up_to, top)] + ([] if first is None else [(first - 1, min(last, top))])
    return [(low, high) for low, high in ranges if low < high]


def _floor(conn: sqlite3.Connection, asked: Range, low: int, high: int) -> int:
    """`low`, or a higher one if more than SCAN_ROWS requests lie between it and `high`."""
    column, value = ("wallet_id", asked.wallet_id) if asked.key_id is None else ("key_id", asked.key_id)
    row = conn.execute(
        f"""
        select request_id from usage where {column} = ? and request_id > ? and request_id <= ?
        order by request_id desc
        limit 1 offset ?
        """,
        (value, low, high, SCAN_ROWS),
    ).fetchone()
    return low if row is None else int(row[0])


def _requests(asked: Range) -> str:
    where = _where(asked, "u", session="coalesce(d.session, '')", agent="coalesce(d.agent, '')")
    if asked.key_id is not None:
        where = where.replace("u.wallet_id", "+u.wallet_id")  # the key's own index has fewer rows
    return f"""
        select u.request_id, h.opened_at_ms, u.at_ms, u.key_id, k.name as key_name, u.model, u.upstream_model,
          u.input_tokens, u.output_tokens, u.cache_write_5m_tokens, u.cache_write_1h_tokens, u.cache_read_tokens, u.web_searches,
          u.cost_nanos, u.source, u.flags, d.session, d.agent, d.stream, d.status, d.admitted_ms, d.first_byte_ms, d.total_ms
        from usage as u
        cross join holds as h on h.id = u.request_id
        cross join keys as k on k.id = u.key_id
        left join request_details as d on d.request_id = u.request_id
        where u.request_id > :low and u.request_id <= :high and u.at_ms >= :start and u.at_ms < :end {where}
        order by u.request_id desc
        limit :limit
    """
