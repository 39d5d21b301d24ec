"""What keys used before this start, for the limits that count over days and months. SQL only.

A request counts for the day on which its hold was opened, which is what the running house counts by. Requests of this start are
counted in memory; their ids are all above `until_id`, so what is read here never changes and can be read at any time.
"""

from __future__ import annotations

import sqlite3

from gateway.ids import lowest_id
from gateway.limits import DAY_MS, Spent

# The longest window is a month; a clock that was set back by days still finds them.
_MONTH_DAYS = 33


def load_spent(conn: sqlite3.Connection, root_id: int, until_id: int, at_ms: int) -> list[Spent]:
    """By day, the last month of a key and of those that it replaced."""
    rows = conn.execute(
        """
        select h.opened_at_ms / 86400000, count(*),
          sum(u.input_tokens + u.cache_write_5m_tokens + u.cache_write_1h_tokens + u.output_tokens), sum(u.cost_nanos)
        from usage as u join holds as h on h.id = u.request_id
        where u.key_id in (select id from keys where root_id = ?) and u.request_id between ? and ?
        group by 1
        """,
        (root_id, lowest_id(at_ms - _MONTH_DAYS * DAY_MS), until_id),
    ).fetchall()
    return [Spent(*map(int, row)) for row in rows]


def load_spent_ever(conn: sqlite3.Connection, root_id: int, until_id: int) -> int:
    """Nanos of all requests of a key and of those that it replaced."""
    return int(
        conn.execute(
            """
            select coalesce(sum(cost_nanos), 0) from usage
            where key_id in (select id from keys where root_id = ?) and request_id <= ?
            """,
            (root_id, until_id),
        ).fetchone()[0]
    )


def find_roots(conn: sqlite3.Connection, at_ms: int, *, key_id: int | None = None, user_id: int | None = None) -> list[int]:
    """The chains of rotations that this key, or the keys of this user that are not dead at `at_ms`, belong to."""
    rows = conn.execute(
        """
        select distinct root_id from keys
        where id = :key or (user_id = :user and (revoked_at_ms is null or revoked_at_ms > :at))
        """,
        {"key": key_id, "user": user_id, "at": at_ms},
    ).fetchall()
    return [row[0] for row in rows]
