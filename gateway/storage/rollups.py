"""Roll-ups: sums over `usage` by hour and day (for ever) and by session (pruned with the detail), filled in the background.

    usage up to the mark     in usage_hours, usage_days, usage_sessions
    usage above the mark     read by every report from `usage` itself

The mark is a request id. In every committed state the roll-ups are the sums over exactly the rows at or below it, because each
way in which that could change is one transaction:

    the mark moves                  what lies between is added with it (`roll_up`)
    a row comes below the mark      added with it, whatever its clock said (`add`, called by the LedgerWriter): a request that
                                    ran long, or one that a crash left behind
    a row changes or goes           never; triggers see to it

So nothing rests on clocks, on the order of settles or on hours being over. `differences` proves it against `usage` all the same.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.storage.readonly import snapshot

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
# Rows of usage per job of the writer: some 6 ms (measured; bench/README.md).
SLICE_ROWS = 500
CHECK_SLICE_ROWS = 20_000

# What is summed, by its column, as it is told of one row of usage `u`. `u.upstream` is what all its attempts cost.
OWN_MEASURES = {
    "requests": "1",
    "input_tokens": "u.input_tokens",
    "output_tokens": "u.output_tokens",
    "cache_write_5m_tokens": "u.cache_write_5m_tokens",
    "cache_write_1h_tokens": "u.cache_write_1h_tokens",
    "cache_read_tokens": "u.cache_read_tokens",
    "web_searches": "u.web_searches",
    "cost_nanos": "u.cost_nanos",
    "paid_nanos": "u.paid_nanos",
    "estimated_requests": "u.source = 'estimated'",
    "partial_requests": "u.source = 'partial'",
    "recovered_requests": "u.source = 'recovered'",
}
UPSTREAM_MEASURES = {"upstream_nanos": "coalesce(u.upstream_cost, 0)", "upstream_unknown": "u.upstream_cost is null"}
MEASURES = OWN_MEASURES | UPSTREAM_MEASURES
UPSTREAM_COST = "(select sum(a.cost_nanos) from attempts as a where a.request_id = usage.request_id) as upstream_cost"

# The columns of one group as they are read and handed on: dimensions, measures, and the ids between which its requests lie.
_DIMENSIONS = ("hour_at_ms", "wallet_id", "key_id", "model", "session", "agent")
_COLUMNS = (*_DIMENSIONS, *MEASURES, "first_request_id", "last_request_id")

Group = tuple[Any, ...]


def mark(conn: sqlite3.Connection) -> int:
    return int(conn.execute("select request_id from rollup_mark").fetchone()[0])


def roll_up(conn: sqlite3.Connection, until_id: int, rows: int = SLICE_ROWS) -> tuple[int, bool]:
    """Move the mark over at most `rows` rows of usage, up to `until_id`; returns the mark, and whether there is more to do.

    For the writer's connection, in its transaction, through `LedgerWriter.roll_up`.
    """
    low = mark(conn)
    last = conn.execute(
        "select request_id from usage where request_id > ? and request_id <= ? order by request_id limit 1 offset ?",
        (low, until_id, rows - 1),
    ).fetchone()
    high = max(low, until_id if last is None else last[0])
    if high > low:
        _store(conn, "request_id > ? and request_id <= ?", (low, high))
        conn.execute("update rollup_mark set request_id = ?", (high,))
    return high, high < until_id


def add(conn: sqlite3.Connection, request_ids: Iterable[int]) -> None:
    """Usage that was just written at or below the mark; its detail and attempts must be written already."""
    _store(conn, "request_id in (select value from json_each(?))", (orjson.dumps(list(request_ids)).decode(),))


# ── the proof ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Difference:
    """What must be added to the roll-ups of one day so that they are what `usage` says; its numbers may be negative."""

    day_at_ms: int
    hours: tuple[Group, ...]
    days: tuple[Group, ...]


def differences(conn: sqlite3.Connection, pause: Callable[[], None] = lambda: None) -> list[Difference]:
    """Compare the roll-ups with usage, day by day, on a reader's connection; `pause` is called between slices.

    First sums of whole days, in slices; what has moved meanwhile shows as a difference there, so each such day is looked at
    again, in one snapshot and group by group. What attempts cost cannot be proved: they are pruned.
    """
    counted = _count_days(conn, pause)
    wrong = set()
    for table, at in (("usage_hours", "hour_at_ms"), ("usage_days", "day_at_ms")):
        stored = {row[0]: row[1:] for row in conn.execute(_stored_days(table, at))}
        wrong |= {day for day in {*stored, *counted} if stored.get(day) != counted.get(day, (None,))[:-2]}
        pause()
    found = [_difference(conn, day, counted[day][-2:] if day in counted else None) for day in sorted(wrong)]
    return [difference for difference in found if difference.hours or difference.days]


def mend(conn: sqlite3.Connection, difference: Difference) -> None:
    """Add a difference. Sums commute: what was rolled up since it was found does no harm."""
    for table, groups in (("usage_hours", difference.hours), ("usage_days", difference.days)):
        _begin_groups(conn)
        conn.executemany(f"insert into temp.usage_groups values ({', '.join('?' * len(_COLUMNS))})", groups)
        _upsert(conn, table)
    _end_groups(conn)
    day = (difference.day_at_ms,)
    conn.execute("delete from usage_days where day_at_ms = ? and requests = 0", day)
    conn.execute("delete from usage_hours where hour_at_ms >= ?1 and hour_at_ms < ?1 + ?2 and requests = 0", (*day, DAY_MS))


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────

# The key columns of each table, and what each is of a group.
_KEYS = {
    "usage_hours": {name: name for name in _DIMENSIONS[:4]},
    "usage_days": {"day_at_ms": f"hour_at_ms - hour_at_ms % {DAY_MS}", **{name: name for name in _DIMENSIONS[1:4]}},
    "usage_sessions": {name: name for name in _DIMENSIONS},
}


def _store(conn: sqlite3.Connection, which: str, parameters: tuple[Any, ...]) -> None:
    """Add these rows of usage to every roll-up. Grouped once, in a temporary table: as JSON it took three times as long."""
    sums = ", ".join(f"sum({told})" for told in MEASURES.values())
    _begin_groups(conn)
    conn.execute(
        f"""
        insert into temp.usage_groups
        with u as materialized (select *, {UPSTREAM_COST} from usage where {which})
        select u.at_ms - u.at_ms % {HOUR_MS}, u.wallet_id, u.key_id, u.model, coalesce(d.session, ''), coalesce(d.agent, ''),
          {sums}, min(u.request_id), max(u.request_id)
        from u left join request_details as d on d.request_id = u.request_id
        group by 1, 2, 3, 4, 5, 6
        """,
        parameters,
    )
    for table in _KEYS:
        _upsert(conn, table)
    _end_groups(conn)


def _begin_groups(conn: sqlite3.Connection) -> None:
    conn.execute(f"create temp table if not exists usage_groups ({', '.join(_COLUMNS)})")
    _end_groups(conn)


def _end_groups(conn: sqlite3.Connection) -> None:
    conn.execute("delete from temp.usage_groups")


def _upsert(conn: sqlite3.Connection, table: str) -> None:
    keys = _KEYS[table]
    names = ", ".join(keys)
    added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in MEASURES)
    conn.execute(
        f"""
        insert into {table} ({names}, {", ".join(MEASURES)}, first_request_id, last_request_id)
        select {", ".join(keys.values())}, {", ".join(f"sum({name})" for name in MEASURES)},
          min(first_request_id), max(last_request_id)
        from temp.usage_groups
        where true
        group by {", ".join(str(place) for place in range(1, len(keys) + 1))}
        on conflict ({names}) do update set {added},
          first_request_id = min({table}.first_request_id, excluded.first_request_id),
          last_request_id = max({table}.last_request_id, excluded.last_request_id)
        """
    )


def _count_days(conn: sqlite3.Connection, pause: Callable[[], None]) -> dict[int, Group]:
    """Per day: every measure of its own, and the ids between which its requests lie; read in slices up to the mark."""
    sums = ", ".join(f"sum({told})" for told in OWN_MEASURES.values())
    days: dict[int, Group] = {}
    low, end = 0, mark(conn)
    while low < end:
        row = conn.execute(
            "select request_id from usage where request_id > ? order by request_id limit 1 offset ?", (low, CHECK_SLICE_ROWS - 1)
        ).fetchone()
        high = end if row is None else min(row[0], end)
        for day, *values in conn.execute(
            f"""
            select u.at_ms - u.at_ms % {DAY_MS}, {sums}, min(u.request_id), max(u.request_id)
            from usage as u where u.request_id > ? and u.request_id <= ?
            group by 1
            """,
            (low, high),
        ):
            days[day] = _merged(days.get(day), values)
        low = high
        pause()
    return days


def _merged(earlier: Group | None, values: list[int]) -> Group:
    if earlier is None:
        return tuple(values)
    sums = [one + other for one, other in zip(earlier[:-2], values[:-2], strict=True)]
    return (*sums, min(earlier[-2], values[-2]), max(earlier[-1], values[-1]))


def _stored_days(table: str, at: str) -> str:
    sums = ", ".join(f"sum({name})" for name in OWN_MEASURES)
    return f"select {at} - {at} % {DAY_MS}, {sums} from {table} group by 1"


def _difference(conn: sqlite3.Connection, day: int, ids: tuple[int, ...] | None) -> Difference:
    names = ", ".join(OWN_MEASURES)
    sums = ", ".join(f"sum({told})" for told in OWN_MEASURES.values())
    with snapshot(conn):
        hours = conn.execute(
            f"""
            select hour_at_ms, wallet_id, key_id, model, {names}, first_request_id, last_request_id
            from usage_hours where hour_at_ms >= ? and hour_at_ms < ?
            """,
            (day, day + DAY_MS),
        ).fetchall()
        days = conn.execute(
            f"""
            select day_at_ms, wallet_id, key_id, model, {names}, first_request_id, last_request_id
            from usage_days where day_at_ms = ?
            """,
            (day,),
        ).fetchall()
        known = [row[-2:] for row in (*hours, *days)] + ([ids] if ids else [])
        truth = conn.execute(
            f"""
            select u.at_ms - u.at_ms % {HOUR_MS}, u.wallet_id, u.key_id, u.model, {sums}, min(u.request_id), max(u.request_id)
            from usage as u
            where u.request_id >= ? and u.request_id <= min(?, (select request_id from rollup_mark))
              and u.at_ms >= ? and u.at_ms < ?
            group by 1, 2, 3, 4
            """,
            (min(first for first, _ in known), max(last for _, last in known), day, day + DAY_MS),
        ).fetchall()
    return Difference(day, _subtract(truth, hours), _subtract([(day, *row[1:]) for row in truth], days))


def _subtract(truth: list[Group], stored: list[Group]) -> tuple[Group, ...]:
    """truth − stored, as groups that can be added; nothing where they agree."""
    left: dict[Group, list[int]] = {}
    for rows, sign in ((truth, 1), (stored, -1)):
        for row in rows:
            values = left.setdefault(row[:4], [0] * len(OWN_MEASURES) + [row[-2], row[-1]])
            for place, value in enumerate(row[4:-2]):
                values[place] += sign * value
            values[-2:] = [min(values[-2], row[-2]), max(values[-1], row[-1])]
    # What its upstream cost is unknown now.
    return tuple(
        (*key, "", "", *values[:-2], 0, max(0, values[0]), *values[-2:]) for key, values in left.items() if any(values[:-2])
    )
