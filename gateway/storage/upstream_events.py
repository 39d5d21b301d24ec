"""When provider accounts, or single models of theirs, were not asked: rows of `upstream_events`. And when the process was there.

What ends by time has no end in its row: `until_ms` says when it was over.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# A storm with a short rest after each answer writes much; more than so many rows nobody reads.
ROWS_MAX = 20_000

State = Literal["cooling", "rejected", "disabled"]


@dataclass(slots=True, eq=False)
class Event:
    """One row, itself and no other. `model` "" is all of the account; `rests`: how often it was put to rest meanwhile."""

    upstream: str
    model: str
    state: State
    cause: str
    reason: str
    began_at_ms: int
    until_ms: int | None = None
    ended_at_ms: int | None = None
    asked_ms: int | None = None
    rests: int = 1
    id: int | None = None

    def over_ms(self, now_ms: int) -> int:
        """When it was over, or will be: what cools is asked again when its time is up, whoever answers."""
        end = now_ms if self.ended_at_ms is None else self.ended_at_ms
        if self.state != "cooling" or self.until_ms is None:
            return end
        return self.until_ms if self.ended_at_ms is None else min(end, self.until_ms)


@dataclass(frozen=True, slots=True)
class Boot:
    """`seen_at_ms` is its last sign of life; None: nobody took note then."""

    started_at_ms: int
    seen_at_ms: int | None


_COLUMNS = "upstream, model, state, cause, reason, began_at_ms, until_ms, ended_at_ms, asked_ms, rests, id"


def write_events(conn: sqlite3.Connection, events: Sequence[Event]) -> list[int]:
    """Insert those without an id, update the others; their ids."""
    ids = []
    for event in events:
        row = (event.upstream, event.model, event.state, event.cause, event.reason, event.began_at_ms)
        moving = (event.until_ms, event.ended_at_ms, event.asked_ms, event.rests)
        if event.id is None:
            found = conn.execute(
                """
                insert into upstream_events
                  (boot_id, upstream, model, state, cause, reason, began_at_ms, until_ms, ended_at_ms, asked_ms, rests)
                values ((select max(id) from boots), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                returning id
                """,
                (*row, *moving),
            ).fetchone()
            ids.append(int(found[0]))
        else:
            conn.execute(
                "update upstream_events set reason = ?, until_ms = ?, ended_at_ms = ?, asked_ms = ?, rests = ? where id = ?",
                (event.reason, *moving, event.id),
            )
            ids.append(event.id)
    return ids


def end_left_open(conn: sqlite3.Connection) -> None:
    """At a start: how accounts stood ended with the process that knew it, at its last sign of life."""
    conn.execute(
        """
        update upstream_events set ended_at_ms = max(began_at_ms, coalesce(
          (select b.seen_at_ms from boots as b where b.id = upstream_events.boot_id), began_at_ms))
        where ended_at_ms is null
        """
    )


def mark_seen(conn: sqlite3.Connection, at_ms: int) -> None:
    conn.execute("update boots set seen_at_ms = ? where id = (select max(id) from boots)", (at_ms,))


def list_events(conn: sqlite3.Connection, since_ms: int) -> list[Event]:
    """Those that had not ended then, oldest first."""
    rows = conn.execute(
        f"""
        select {_COLUMNS} from upstream_events where ended_at_ms is null
        union all
        select {_COLUMNS} from upstream_events where ended_at_ms >= ?
        order by began_at_ms, id
        """,  # noqa: S608 (our own column names)
        (since_ms,),
    ).fetchall()
    return [Event(*row) for row in rows]


def list_boots(conn: sqlite3.Connection, since_ms: int) -> list[Boot]:
    """Those that may have been there then or later, oldest first: the last one before, and all after it."""
    rows = conn.execute(
        """
        select started_at_ms, seen_at_ms from boots
        where id >= (select coalesce(max(id), 0) from boots where started_at_ms < ?)
        order by id
        """,
        (since_ms,),
    ).fetchall()
    return [Boot(*row) for row in rows]


def prune_events(conn: sqlite3.Connection, before_ms: int) -> None:
    """Forget what ended before, and the oldest of too many."""
    conn.execute("delete from upstream_events where ended_at_ms < ?", (before_ms,))
    conn.execute(
        "delete from upstream_events where id <= (select max(id) from upstream_events) - ? and ended_at_ms is not null",
        (ROWS_MAX,),
    )
