"""A machine that settles, rolls up, prunes, crashes and turns the clock as it likes: every report says what `usage` says, always.

The truth is summed in Python from the usage rows and from what the machine remembers of their sessions (detail is pruned) and
attempts. Roll-ups are compared after every step, reports asked at random.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.book import Hold
from gateway.storage import reports, retention, rollups
from gateway.storage.database import open_reader
from gateway.storage.recovery import highest_request_id
from gateway.storage.reports import DETAIL, Dimension, Range, list_usage, sum_usage
from gateway.storage.rollups import DAY_MS, HOUR_MS
from tests.fakes import FakeClock
from tests.ledger_tools import DETAIL as SOME_DETAIL
from tests.ledger_tools import Ledger, assert_books_balance, copy_as_killed, start_ledger

T = TypeVar("T")

MODELS = ("claude-opus-5", "claude-sonnet-5")
SESSIONS = ("", "s1", "s2")
DIMENSIONS: tuple[Dimension, ...] = ("day", "model", "key", "user", "session", "agent")

picks = st.integers(0, 1_000_000)


@dataclass(frozen=True)
class Request:
    """What is known of a settled request, whatever becomes of its detail."""

    id: int
    at_ms: int
    wallet_id: int
    key_id: int
    model: str
    session: str
    agent: str
    figures: tuple[int, ...]  # in the order of MEASURES

    def column(self, name: str) -> Any:
        if name in ("hour_at_ms", "day_at_ms"):
            return self.at_ms - self.at_ms % (HOUR_MS if name == "hour_at_ms" else DAY_MS)
        return getattr(self, name)


class ReportsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="reports-machine-"))
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock(at_ms=1_780_000_000_000 - 1_780_000_000_000 % DAY_MS + 5 * HOUR_MS)
        self.lives = 0
        self.holds: list[Hold] = []
        self.detail: dict[int, tuple[str, str]] = {}
        self.scan_rows, reports.SCAN_ROWS = reports.SCAN_ROWS, 3

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def open(self) -> None:
        (self.folder / "first").mkdir()
        self.ledger = self._start(self.folder / "first")
        self.wallets = [self.run(self.ledger.make_wallet(name, 10**9)) for name in ("alice", "bob")]

    def _start(self, folder: Path) -> Ledger:
        async def start() -> Ledger:
            ledger = start_ledger(folder, self.clock)
            ledger.conn.execute("pragma synchronous = off")  # nobody pulls the plug here
            return ledger

        return self.run(start())

    def teardown(self) -> None:
        reports.SCAN_ROWS = self.scan_rows
        if hasattr(self, "ledger"):
            self.run(self.ledger.close())
            assert_books_balance(self.ledger.path, open_holds=len(self.holds))
        self.loop.close()
        shutil.rmtree(self.folder)

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(pick=picks, progress=st.booleans())
    def admit(self, pick: int, progress: bool) -> None:
        hold = self.ledger.admit(self.wallets[pick % 2], 1_000)
        self.holds.append(hold)
        if progress:
            self.ledger.report_progress(hold, 500)

    @precondition(lambda self: self.holds)
    @rule(
        pick=picks,
        cost=st.integers(0, 3_000),
        model=st.sampled_from(MODELS),
        session=st.sampled_from(SESSIONS),
        agent=st.sampled_from(("", "a1")),
        source=st.sampled_from(("reported", "estimated", "partial")),
        void=st.integers(0, 4).map(lambda number: number == 0),
    )
    def resolve(self, pick: int, cost: int, model: str, session: str, agent: str, source: Any, void: bool) -> None:
        hold = self.holds.pop(pick % len(self.holds))
        if void:
            row = self.ledger.void_row(self.ledger.book.void(hold), "connect")
        else:
            row = self.ledger.settle_row(self.ledger.book.settle(hold, cost), cost, source)
        detail = replace(SOME_DETAIL, session=session, agent=agent)
        self.detail[hold.id] = (session, agent)
        self.ledger.writer.submit(replace(row, model=model, detail=detail))

    @rule(hours=st.lists(st.integers(0, 30), min_size=1, max_size=6))
    def a_day_of_work(self, hours: list[int]) -> None:
        for pick, later in enumerate(hours):
            self.clock.advance(later * HOUR_MS + 1_000)
            self.admit(pick, False)
            session = SESSIONS[later % 3]
            self.resolve(len(self.holds) - 1, later * 100, MODELS[later % 2], session, "", "reported", False)

    @rule(delta_ms=st.integers(0, 3 * HOUR_MS) | st.integers(-DAY_MS, DAY_MS))
    def clock_moves(self, delta_ms: int) -> None:
        self.clock.wall_ms += delta_ms
        self.clock.running_ms += abs(delta_ms)

    # ── upkeep ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(rows=st.integers(1, 4), back=st.integers(-1, 4))
    def roll_up(self, rows: int, back: int) -> None:
        """Up to any request, open ones in between, or beyond the last."""
        ids = (
            [row[0] for row in self.ledger.conn.execute("select id from holds order by id desc")]
            if self.run(self._idle())
            else []
        )
        until_id = highest_request_id(self.ledger.conn) + 1 if back < 0 or not ids else ids[min(back, len(ids) - 1)]

        def job(ledger: Any) -> bool:
            ledger._rolled_up_to, more = rollups.roll_up(ledger.conn, until_id, rows)
            return more

        self.run(self.ledger.writer.run(job))

    @rule(days=st.integers(0, 2), rows=st.integers(1, 3), fail=st.booleans())
    def prune(self, days: int, rows: int, fail: bool) -> None:
        before_ms = self.clock.at_ms() - self.clock.at_ms() % DAY_MS - days * DAY_MS
        run = self.ledger.writer.run
        self.run(run(lambda ledger: retention.start_pruning(ledger.conn, before_ms)))
        while self.run(run(lambda ledger: retention.prune_detail(ledger.conn, before_ms, rows))) and not fail:
            pass
        while self.run(run(lambda ledger: retention.prune_sessions(ledger.conn, before_ms, rows))) and not fail:
            pass

    @rule(rows=st.integers(1, 4))
    def a_job_fails_after_it_rolled_up(self, rows: int) -> None:
        """What the ledger remembers of the mark goes with the transaction."""

        def job(ledger: Any) -> None:
            ledger.roll_up(2**62)
            raise RuntimeError("planned")

        try:
            self.run(self.ledger.writer.run(job))
        except RuntimeError:
            pass

    @rule()
    def crash(self) -> None:
        self.run(self.ledger.drained())
        self.lives += 1
        folder = self.folder / f"life {self.lives}"
        copy_as_killed(self.ledger.path, folder)
        self.run(self.ledger.writer.close())
        self.ledger = self._start(folder)
        self.holds.clear()

    @rule()
    def prove(self) -> None:
        self.run(self.ledger.drained())
        with closing(open_reader(self.ledger.path)) as conn:
            assert rollups.differences(conn) == []

    # ── what always holds ────────────────────────────────────────────────────────────────────────────────────────────

    async def _idle(self) -> bool:
        await self.ledger.drained()
        return True

    def requests(self) -> list[Request]:
        self.run(self.ledger.drained())
        names = [*rollups.MEASURES][1:9]
        rows = self.ledger.conn.execute(
            f"select request_id, at_ms, wallet_id, key_id, model, source, {', '.join(names)} from usage order by request_id desc"
        ).fetchall()
        found = []
        for request_id, at_ms, wallet_id, key_id, model, source, *counts in rows:
            cost, recovered = counts[6], source == "recovered"
            sources = [int(source == name) for name in ("estimated", "partial", "recovered")]
            figures = (1, *counts, *sources, 0 if recovered else cost, int(recovered))
            session, agent = ("", "") if recovered else self.detail[request_id]
            found.append(Request(request_id, at_ms, wallet_id, key_id, model, session, agent, figures))
        return found

    @invariant()
    def the_rollups_are_the_sums_up_to_the_mark(self) -> None:
        if not hasattr(self, "wallets"):
            return
        rolled = [request for request in self.requests() if request.id <= rollups.mark(self.ledger.conn)]
        detail_from = retention.detail_from_ms(self.ledger.conn)
        for table, keys in rollups._KEYS.items():
            columns = list(keys)
            since = detail_from if table == "usage_sessions" else 0
            stored = {
                row[: len(columns)]: row[len(columns) :]
                for row in self.ledger.conn.execute(
                    f"select {', '.join([*columns, *rollups.MEASURES])}, first_request_id, last_request_id from {table} "
                    f"where {columns[0]} >= {since}"
                )
            }
            asked = [request for request in rolled if request.at_ms >= since]
            truth: dict[Any, list[Request]] = {}
            for request in asked:
                truth.setdefault(tuple(request.column(name) for name in columns), []).append(request)
            assert {key: tuple(map(sum, zip(*(r.figures for r in rs), strict=True))) for key, rs in truth.items()} == {
                key: figures[:-2] for key, figures in stored.items()
            }, table
            for key, (*_, first, last) in stored.items():
                assert first == min(r.id for r in truth[key]) and last == max(r.id for r in truth[key])

    @rule(
        hours=st.tuples(st.sampled_from((-1_000, -100, -24, -5, 0)), st.integers(1, 110) | st.just(1_100)),
        group_by=st.lists(st.sampled_from(DIMENSIONS), min_size=1, max_size=4, unique=True),
        limit=st.integers(1, 4),
        data=st.data(),
    )
    def ask_for_sums(self, hours: tuple[int, int], group_by: list[Dimension], limit: int, data: st.DataObject) -> None:
        start_ms = self.clock.at_ms() - self.clock.at_ms() % HOUR_MS + hours[0] * HOUR_MS
        asked = self._draw_range(data, start_ms, start_ms + hours[1] * HOUR_MS)
        columns = [reports.COLUMNS[dimension] for dimension in group_by]
        truth: Counter[Any] = Counter()
        fitting = self._fitting(asked, of_detail=asked.of_detail or bool(DETAIL & set(group_by)))
        for request in fitting:
            for name, value in zip(rollups.MEASURES, request.figures, strict=True):
                truth[(*(request.column(column) for column in columns), name)] += value
        with closing(open_reader(self.ledger.path)) as conn:
            detail_from = retention.detail_from_ms(conn)
            if asked.of_detail or DETAIL & set(group_by):
                asked = replace(asked, start_ms=min(max(asked.start_ms, detail_from), asked.end_ms))
            found: Counter[Any] = Counter()
            after = None
            while True:
                page, total = sum_usage(conn, asked, group_by, limit=limit, after=after, upstream=True)
                for row, _ in page:
                    key = tuple(row[column] for column in columns)
                    assert (*key, "requests") not in found, "a group comes once"
                    found.update({(*key, name): row[name] for name in rollups.MEASURES})
                if len(page) < limit:
                    break
                after = page[-1][1]
        assert +found == +truth
        assert total == {
            **dict.fromkeys(total, None),
            **{name: sum(r.figures[n] for r in fitting) for n, name in enumerate(rollups.MEASURES)},
        }

    @rule(back=st.sampled_from((1, 24, 100, 1_000)), cut=st.integers(0, 90 * HOUR_MS), limit=st.integers(1, 4), data=st.data())
    def ask_for_requests(self, back: int, cut: int, limit: int, data: st.DataObject) -> None:
        """From long or not so long ago until now, or a while before; to the millisecond."""
        start_ms = self.clock.at_ms() - back * HOUR_MS
        end_ms = max(start_ms + 1, self.clock.at_ms() + 1 - cut)
        asked = replace(self._draw_range(data, start_ms, end_ms), wallet_id=self.wallets[0])
        with closing(open_reader(self.ledger.path)) as conn:
            if asked.of_detail:
                asked = replace(asked, start_ms=min(max(start_ms, retention.detail_from_ms(conn)), asked.end_ms))
            found: list[int] = []
            before_id = None
            while True:
                page, before_id = list_usage(conn, asked, limit=limit, before_id=before_id)
                assert len(page) <= limit
                found += [row["request_id"] for row in page]
                if before_id is None:
                    break
        assert found == [request.id for request in self._fitting(asked, of_detail=asked.of_detail)]

    def _draw_range(self, data: st.DataObject, start_ms: int, end_ms: int) -> Range:
        def maybe(values: Any) -> Any:
            return data.draw(st.sampled_from([None] * 8 + list(values)))

        wallet = maybe(self.wallets)
        return Range(
            start_ms,
            end_ms,
            wallet,
            key_id=maybe([*self.ledger.key_ids.values()]),
            model=maybe(MODELS),
            session=maybe(SESSIONS),
            agent=maybe(("", "a1")),
        )

    def _fitting(self, asked: Range, *, of_detail: bool) -> list[Request]:
        since = retention.detail_from_ms(self.ledger.conn) if of_detail else 0
        return [
            request
            for request in self.requests()
            if max(asked.start_ms, since) <= request.at_ms < asked.end_ms
            and asked.wallet_id in (None, request.wallet_id)
            and asked.key_id in (None, request.key_id)
            and asked.model in (None, request.model)
            and asked.session in (None, request.session)
            and asked.agent in (None, request.agent)
        ]


ReportsMachine.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=50,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestEveryReportSaysWhatUsageSays = ReportsMachine.TestCase
