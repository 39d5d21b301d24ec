"""The writer thread: what it acknowledges, what it refuses, and what it does while the machine is in trouble."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.book import Resolution
from gateway.errors import HouseError, LedgerError
from gateway.metrics import counters, writer_batch_rows
from gateway.storage import wallets, writer
from gateway.storage.database import open_reader
from gateway.storage.ledger import LedgerWriter
from gateway.storage.rows import HoldChangeRow, HoldRow
from gateway.storage.writer import LedgerRefused
from tests.fakes import FakeClock
from tests.ledger_tools import MODEL, Ledger, assert_books_balance, open_ledger, read_wallets, usd


def query(path: Path, sql: str, *parameters: object) -> list[tuple[object, ...]]:
    with closing(open_reader(path)) as conn:
        return conn.execute(sql, parameters).fetchall()


def curse(model: str) -> Callable[[LedgerWriter], object]:
    """A job after which this connection's database refuses every hold of `model`, for a reason the book cannot know."""
    sql = f"""create temp trigger curse before insert on main.holds when new.model = '{model}'
      begin select raise(abort, 'cursed'); end"""
    return lambda ledger: ledger.conn.execute(sql)


async def until(true: Callable[[], bool]) -> None:
    """Wait for the thread, which runs on real time; a limit instead of a guess."""
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.002)


# ── group commit and order ───────────────────────────────────────────────────────────────────────────────────────────


async def test_one_commit_acknowledges_all_that_was_queued(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("100"))
        before = sum(writer_batch_rows.counts)
        async with ledger.writer_held_back():
            settles = [ledger.settle(ledger.admit(alice, usd("0.1")), usd("0.05")) for _ in range(200)]
            assert not any(settle.done() for settle in settles)
        await asyncio.gather(*settles)
        assert sum(writer_batch_rows.counts) == before + 1
        assert read_wallets(ledger.conn)[alice][0] == usd("90")
        assert_books_balance(ledger.path, ledger.book)


async def test_a_batch_sums_what_it_does_to_one_wallet(tmp_path: Path, clock: FakeClock) -> None:
    """Two holds of one wallet in one batch once applied once, silently."""
    async with open_ledger(tmp_path, clock) as ledger:
        alice, bob = await ledger.make_wallet("alice", usd("10")), await ledger.make_wallet("bob", usd("10"))
        async with ledger.writer_held_back():
            holds = [ledger.admit(wallet, usd("1")) for wallet in (alice, alice, bob, alice)]
            ledger.raise_to(holds[0], usd("2"))
            ledger.raise_to(holds[1], usd("3"))
        await ledger.drained()
        assert {w: row[1] for w, row in read_wallets(ledger.conn).items()} == {alice: usd("6"), bob: usd("1")}
        assert_books_balance(ledger.path, ledger.book, open_holds=4)


async def test_what_the_release_of_one_request_admits_goes_through_in_one_batch_and_row_by_row(
    tmp_path: Path, clock: FakeClock
) -> None:
    for wanted_replays, refuse in enumerate((False, True)):
        folder = tmp_path / str(refuse)
        folder.mkdir()
        async with open_ledger(folder, clock) as ledger:
            alice = await ledger.make_wallet("alice", usd("1"))
            eve = await ledger.make_wallet("eve", usd("1"))
            await ledger.writer.run(curse("cursed"))
            before = counters["writer_replays"]
            async with ledger.writer_held_back():
                for _ in range(10):
                    ledger.settle(ledger.admit(alice, ledger.book.wallet(alice).available_nanos), usd("0.1"))
                if refuse:
                    ledger.admit(eve, usd("1"), model="cursed")
            await ledger.drained()
            assert counters["writer_replays"] == before + wanted_replays
            assert ledger.refused == [eve] * wanted_replays
            assert read_wallets(ledger.conn)[alice] == (0, 0, 0, False)
            assert_books_balance(ledger.path)


