"""What a database file tells of its own state: for `pagegrid doctor`, on a reader's connection, every question bounded in time.

Asks only what every schema from the first one on can answer: an examination comes before an upgrade too.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.ids import lowest_id
from gateway.storage.database import WRITER_PRAGMAS, open_writer
from gateway.storage.migrate import find_migrations, migrations_folder, schema_version
from gateway.storage.users import count_by_plan

DAY_MS = 86_400_000
# Between two looks at the clock: some tenths of a millisecond of SQLite's work.
STEPS_BETWEEN_LOOKS = 10_000


@dataclass(frozen=True, slots=True)
class Life:
    """When things last happened (ms since 1970; None: never), and whose wallets are frozen now."""

    started_at_ms: int | None
    audited_at_ms: int | None
    backed_up_at_ms: int | None
    latest_at_ms: int | None
    frozen: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Growth:
    requests_per_day: float
    bytes_per_day: float


def schema_versions(conn: sqlite3.Connection) -> tuple[int, int]:
    """(that of the file, the newest that this release knows)."""
    return schema_version(conn), find_migrations(migrations_folder())[-1][0]


def is_wal(path: Path) -> bool:
    """Whether the file is written in WAL mode, which it remembers (sqlite.org/fileformat2.html §1.3: bytes 18 and 19 are 2)."""
    with path.open("rb") as file:
        return file.read(20)[18:20] == b"\x02\x02"


def pragmas_refused() -> dict[str, object]:
    """What this SQLite did not take of WRITER_PRAGMAS, by what it has instead; tried on a new file."""
    with tempfile.TemporaryDirectory() as folder, closing(open_writer(Path(folder) / "try.db")) as conn:
        found = {name: _pragma(conn, name) for name in WRITER_PRAGMAS}
    return {name: value for name, value in found.items() if value != WRITER_PRAGMAS[name]}


def quick_check(conn: sqlite3.Connection, limit_s: float) -> list[str] | None:
    """What is damaged, [] for nothing; None if the file is too large to tell within `limit_s`. Raises sqlite3.Error."""
    with _at_most(conn, limit_s) as late:
        try:
            found = [str(row[0]) for row in conn.execute("pragma quick_check(10)")]
        except sqlite3.OperationalError:
            if late():
                return None
            raise
    return [] if found == ["ok"] else found


def life(conn: sqlite3.Connection, backup_action: str) -> Life:
    """`backup_action` is what the audit log calls a backup."""
    started = conn.execute("select max(started_at_ms) from boots").fetchone()[0]
    # The latest of what is written in order; a request's id is of its moment.
    latest = conn.execute(
        """
        select max(coalesce((select max(started_at_ms) from boots), 0), coalesce((select max(id) from holds), 0) / ?)
        """,
        (lowest_id(1),),
    ).fetchone()[0]
    return Life(
        started_at_ms=started,
        audited_at_ms=conn.execute("select max(at_ms) from checkpoints").fetchone()[0],
        backed_up_at_ms=conn.execute("select max(at_ms) from audit_log where action = ?", (backup_action,)).fetchone()[0],
        latest_at_ms=latest or None,
        frozen=tuple(row[0] for row in conn.execute(_FROZEN)),
    )


def users_by_plan(conn: sqlite3.Connection) -> dict[str, int]:
    """How many users have each plan; {} before schema 2, which brought plans."""
    known = any(column[1] == "plan" for column in conn.execute("pragma table_info(users)"))
    return count_by_plan(conn) if known else {}


def growth(conn: sqlite3.Connection, at_ms: int, file_bytes: int, days: int, limit_s: float) -> Growth | None:
    """At the pace of the last `days`; None if there is less than a day to go by, or it takes too long to count."""
    with _at_most(conn, limit_s) as late:
        try:
            total, oldest = conn.execute("select count(*), min(id) from holds").fetchone()
            since = lowest_id(at_ms - days * DAY_MS)
            recent = conn.execute("select count(*) from holds where id >= ?", (since,)).fetchone()[0]
        except sqlite3.OperationalError:
            if late():
                return None
            raise
    if not recent:
        return None
    seen_days = min(days, (at_ms - oldest / lowest_id(1)) / DAY_MS)
    if seen_days < 1:
        return None
    per_day = recent / seen_days
    return Growth(per_day, per_day * file_bytes / total)


_FROZEN = """
    select coalesce(u.name, a.name) from accounts as a left join users as u on u.id = a.user_id where a.frozen = 1 order by a.id
"""

# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pragma(conn: sqlite3.Connection, name: str) -> object:
    row = conn.execute(f"pragma {name}").fetchone()
    return None if row is None else row[0]


@contextmanager
def _at_most(conn: sqlite3.Connection, limit_s: float) -> Iterator[Callable[[], bool]]:
    """Statements inside are interrupted (sqlite3.OperationalError) when the time is over."""
    deadline = time.monotonic() + limit_s

    def late() -> bool:
        return time.monotonic() > deadline

    conn.set_progress_handler(late, STEPS_BETWEEN_LOOKS)
    try:
        yield late
    finally:
        conn.set_progress_handler(None, 0)
