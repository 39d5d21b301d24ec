"""How long each report takes on a database of `usage_rows.py`, and how long its upkeep holds the writer up.

    PYTHONPATH=. python bench/usage_rows.py /tmp/big/pagegrid.db
    PYTHONPATH=. python bench/reports.py /tmp/big/pagegrid.db          # changes the file: rolls it up, prunes the older half

Each report is read as the gateway reads it: a connection of its own, the page rendered. Three times, the median is shown.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from gateway.desk.usage_reports import _render_cursor, parse_question, render_csv_page, report_of_owner, report_usage
from gateway.storage import retention, rollups
from gateway.storage.database import open_reader, open_writer
from gateway.storage.ledger import LedgerWriter
from gateway.storage.reports import Dimension

RUNS = 3
# Left above the mark, as a busy gateway leaves some minutes of it.
TAIL_ROWS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    path: Path = parser.parse_args().file
    with closing(open_writer(path)) as conn:
        ledger = LedgerWriter(conn, 1)
        newest = conn.execute("select request_id from usage order by 1 desc limit 1 offset ?", (TAIL_ROWS,)).fetchone()[0]
        measure_jobs(conn, "roll up", lambda: ledger.roll_up(newest))
    with closing(open_reader(path)) as conn:
        now_ms = conn.execute("select max(at_ms) from usage").fetchone()[0]
        begun = time.perf_counter()
        found = rollups.differences(conn)
        print(f"differences between roll-ups and usage: {len(found)}, looked for in {time.perf_counter() - begun:.1f} s")
        for table in ("usage", "usage_hours", "usage_days", "usage_sessions"):
            print(f"  {table}: {conn.execute(f'select count(*) from {table}').fetchone()[0]:,} rows")
        heaviest = conn.execute("select wallet_id from usage_days group by 1 order by sum(requests) desc").fetchone()[0]
        session = conn.execute(
            "select session from usage_sessions where wallet_id = ? limit 1 offset 1000", (heaviest,)
        ).fetchone()[0]
    measure_reports(path, now_ms, heaviest, session)
    with closing(open_writer(path)) as conn:
        before_ms = now_ms - 45 * rollups.DAY_MS
        measure_jobs(conn, "prune attempts and details", lambda: retention.prune_detail(conn, before_ms))
        measure_jobs(conn, "prune sums by session", lambda: retention.prune_sessions(conn, before_ms))


def measure_jobs(conn: sqlite3.Connection, name: str, job: Callable[[], bool]) -> None:
    """Run it to its end as the writer does: each slice a transaction, checkpoints in between."""
    took_ms = []
    more = True
    changes = conn.total_changes
    while more:
        begun = time.perf_counter()
        conn.execute("begin immediate")
        more = job()
        conn.execute("commit")
        took_ms.append((time.perf_counter() - begun) * 1e3)
        if conn.total_changes - changes > 4_000:
            conn.execute("pragma wal_checkpoint(passive)")
            changes = conn.total_changes
    p99 = statistics.quantiles(took_ms, n=100)[98] if len(took_ms) > 1 else took_ms[0]
    print(
        f"{name}: {len(took_ms)} jobs, {sum(took_ms) / 1e3:.1f} s; ms per job: median {statistics.median(took_ms):.1f}, "
        f"p99 {p99:.1f}, longest {max(took_ms):.1f}"
    )


def measure_reports(path: Path, now_ms: int, wallet_id: int, session: str) -> None:
    groups: tuple[tuple[Dimension, ...], ...] = (
        *(("day",), ("model",), ("key",), ("day", "model", "key"), ("session",), ("agent",), ("session", "agent", "day")),
        (),
    )
    whole = {"start": day_text(now_ms - 89 * rollups.DAY_MS)}
    odd = {"start": f"{day_text(now_ms - 60 * rollups.DAY_MS)}T07:30:00Z", "end": f"{day_text(now_ms)}T09:00:00Z"}
    print("\nthe heaviest user, 90 days")
    for group_by in groups:
        for name, texts in (("", whole), (", odd hours", odd)):
            measure(path, f"{','.join(group_by) or 'single requests'}{name}", owner(wallet_id, now_ms, group_by, texts))
    last_texts = {**whole, "limit": "1000"}
    measure(path, "single requests, 1,000 of a page", owner(wallet_id, now_ms, (), last_texts))
    measure(
        path, "single requests, a page in the middle", owner(wallet_id, now_ms, (), {**whole, "cursor": middle(path, wallet_id)})
    )
    measure(
        path, "single requests of a day long ago", owner(wallet_id, now_ms, (), {"start": odd["start"], "end": odd["start"][:10]})
    )
    measure(path, "single requests of a session", owner(wallet_id, now_ms, (), {**whole, "session": session}))
    measure(path, "single requests of a model that is not there", owner(wallet_id, now_ms, (), {**whole, "model": "none"}))
    measure(path, "by agent, of a session", owner(wallet_id, now_ms, ("agent",), {**whole, "session": session}))
    measure(path, "CSV, 10,000 single requests", owner(wallet_id, now_ms, (), {**whole, "limit": "10000"}, csv=True))
    print("\nthe operator, everybody, 90 days")
    for by in (["day"], ["model"], ["key"], ["user"], ["session"], ["agent"], ["day", "user", "model"]):
        measure(path, ",".join(by), lambda conn, by=by: report_usage(conn, by=by, start=whole["start"]))  # type: ignore[misc]


def owner(
    wallet_id: int, now_ms: int, group_by: tuple[Dimension, ...], texts: dict[str, str], *, csv: bool = False
) -> Callable[[sqlite3.Connection], Any]:
    question = parse_question(now_ms, group_by, texts, limit_max=10_000)

    def ask(conn: sqlite3.Connection) -> Any:
        report = report_of_owner(conn, question, wallet_id)
        return render_csv_page(report) if csv else report

    return ask


def middle(path: Path, wallet_id: int) -> str:
    """The cursor that a client has after half of the requests."""
    with closing(open_reader(path)) as conn:
        half = conn.execute("select count(*) / 2 from usage where wallet_id = ?", (wallet_id,)).fetchone()[0]
        sql = "select request_id from usage where wallet_id = ? order by request_id desc limit 1 offset ?"
        return _render_cursor((conn.execute(sql, (wallet_id, half)).fetchone()[0],))


def measure(path: Path, name: str, ask: Callable[[sqlite3.Connection], Any]) -> None:
    took_ms = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        with closing(open_reader(path)) as conn:
            answer = ask(conn)
        took_ms.append((time.perf_counter() - begun) * 1e3)
    rows = answer.count("\r\n") - 1 if isinstance(answer, str) else len(answer["data"])
    print(f"  {statistics.median(took_ms):7.1f} ms  {rows:6} rows  {name}")


def day_text(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at_ms / 1000))


if __name__ == "__main__":
    main()