async def test_rare_jobs_cut_the_batch_and_see_what_was_queued_before_them_only(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        seen: list[int] = []

        def count_holds(job: LedgerWriter) -> None:
            seen.append(job.conn.execute("select count(*) from holds").fetchone()[0])

        async with ledger.writer_held_back():
            jobs = []
            for _ in range(4):
                ledger.admit(alice, usd("1"))
                jobs.append(asyncio.ensure_future(ledger.writer.run(count_holds)))
                await asyncio.sleep(0)
        await asyncio.gather(*jobs)
        assert seen == [1, 2, 3, 4]
        assert_books_balance(ledger.path, ledger.book, open_holds=4)


async def test_a_rare_job_that_raises_rolls_back_alone_and_the_transfer_ids_stay_gapless(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))

        def deposit_and_fail(job: LedgerWriter) -> None:
            wallets.deposit(job, alice, usd("5"), "lost", "", 1)
            job.conn.execute("update accounts set name = 'x' where id = 3")
            raise LedgerError("invalid_request", "changed my mind")

        async with ledger.writer_held_back():
            first = ledger.settle(ledger.admit(alice, usd("1")), usd("1"))
            failing = asyncio.ensure_future(ledger.writer.run(deposit_and_fail))
            await asyncio.sleep(0)
            second = ledger.settle(ledger.admit(alice, usd("1")), usd("1"))
        with pytest.raises(LedgerError, match="changed my mind"):
            await failing
        await asyncio.gather(first, second)
        await ledger.deposit(alice, usd("1"), "found")
        assert query(ledger.path, "select id, kind from transfers order by id") == [
            (1, "deposit"),
            (2, "settle"),
            (3, "settle"),
            (4, "deposit"),
        ]
        assert query(ledger.path, "select name from accounts where id = 3") == [("revenue",)]
        assert_books_balance(ledger.path, ledger.book)


# ── what the database refuses ────────────────────────────────────────────────────────────────────────────────────────


