"""A ledger in a folder, as tests want it: the real writer, book and SQLite file, and words that read like a statement of account.

    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        hold = ledger.admit(alice, usd("1"))
        await ledger.settle(hold, usd("0.25"))

Leaving the block drains the writer and closes it. `assert_books_balance` is the end of every test that moves money.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

from gateway.access import Own, hash_secret, make_secret
from gateway.book import Book, Hold, Resolution, Wallet
from gateway.clock import Clock
from gateway.ids import IdSource
from gateway.money import parse_usd as usd
from gateway.pricing import Price, Rates
from gateway.storage import refunds, wallets
from gateway.storage.audit import Report, audit
from gateway.storage.database import FILE_NAME, open_reader, open_writer
from gateway.storage.keys import insert_key
from gateway.storage.ledger import LedgerWriter
from gateway.storage.migrate import migrate
from gateway.storage.recovery import Recovered, highest_request_id, recover, start_boot
from gateway.storage.rows import AttemptRow, DetailRow, HoldChangeRow, HoldRow, ProgressRow, ResolutionRow, Served
from gateway.storage.users import insert_user
from gateway.storage.writer import Writer
from gateway.usage import Source, Usage

__all__ = ["Ledger", "assert_books_balance", "copy_as_killed", "open_ledger", "read_wallets", "start_ledger", "usd"]

Verb = Callable[[LedgerWriter, int, int, str, str, int], wallets.Movement]

MODEL = "claude-sonnet-5"
TERMS = Price(MODEL, Rates(3 * 10**9, 15 * 10**9, 375 * 10**7, 6 * 10**9, 3 * 10**8)).terms()
DETAIL = DetailRow(stream=True, status=200, session="s", agent="", address="::1", admitted_ms=1, first_byte_ms=20, total_ms=30)


class Ledger:
    """Book and writer kept in step: each verb decides in the book and queues the row at once, as the walk does."""

    def __init__(self, path: Path, conn: sqlite3.Connection, clock: Clock, boot_id: int, recovered: Recovered) -> None:
        self.path = path
        self.conn = conn  # the writer's: touch it only while the writer is idle or held back
        self.clock = clock
        self.boot_id = boot_id
        self.recovered = recovered
        self.refused: list[int] = []  # wallet ids, as the writer reported them
        self.book = Book()
        self.key_ids = dict(conn.execute("select a.id, min(k.id) from keys k join accounts a using (user_id) group by a.id"))
        for wallet in wallets.load_wallets(conn):
            self.book.open_wallet(wallet)
        self.ids = IdSource(highest_request_id(conn))
        self.writer = Writer(conn, boot_id, clock, self._on_refused)
        self._with_progress: set[int] = set()
        self._freezing: list[asyncio.Future[None]] = []

    # ── people and their money ───────────────────────────────────────────────────────────────────────────────────────

    async def make_wallet(self, name: str, balance_nanos: int = 0) -> int:
        """A user with a wallet and a key; the opening balance is a deposit with a reference of its own."""
        at_ms = self.clock.at_ms()

        def job(ledger: LedgerWriter) -> tuple[int, int]:
            user_id = insert_user(ledger.conn, name, None, "user", at_ms)
            wallet_id = wallets.create_wallet(ledger.conn, user_id)
            key_id = insert_key(
                ledger.conn,
                user_id=user_id,
                name="laptop",
                secret_hash=hash_secret(make_secret("sk-pgrid-")),
                hint="sk-pgrid-01234567",
                own=Own(),
                expires_at_ms=None,
                rotated_from=None,
                at_ms=at_ms,
            )
            return wallet_id, key_id

        wallet_id, key_id = await self.writer.run(job)
        self.key_ids[wallet_id] = key_id
        self.book.open_wallet(Wallet(wallet_id))
        if balance_nanos:
            await self.deposit(wallet_id, balance_nanos, f"opening balance of {name}")
        return wallet_id

    async def deposit(self, wallet_id: int, amount_nanos: int, reference: str) -> wallets.Movement:
        self.book.check_deposit(wallet_id, amount_nanos)
        return await self._add(wallets.deposit, wallet_id, amount_nanos, reference)

    async def grant_promo(self, wallet_id: int, amount_nanos: int, reference: str) -> wallets.Movement:
        return await self._add(wallets.grant_promo, wallet_id, amount_nanos, reference)

    async def withdraw(self, wallet_id: int, amount_nanos: int, reference: str) -> wallets.Movement:
        return await self._take(wallets.withdraw, wallet_id, amount_nanos, reference)

    async def reverse_promo(self, wallet_id: int, amount_nanos: int, reference: str) -> wallets.Movement:
        return await self._take(wallets.reverse_promo, wallet_id, amount_nanos, reference)

    async def refund(self, request_id: int, amount_nanos: int) -> None:
        """The next one of this request, whether that much was paid or not."""
        at_ms = self.clock.at_ms()

        def job(ledger: LedgerWriter) -> int:
            (wallet_id,) = ledger.conn.execute("select wallet_id from holds where id = ?", (request_id,)).fetchone()
            number = len(refunds.list_refunds(ledger.conn, request_id)) + 1
            refunds.post_refund(ledger, request_id, wallet_id, number, amount_nanos, "", at_ms)
            return int(wallet_id)

        self.book.deposit(await self.writer.run(job), amount_nanos)

    # ── a request ────────────────────────────────────────────────────────────────────────────────────────────────────

    def admit(self, wallet_id: int, need_nanos: int, want_nanos: int | None = None, *, model: str = MODEL) -> Hold:
        hold, row = self.decide_hold(wallet_id, need_nanos, want_nanos, model=model)
        self.writer.submit(row)
        return hold

    def decide_hold(
        self, wallet_id: int, need_nanos: int, want_nanos: int | None = None, *, model: str = MODEL
    ) -> tuple[Hold, HoldRow]:
        """Admit in the book only; the caller queues the row."""
        request_id = self.ids.next(self.clock.at_ms())
        hold = self.book.admit(request_id, wallet_id, need_nanos, need_nanos if want_nanos is None else want_nanos)
        row = HoldRow(request_id, wallet_id, self.key_ids[wallet_id], model, hold.amount_nanos, self.clock.at_ms())
        return hold, row

    def raise_to(self, hold: Hold, target_nanos: int) -> int:
        return self._change(hold, self.book.raise_to(hold, target_nanos))

    def lower_to(self, hold: Hold, target_nanos: int) -> int:
        return self._change(hold, self.book.lower_to(hold, target_nanos))

    def report_progress(self, hold: Hold, cost_nanos: int) -> None:
        self.writer.submit(self.progress_row(hold, cost_nanos))

    def settle(self, hold: Hold, cost_nanos: int, source: Source = "reported") -> asyncio.Future[None]:
        """Charge; the future is done when it is on disk."""
        return self.writer.submit_acknowledged(self.settle_row(self.book.settle(hold, cost_nanos), cost_nanos, source))

    def void(self, hold: Hold, reason: str = "upstream_failed") -> asyncio.Future[None]:
        return self.writer.submit_acknowledged(self.void_row(self.book.void(hold), reason))

    # ── the rows of it ───────────────────────────────────────────────────────────────────────────────────────────────

    def progress_row(self, hold: Hold, cost_nanos: int) -> ProgressRow:
        self._with_progress.add(hold.id)
        return ProgressRow(hold.id, self.clock.at_ms(), _served(cost_nanos))

    def settle_row(self, done: Resolution, cost_nanos: int, source: Source = "reported") -> ResolutionRow:
        at_ms = self.clock.at_ms()
        attempts = (
            AttemptRow(1, "first", MODEL, 529, "status_529", at_ms, 5),
            AttemptRow(2, "second", MODEL, 200, "ok", at_ms, 20, cost_nanos, f"msg_{done.hold_id}"),
        )
        return ResolutionRow(
            done,
            self.key_ids[done.wallet_id],
            MODEL,
            at_ms,
            attempts,
            DETAIL,
            served=_served(cost_nanos),
            source=source,
            had_progress=done.hold_id in self._with_progress,
        )

    def void_row(self, done: Resolution, reason: str) -> ResolutionRow:
        had_progress = done.hold_id in self._with_progress
        key_id = self.key_ids[done.wallet_id]
        return ResolutionRow(done, key_id, MODEL, self.clock.at_ms(), (), DETAIL, reason=reason, had_progress=had_progress)

    # ── the writer ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def drained(self) -> None:
        """Everything queued so far is on disk or refused, and whoever was refused is frozen there too."""
        await self.writer.run(lambda ledger: None)
        while self._freezing:
            await self._freezing.pop()

    @asynccontextmanager
    async def writer_held_back(self) -> AsyncIterator[None]:
        """Nothing is written inside the block; what is queued there becomes one batch (up to the first rare job)."""
        gate, entered = threading.Event(), threading.Event()

        def wait(ledger: LedgerWriter) -> None:
            entered.set()
            assert gate.wait(30)

        job = asyncio.ensure_future(self.writer.run(wait))
        await asyncio.sleep(0)  # the job is queued when its task first runs
        assert entered.wait(30)
        try:
            yield
        finally:
            gate.set()
        await job

    async def close(self) -> None:
        await self.drained()
        await self.writer.close()

    # ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _change(self, hold: Hold, delta_nanos: int) -> int:
        if delta_nanos:
            self.writer.submit(HoldChangeRow(hold.id, hold.wallet_id, hold.changes, delta_nanos))
        return delta_nanos

    async def _add(self, verb: Verb, wallet_id: int, amount_nanos: int, reference: str) -> wallets.Movement:
        """The database first, then the book."""
        at_ms = self.clock.at_ms()
        movement = await self.writer.run(lambda ledger: verb(ledger, wallet_id, amount_nanos, reference, "", at_ms))
        if movement.applied:
            self.book.deposit(wallet_id, amount_nanos)
        return movement

    async def _take(self, verb: Verb, wallet_id: int, amount_nanos: int, reference: str) -> wallets.Movement:
        """The book first, then the database; what was not moved is given back."""
        at_ms = self.clock.at_ms()
        self.book.withdraw(wallet_id, amount_nanos)
        moved = False
        try:
            movement = await self.writer.run(lambda ledger: verb(ledger, wallet_id, amount_nanos, reference, "", at_ms))
            moved = movement.applied
        finally:
            if not moved:
                self.book.deposit(wallet_id, amount_nanos)
        return movement

    def _on_refused(self, wallet_id: int) -> None:
        self.refused.append(wallet_id)
        self.book.freeze(wallet_id)
        job = self.writer.run(lambda ledger: wallets.set_frozen(ledger.conn, wallet_id, True))
        self._freezing.append(asyncio.ensure_future(job))


@asynccontextmanager
async def open_ledger(folder: Path, clock: Clock) -> AsyncIterator[Ledger]:
    """Open the ledger in `folder` as a start of the house does; it is drained and closed at the end."""
    ledger = start_ledger(folder, clock)
    try:
        yield ledger
        await ledger.drained()
    finally:
        await ledger.writer.close()


def start_ledger(folder: Path, clock: Clock) -> Ledger:
    """As `open_ledger`, for those who close (or crash) it themselves."""
    path = folder / FILE_NAME
    conn = open_writer(path)
    migrate(conn, path)
    boot_id = start_boot(conn, clock.at_ms(), "0.test")
    recovered = recover(conn, boot_id, clock.at_ms())
    return Ledger(path, conn, clock, boot_id, recovered)


def copy_as_killed(path: Path, folder: Path) -> Path:
    """What a kill −9 at this moment would leave of the database, as a file of its own in `folder`. No commit may be under way."""
    folder.mkdir()
    for suffix in ("", "-wal"):
        if path.with_name(path.name + suffix).exists():
            shutil.copyfile(path.with_name(path.name + suffix), folder / (path.name + suffix))
    return folder / path.name


def read_wallets(conn: sqlite3.Connection) -> dict[int, tuple[int, int, int, bool]]:
    """(balance, held, owed, frozen) of each wallet in the database."""
    return {w.id: (w.balance_nanos, w.held_nanos, w.owed_nanos, w.frozen) for w in wallets.load_wallets(conn)}


def assert_books_balance(source: Path | sqlite3.Connection, book: Book | None = None, *, open_holds: int = 0) -> Report:
    """The whole audit is clean, so many holds are open (none), and the book says what the database says."""
    if isinstance(source, Path):
        with closing(open_reader(source)) as conn:
            return assert_books_balance(conn, book, open_holds=open_holds)
    report = audit(source)
    assert report.clean, report.findings
    assert source.execute("select count(*) from holds where state = 'open'").fetchone() == (open_holds,)
    if book is not None:
        in_memory = {w.id: (w.balance_nanos, w.held_nanos, w.owed_nanos, w.frozen) for w in book.wallets()}
        assert in_memory == read_wallets(source)
    return report


def _served(cost_nanos: int) -> Served:
    """What would have cost about that much; tests of the ledger give the cost, tests of pricing work it out."""
    usage = Usage(input_tokens=cost_nanos // 3_000, output_tokens=7, speed="fast", geography="us", service_tier="batch")
    return Served("main", MODEL, TERMS, usage, cost_nanos)
