"""A machine that plays with book and ledger as it likes: whatever the order, the books balance.

Decisions are taken in the book and gather in `pending`; a rule writes them as one batch, with a rare job behind them, or a crash
loses them. A twin database gets every row in a transaction of its own: it must hold the same afterwards. Some rows are ones that
the database refuses: their wallet is frozen, everybody else's money goes on.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.book import BalanceHeld, BalanceTooLow, Hold
from gateway.errors import HouseError, LedgerError
from gateway.storage import refunds, wallets
from gateway.storage.audit import audit, store_checkpoint
from gateway.storage.database import FILE_NAME, open_reader, open_writer
from gateway.storage.ledger import LedgerWriter, Mismatch
from gateway.storage.recovery import recover, start_boot
from gateway.storage.rows import HoldChangeRow, ResolutionRow, Row
from tests.fakes import FakeClock
from tests.ledger_tools import MODEL, Ledger, assert_books_balance, copy_as_killed, start_ledger

T = TypeVar("T")

# Refused by the database for a reason that the book cannot know.
CURSED = "cursed"
CURSE = f"""
    create temp trigger curse before insert on main.holds when new.model = '{CURSED}'
    begin select raise(abort, 'cursed'); end
"""

# All that must not depend on how rows were batched. Price ids may (they are interned in another order).
DUMP = (
    "select * from accounts order by id",
    "select * from transfers order by id",
    "select * from holds order by id",
    "select * from hold_changes order by hold_id, number",
    """select u.request_id, u.at_ms, u.wallet_id, u.key_id, u.model, u.upstream, u.input_tokens, u.output_tokens, u.cost_nanos,
      u.paid_nanos, u.source, u.flags, p.terms from usage as u join prices as p on p.id = u.price_id order by 1""",
    "select w.hold_id, w.at_ms, w.cost_nanos, p.terms from progress as w join prices as p on p.id = w.price_id order by 1",
    "select * from attempts order by request_id, number",
    "select * from request_details order by request_id",
)

amounts = st.integers(1, 50) | st.integers(1, 1_000)
picks = st.integers(0, 1_000_000)


def dump(conn: sqlite3.Connection) -> list[list[tuple[Any, ...]]]:
    return [conn.execute(sql).fetchall() for sql in DUMP]


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-machine-"))
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.lives = 0
        self.wallets: list[int] = []
        self.holds: list[Hold] = []
        self.pending: list[Row] = []
        self.written: list[Row] = []  # resolutions and changes that the database has
        self.cursed: dict[int, Hold] = {}  # request id → a hold that will be refused
        self.billed: dict[int, int] = {}  # request id → cost of every acknowledged settle
        self.durable: dict[int, int] = {}  # request id → what is reserved on disk

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def _start(self, folder: Path) -> Ledger:
        ledger = start_ledger(folder, self.clock)
        ledger.conn.execute("pragma synchronous = off")  # nobody pulls the plug here
        await ledger.writer.run(lambda job: job.conn.execute(CURSE))
        return ledger

    @initialize()
    def open(self) -> None:
        (self.folder / "first").mkdir()
        self.ledger = self.run(self._start(self.folder / "first"))
        for name in ("alice", "bob", "carol"):
            self.wallets.append(self.run(self.ledger.make_wallet(name)))
        copy_as_killed(self.ledger.path, self.folder / "twin")
        self.twin = open_writer(self.folder / "twin" / FILE_NAME)
        self.twin.execute("pragma synchronous = off")
        self.twin.execute(CURSE)
        self.twin_ledger = LedgerWriter(self.twin, self.ledger.boot_id)
        for wallet in self.wallets:
            self.deposit(wallet, 500, wallet)

    def teardown(self) -> None:
        if hasattr(self, "twin"):
            self.write()
            self.run(self.ledger.writer.close())
            self.twin.close()
        self.loop.close()
        shutil.rmtree(self.folder)

    # ── decisions ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _pick(self, pick: int) -> Hold:
        return self.holds[pick % len(self.holds)]

    def _wallet(self, pick: int) -> int:
        return self.wallets[pick % len(self.wallets)]

    @rule(pick=picks, need=amounts | st.just(0), more=st.just(0) | amounts, model=st.sampled_from([MODEL] * 5 + [CURSED]))
    def admit(self, pick: int, need: int, more: int, model: str) -> None:
        wallet = self.ledger.book.wallet(self._wallet(pick))
        could = not wallet.frozen and wallet.available_nanos >= need
        try:
            hold, row = self.ledger.decide_hold(wallet.id, need, need + more, model=model)
        except (BalanceTooLow, BalanceHeld, HouseError):
            assert not could
            return
        assert could and need <= hold.amount_nanos <= need + more
        self.pending.append(row)
        if model == CURSED:
            self.cursed[hold.id] = hold
        else:
            self.holds.append(hold)

    @precondition(lambda self: self.holds)
    @rule(pick=picks, delta=st.integers(-300, 300))
    def change(self, pick: int, delta: int) -> None:
        hold = self._pick(pick)
        target = max(0, hold.amount_nanos + delta)
        changed = self.ledger.book.raise_to(hold, target) if delta > 0 else self.ledger.book.lower_to(hold, target)
        if changed:
            self.pending.append(HoldChangeRow(hold.id, hold.wallet_id, hold.changes, changed))

    @precondition(lambda self: self.holds)
    @rule(pick=picks, cost=st.integers(0, 1_500))
    def progress(self, pick: int, cost: int) -> None:
        self.pending.append(self.ledger.progress_row(self._pick(pick), cost))

    @precondition(lambda self: self.holds)
    @rule(pick=picks, cost=st.just(0) | amounts | st.integers(0, 3_000))
    def settle(self, pick: int, cost: int) -> None:
        hold = self.holds.pop(pick % len(self.holds))
        self.pending.append(self.ledger.settle_row(self.ledger.book.settle(hold, cost), cost))

    @precondition(lambda self: self.holds)
    @rule(pick=picks)
    def void(self, pick: int) -> None:
        hold = self.holds.pop(pick % len(self.holds))
        self.pending.append(self.ledger.void_row(self.ledger.book.void(hold), "connect"))

    @rule(delta_ms=st.integers(0, 5_000) | st.integers(-86_400_000, 0))
    def clock_moves(self, delta_ms: int) -> None:
        self.clock.wall_ms += delta_ms
        self.clock.running_ms += abs(delta_ms)

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule()
    def write(self) -> None:
        self._write(None)

    def _write(self, rare: Callable[[LedgerWriter], T] | None) -> T | None:
        """All that is pending as one batch, then the rare job; the twin gets row by row."""
        rows, self.pending = self.pending, []
        expected = [row for row in rows if self._apply_to_twin(row)]

        async def write() -> tuple[list[Any], asyncio.Task[T] | None]:
            async with self.ledger.writer_held_back():
                acknowledged = [self.ledger.writer.submit_acknowledged(row) for row in rows]
                job = None if rare is None else asyncio.ensure_future(self.ledger.writer.run(rare))
                await asyncio.sleep(0)
            outcomes = await asyncio.gather(*acknowledged, return_exceptions=True)
            await self.ledger.drained()
            return outcomes, job

        outcomes, job = self.run(write())
        for hold in self.cursed.values():
            self.ledger.book.disown(hold)
        self.cursed.clear()
        assert [row for row, outcome in zip(rows, outcomes, strict=True) if outcome is None] == expected
        for row in expected:
            self._remember(row)
        return None if job is None else job.result()

    def _apply_to_twin(self, row: Row) -> bool:
        self.twin.execute("begin immediate")
        try:
            self.twin_ledger.write([row])
            self.twin.execute("commit")
        except (Mismatch, sqlite3.Error):
            self.twin.execute("rollback")
            self.twin_ledger.forget()
            wallet_id = row.resolution.wallet_id if isinstance(row, ResolutionRow) else row.wallet_id
            wallets.set_frozen(self.twin, wallet_id, True)
            return False
        return True

    def _on_twin(self, job: Callable[[LedgerWriter], object]) -> None:
        self.twin.execute("begin immediate")
        job(self.twin_ledger)
        self.twin.execute("commit")

    def _remember(self, row: Row) -> None:
        if isinstance(row, ResolutionRow):
            self.written.append(row)
            self.durable.pop(row.resolution.hold_id)
            if row.served is not None:
                self.billed[row.resolution.hold_id] = row.served.cost_nanos
        elif isinstance(row, HoldChangeRow):
            self.written.append(row)
            self.durable[row.request_id] += row.delta_nanos
        elif hasattr(row, "amount_nanos"):
            self.durable[row.request_id] = row.amount_nanos

    @precondition(lambda self: self.written)
    @rule(pick=picks)
    def the_same_again(self, pick: int) -> None:
        """A row that was written before: refused, and its wallet frozen."""
        self.pending.append(self.written[pick % len(self.written)])

    @rule(pick=picks)
    def unfreeze(self, pick: int) -> None:
        wallet = self._wallet(pick)
        self.write()  # what is refused here freezes before, not after
        self._write(lambda job: wallets.set_frozen(job.conn, wallet, False))
        wallets.set_frozen(self.twin, wallet, False)
        self.ledger.book.freeze(wallet, False)

    # ── the operator ─────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(pick=picks, amount=st.integers(1, 3), number=st.integers(0, 6))
    def operator_deposits(self, pick: int, amount: int, number: int) -> None:
        self.deposit(self._wallet(pick), amount * 100, number)

    def deposit(self, wallet: int, amount: int, number: int) -> None:
        at_ms = self.clock.at_ms()

        def job(ledger: LedgerWriter) -> wallets.Movement:
            return wallets.deposit(ledger, wallet, amount, f"invoice {number}", "", at_ms)

        try:
            movement = self._write(job)
        except LedgerError:
            return
        assert movement is not None
        if movement.applied:
            self._on_twin(job)
            self.ledger.book.deposit(wallet, amount)

    @rule(pick=picks, amount=st.integers(1, 400), number=st.integers(0, 6))
    def operator_withdraws(self, pick: int, amount: int, number: int) -> None:
        wallet, at_ms = self._wallet(pick), self.clock.at_ms()
        available = self.ledger.book.wallet(wallet).available_nanos

        def job(ledger: LedgerWriter) -> wallets.Movement:
            return wallets.withdraw(ledger, wallet, amount, f"cash {number}", "", at_ms)

        try:
            self.ledger.book.withdraw(wallet, amount)
        except LedgerError:
            assert amount > available
            return
        try:
            movement = self._write(job)
        except LedgerError:
            movement = None
        if movement is not None and movement.applied:
            self._on_twin(job)
        else:
            self.ledger.book.deposit(wallet, amount)

    @precondition(lambda self: self.billed)
    @rule(pick=picks, number=st.integers(1, 3), amount=amounts, all_of_it=st.booleans())
    def operator_refunds(self, pick: int, number: int, amount: int, all_of_it: bool) -> None:
        """What was paid is asked of the database, as the desk does; whether it is true, the audit and the sums below say."""
        self.write()
        request_id = sorted(self.billed)[pick % len(self.billed)]
        conn, at_ms = self.ledger.conn, self.clock.at_ms()
        (wallet,) = conn.execute("select wallet_id from holds where id = ?", (request_id,)).fetchone()
        made = refunds.list_refunds(conn, request_id)
        rest = refunds.paid_nanos(conn, request_id) - sum(refund.amount_nanos for refund in made)
        assert rest >= 0
        amount = rest if all_of_it else min(amount, rest)
        if not amount or number in {refund.number for refund in made}:
            return

        def job(ledger: LedgerWriter) -> refunds.Refund:
            return refunds.post_refund(ledger, request_id, wallet, number, amount, "", at_ms)

        self._write(job)
        self._on_twin(job)
        self.ledger.book.deposit(wallet, amount)

    # ── trouble ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule()
    def crash(self) -> None:
        """What is pending is lost, the file stays as it is, and the house starts again: twice."""
        before = dict(self.durable)
        progress = dict(self.ledger.conn.execute("select hold_id, cost_nanos from progress"))
        for _ in range(2):
            self.lives += 1
            folder = self.folder / f"life {self.lives}"
            copy_as_killed(self.ledger.path, folder)
            self.run(self.ledger.writer.close())
            self.ledger = self.run(self._start(folder))
            boot_id = start_boot(self.twin, self.clock.at_ms(), "0.test")
            recover(self.twin, boot_id, self.clock.at_ms())
            self.twin_ledger = LedgerWriter(self.twin, boot_id)
            recovered = self.ledger.recovered
            assert set(recovered.settled) == before.keys() & progress.keys()
            assert set(recovered.unknown) == before.keys() - progress.keys()
            for request_id in recovered.settled:
                self.billed[request_id] = min(progress[request_id], before[request_id])
            before, progress = {}, {}
        self.pending.clear()
        self.holds.clear()
        self.cursed.clear()
        self.durable.clear()

    @rule()
    def checkpoint(self) -> None:
        self.write()
        with closing(open_reader(self.ledger.path)) as conn:
            report = audit(conn, since_checkpoint=True)
        assert report.clean, report.findings
        self._write(lambda job: store_checkpoint(job.conn, report, self.clock.at_ms()))

    # ── what always holds ────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def nobody_spends_what_is_not_there(self) -> None:
        for wallet in self.ledger.book.wallets() if self.wallets else ():
            assert wallet.balance_nanos >= wallet.held_nanos >= 0 and wallet.owed_nanos >= 0

    @invariant()
    def nobody_gets_back_more_than_they_paid(self) -> None:
        for wallet in self.wallets if not self.pending else ():
            assert wallets.spent_nanos(self.ledger.conn, wallet) >= 0

    @invariant()
    def the_books_balance(self) -> None:
        if self.pending or not self.wallets:
            return
        conn = self.ledger.conn
        assert_books_balance(conn, self.ledger.book, open_holds=len(self.holds))
        assert dict(conn.execute("select request_id, cost_nanos from usage")) == self.billed
        assert dump(conn) == dump(self.twin)


LedgerMachine.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=50,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestWhateverTheOrderTheBooksBalance = LedgerMachine.TestCase