async def test_of_a_refused_batch_only_the_guilty_row_is_lost_and_its_wallet_frozen(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice, bob = await ledger.make_wallet("alice", usd("10")), await ledger.make_wallet("bob", usd("10"))
        await ledger.writer.run(curse("cursed"))
        async with ledger.writer_held_back():
            running = ledger.admit(alice, usd("1"))
            first = ledger.settle(ledger.admit(bob, usd("1")), usd("1"))
            hold, row = ledger.decide_hold(alice, usd("1"), model="cursed")
            guilty = ledger.writer.submit_acknowledged(row)
            second = ledger.settle(ledger.admit(bob, usd("1")), usd("1"))
        with pytest.raises(LedgerRefused):
            await guilty
        ledger.book.void(hold)  # released without a row: there is nothing to resolve
        await asyncio.gather(first, second)
        await ledger.drained()
        assert ledger.refused == [alice]
        assert read_wallets(ledger.conn) == {alice: (usd("10"), usd("1"), 0, True), bob: (usd("8"), 0, 0, False)}
        await ledger.settle(running, usd("0.5"))
        ledger.admit(bob, usd("1"))
        with pytest.raises(HouseError):
            ledger.admit(alice, usd("1"))
        await ledger.drained()
        assert_books_balance(ledger.path, ledger.book, open_holds=1)


async def test_a_check_of_the_database_stops_what_a_wrong_book_admits(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice, bob = await ledger.make_wallet("alice", usd("1")), await ledger.make_wallet("bob", usd("1"))
        ledger.book.deposit(alice, usd("5"))  # which nobody paid
        async with ledger.writer_held_back():
            ledger.admit(alice, usd("1"))
            ledger.admit(alice, usd("0.000000001"))
            ledger.admit(bob, usd("1"))
        await ledger.drained()
        assert ledger.refused == [alice]
        assert read_wallets(ledger.conn) == {alice: (usd("1"), usd("1"), 0, True), bob: (usd("1"), usd("1"), 0, False)}
        assert_books_balance(ledger.path, open_holds=2)


async def _refused(ledger: Ledger, row: object, wallet: int, innocent: int) -> None:
    """`row` alone, and among others in a batch, is refused for `wallet`; the others are written."""
    for among_others in (False, True):
        ledger.refused.clear()
        async with ledger.writer_held_back():
            settle = ledger.settle(ledger.admit(innocent, 10), 10) if among_others else None
            guilty = ledger.writer.submit_acknowledged(row)  # type: ignore[arg-type]
        with pytest.raises(LedgerRefused):
            await guilty
        if settle is not None:
            await settle
        await ledger.drained()
        assert ledger.refused == [wallet]


async def test_rows_that_contradict_the_database_are_refused(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice, bob = await ledger.make_wallet("alice", usd("10")), await ledger.make_wallet("bob", usd("10"))
        carol = await ledger.make_wallet("carol", usd("10"))
        hold = ledger.admit(alice, usd("1"))
        ledger.raise_to(hold, usd("2"))
        ended = ledger.admit(alice, usd("1"))
        await ledger.settle(ended, usd("1"))
        ended_row = ledger.settle_row(Resolution(ended.id, alice, usd("1"), True, usd("1")), usd("1"))
        open_row = ledger.settle_row(Resolution(hold.id, alice, usd("2"), True, usd("1")), usd("1"))
        done = open_row.resolution
        cases: dict[str, tuple[object, int]] = {
            "a hold twice": (HoldRow(hold.id, alice, ledger.key_ids[alice], MODEL, 1, 1), alice),
            "a hold of nobody's key": (HoldRow(hold.id + 1, alice, 999, MODEL, 1, 1), alice),
            "a hold of less than nothing": (HoldRow(hold.id + 1, alice, ledger.key_ids[alice], MODEL, -1, 1), alice),
            "a change twice": (HoldChangeRow(hold.id, alice, 1, 1), alice),
            "a change of nothing": (HoldChangeRow(hold.id, alice, 2, 0), alice),
            "a change of a hold that ended": (HoldChangeRow(ended.id, alice, 1, 1), alice),
            "a change of another wallet's hold": (HoldChangeRow(hold.id, bob, 2, 1), bob),
            "a change of no hold": (HoldChangeRow(hold.id + 1, alice, 1, 1), alice),
            "a settle twice": (ended_row, alice),
            "a settle of another amount": (replace(open_row, resolution=replace(done, released_nanos=usd("1"))), alice),
            "a settle from another wallet": (replace(open_row, resolution=replace(done, wallet_id=bob)), bob),
            "a settle without usage": (replace(open_row, served=None), alice),
            "a void with usage": (replace(open_row, resolution=Resolution(hold.id, alice, usd("2"), False)), alice),
            "a settle of less than the cost": (replace(open_row, resolution=replace(done, pay_nanos=usd("0.5"))), alice),
            "a settle beyond 64 bits": (
                replace(
                    ledger.settle_row(done, 10**30),
                    resolution=replace(done, pay_nanos=usd("1"), overrun_nanos=10**30 - usd("1")),
                ),
                alice,
            ),
        }
        before = read_wallets(ledger.conn)
        for name, (row, wallet) in cases.items():
            try:
                await _refused(ledger, row, wallet, carol)
            except BaseException as error:
                error.add_note(name)
                raise
        after = read_wallets(ledger.conn)
        assert [after[w][:3] for w in (alice, bob)] == [before[w][:3] for w in (alice, bob)]
        await ledger.void(hold)
        assert_books_balance(ledger.path, ledger.book)


async def test_progress_of_a_hold_that_ended_is_refused_and_freezes_nobody(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        hold = ledger.admit(alice, usd("1"))
        row = ledger.progress_row(hold, 5)
        await ledger.settle(hold, 10)
        with pytest.raises(LedgerRefused):
            await ledger.writer.submit_acknowledged(row)
        await ledger.drained()
        assert not ledger.refused
        assert_books_balance(ledger.path, ledger.book)


async def test_rows_that_come_after_the_end_of_their_hold_are_refused_also_within_one_batch(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        async with ledger.writer_held_back():
            hold = ledger.admit(alice, usd("1"))
            late_progress = ledger.progress_row(hold, 5)
            settle = ledger.settle(hold, 10)
            guilty = [
                ledger.writer.submit_acknowledged(late_progress),
                ledger.writer.submit_acknowledged(HoldChangeRow(hold.id, alice, 1, 7)),
            ]
        await settle
        assert [type(error) for error in await asyncio.gather(*guilty, return_exceptions=True)] == [LedgerRefused] * 2
        await ledger.drained()
        assert ledger.refused == [alice]
        assert_books_balance(ledger.path, ledger.book)


async def test_texts_with_stray_bytes_do_not_stop_a_settle(tmp_path: Path, clock: FakeClock) -> None:
    """aiohttp hands header bytes that are no UTF-8 on as lone surrogates, which no JSON of ours can carry."""
    async with open_ledger(tmp_path, clock) as ledger:
        alice, bob = await ledger.make_wallet("alice", usd("10")), await ledger.make_wallet("bob", usd("10"))
        hold = ledger.admit(alice, usd("1"))
        row = ledger.settle_row(ledger.book.settle(hold, usd("1")), usd("1"))
        row = replace(row, detail=replace(row.detail, session="caf\udce9 \x00 ünd \U0001f600", agent='"\\'))
        async with ledger.writer_held_back():
            odd = ledger.writer.submit_acknowledged(row)
            other = ledger.settle(ledger.admit(bob, usd("1")), usd("1"))
        await asyncio.gather(odd, other)
        assert not ledger.refused
        [(session, agent)] = query(ledger.path, "select session, agent from request_details where request_id = ?", hold.id)
        assert (str(session)[:5], agent) == ("caf? ", '"\\')
        assert_books_balance(ledger.path, ledger.book)


async def test_an_interned_price_of_a_batch_that_was_rolled_back_is_interned_again(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice, bob = await ledger.make_wallet("alice", usd("10")), await ledger.make_wallet("bob", usd("10"))
        await ledger.writer.run(curse("cursed"))
        async with ledger.writer_held_back():  # the first settle ever: its price is new in the batch that is rolled back
            settle = ledger.settle(ledger.admit(alice, usd("1")), usd("1"))
            ledger.admit(bob, usd("1"), model="cursed")
        await settle
        await ledger.drained()
        assert query(ledger.path, "select count(*) from usage join prices on prices.id = price_id") == [(1,)]
        assert_books_balance(ledger.path)


# ── a machine in trouble ─────────────────────────────────────────────────────────────────────────────────────────────


async def _fill_disk(ledger: Ledger) -> None:
    """From now on the file cannot grow."""
    pages = await ledger.writer.run(lambda job: job.conn.execute("pragma page_count").fetchone()[0])
    await ledger.writer.run(lambda job: job.conn.execute(f"pragma max_page_count = {pages}").fetchone())


def _make_room(ledger: Ledger) -> None:
    # By hand on the connection: a job would wait behind the batch that waits for room.
    ledger.conn.execute("pragma max_page_count = 1000000").fetchone()


async def test_on_a_full_disk_nothing_is_lost_and_the_writer_goes_on_by_itself(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        before_disk_full = ledger.admit(alice, usd("1"))
        await ledger.drained()
        await _fill_disk(ledger)
        assert ledger.writer.accepting
        settle = ledger.settle(before_disk_full, usd("0.5"))
        holds = [ledger.admit(alice, usd("0.1"), model="m" * 5_000) for _ in range(20)]
        await until(lambda: not ledger.writer.accepting)
        late = ledger.settle(holds[0], usd("0.1"))  # settling goes on in memory
        await until(lambda: counters["alarm_writer"] > 0)
        assert not late.done() and not ledger.writer.idle
        _make_room(ledger)
        await asyncio.gather(settle, late, *(ledger.void(hold) for hold in holds[1:]))
        assert ledger.writer.accepting and not ledger.refused
        assert read_wallets(ledger.conn)[alice] == (usd("9.4"), 0, 0, False)
        assert_books_balance(ledger.path, ledger.book)


async def test_a_rare_job_on_a_full_disk_is_refused_as_our_trouble_and_moves_nothing(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        await _fill_disk(ledger)
        with pytest.raises(HouseError, match="full"):
            await ledger.writer.run(lambda job: wallets.deposit(job, alice, usd("1"), "r" * 50_000, "", 1))
        _make_room(ledger)
        await ledger.deposit(alice, usd("1"), "r")
        assert_books_balance(ledger.path, ledger.book)


async def test_what_cannot_be_written_at_shutdown_is_given_up_whole_and_freezes_nobody(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        await _fill_disk(ledger)
        holds = [ledger.decide_hold(alice, usd("0.1"), model="m" * 5_000) for _ in range(20)]
        async with ledger.writer_held_back():
            acknowledged = [ledger.writer.submit_acknowledged(row) for _, row in holds]
        await until(lambda: not ledger.writer.accepting)
        late = ledger.settle(holds[0][0], usd("0.1"))
        await ledger.writer.close(limit_s=0.05)
        results = await asyncio.gather(*acknowledged, late, return_exceptions=True)
        assert all(isinstance(result, HouseError) for result in results)
        assert not ledger.refused
        with pytest.raises(HouseError, match="shutting down"):
            await ledger.drained()
        ledger.drained = lambda: asyncio.sleep(0)  # type: ignore[method-assign]
    async with open_ledger(tmp_path, clock) as ledger:
        assert read_wallets(ledger.conn)[alice] == (usd("10"), 0, 0, False)
        assert_books_balance(ledger.path, ledger.book)


async def test_a_database_locked_by_somebody_else_is_waited_for(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        ledger.conn.execute("pragma busy_timeout = 1")
        with closing(sqlite3.connect(ledger.path, isolation_level=None)) as stranger:
            stranger.execute("begin immediate")
            settle = ledger.settle(ledger.admit(alice, usd("1")), usd("1"))
            await until(lambda: not ledger.writer.accepting)
            assert not settle.done()
            stranger.execute("rollback")
            await settle
        assert ledger.writer.accepting
        assert_books_balance(ledger.path, ledger.book)


async def test_a_writer_that_stalls_is_noticed_after_five_seconds_and_resumes(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        clock.advance(60_000)  # idle is not stalled
        assert ledger.writer.accepting and ledger.writer.idle
        gate = threading.Event()
        stuck = asyncio.ensure_future(ledger.writer.run(lambda job: gate.wait(30)))
        await asyncio.sleep(0)
        settles = [ledger.settle(ledger.admit(alice, usd("0.1")), usd("0.1")) for _ in range(50)]
        clock.advance(writer.STALLED_MS)
        assert ledger.writer.accepting
        clock.wall_ms -= 3_600_000  # only running time counts
        clock.running_ms += 1
        assert not ledger.writer.accepting
        gate.set()
        await asyncio.gather(stuck, *settles)
        assert ledger.writer.accepting
        assert read_wallets(ledger.conn)[alice][0] == usd("5")
        assert_books_balance(ledger.path, ledger.book)


async def test_a_hold_that_commits_too_late_is_voided_behind_it(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        async with ledger.writer_held_back():
            hold, row = ledger.decide_hold(alice, usd("1"))
            acknowledged = ledger.writer.submit_acknowledged(row)
            clock.advance(5_001)
            assert not ledger.writer.accepting
            acknowledged.cancel()  # the walk gave up, relayed nothing and released
            voided = ledger.void(hold, "unbilled")
        await voided
        assert query(ledger.path, "select state, reason from holds where id = ?", hold.id) == [("void", "unbilled")]
        assert_books_balance(ledger.path, ledger.book)


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_close_writes_what_is_queued(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        async with ledger.writer_held_back():
            settles = [ledger.settle(ledger.admit(alice, usd("0.01")), usd("0.01")) for _ in range(100)]
            closing_down = asyncio.ensure_future(ledger.writer.close())
            await asyncio.sleep(0)
            with pytest.raises(HouseError, match="shutting down"):
                ledger.admit(alice, usd("0.01"))
        await closing_down
        await asyncio.gather(*settles)
        assert read_wallets_of(ledger.path)[alice][0] == usd("9")
        assert_books_balance(ledger.path)
        assert not (tmp_path / "pagegrid.db-wal").exists()
        ledger.drained = lambda: asyncio.sleep(0)  # type: ignore[method-assign]


async def test_more_than_one_batch_can_hold_goes_through(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BATCH_ROWS_MAX", 7)
    monkeypatch.setattr(writer, "CHECKPOINT_ROWS", 20)
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        async with ledger.writer_held_back():
            settles = [ledger.settle(ledger.admit(alice, usd("0.01")), usd("0.01")) for _ in range(50)]
        await asyncio.gather(*settles)
        assert_books_balance(ledger.path, ledger.book)


async def test_a_price_is_interned_once(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        for _ in range(2):
            hold = ledger.admit(alice, usd("1"))
            ledger.report_progress(hold, 100)
            await ledger.settle(hold, 200)
    async with open_ledger(tmp_path, clock) as ledger:
        await ledger.settle(ledger.admit(alice, usd("1")), 300)
        [(terms,)] = query(ledger.path, "select terms from prices")
        assert json.loads(str(terms))["model"] == MODEL
        assert_books_balance(ledger.path, ledger.book)


def read_wallets_of(path: Path) -> dict[int, tuple[int, int, int, bool]]:
    with closing(open_reader(path)) as conn:
        return read_wallets(conn)
