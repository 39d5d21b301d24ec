"""What a crash leaves behind: settled from progress, voided without, and nothing more the second time."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.book import BalanceHeld
from gateway.storage.database import FILE_NAME, open_reader, open_writer
from gateway.storage.recovery import recover, start_boot
from tests.fakes import FakeClock
from tests.ledger_tools import assert_books_balance, copy_as_killed, open_ledger, read_wallets, usd

ROOT = Path(__file__).parent.parent.parent


def everything(conn: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    tables = [name for (name,) in conn.execute("select name from sqlite_schema where type = 'table' and name <> 'boots'")]
    return {table: sorted(map(repr, conn.execute(f"select * from {table}"))) for table in tables}


async def _crashed(folder: Path, clock: FakeClock) -> tuple[Path, dict[str, int]]:
    """A file as a crash leaves it: four holds were open; and the request ids by what is known of them."""
    (folder / "before").mkdir()
    async with open_ledger(folder / "before", clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        await ledger.settle(ledger.admit(alice, usd("1")), usd("1"))
        holds = {name: ledger.admit(alice, usd("1")) for name in ("unseen", "seen", "seen dear", "raised")}
        ledger.report_progress(holds["seen"], usd("0.1"))
        ledger.report_progress(holds["seen"], usd("0.3"))  # the last one counts
        ledger.report_progress(holds["seen dear"], usd("7"))
        ledger.lower_to(holds["seen dear"], usd("0.4"))
        ledger.report_progress(holds["raised"], usd("7"))
        ledger.raise_to(holds["raised"], usd("1.5"))
        ledger.raise_to(holds["raised"], usd("2"))
        await ledger.drained()
        assert_books_balance(ledger.path, ledger.book, open_holds=4)
        path = copy_as_killed(ledger.path, folder / "after")
    return path, {name: hold.id for name, hold in holds.items()}


async def test_a_start_settles_what_was_seen_up_to_the_durable_hold_and_voids_what_was_not(
    tmp_path: Path, clock: FakeClock
) -> None:
    path, requests = await _crashed(tmp_path, clock)
    clock.advance(60_000)
    async with open_ledger(path.parent, clock) as ledger:
        assert set(ledger.recovered.settled) == {requests[name] for name in ("seen", "seen dear", "raised")}
        assert ledger.recovered.unknown == (requests["unseen"],)
        report = assert_books_balance(ledger.path, ledger.book)
        assert report.unknown_holds == 1
        costs = dict(ledger.conn.execute("select request_id, cost_nanos from usage where source = 'recovered'"))
        assert costs == {requests["seen"]: usd("0.3"), requests["seen dear"]: usd("0.4"), requests["raised"]: usd("2")}
        served_so = ledger.conn.execute("select distinct speed, geography, service_tier from usage").fetchall()
        assert served_so == [("fast", "us", "batch")]
        assert [w.balance_nanos for w in ledger.book.wallets()] == [usd("9") - usd("2.7")]
        [row] = ledger.conn.execute("select state, reason, resolved_at_ms from holds where id = ?", (requests["unseen"],))
        assert row == ("void", "unknown", clock.at_ms())
        assert ledger.conn.execute("select count(*) from progress").fetchone() == (0,)


async def test_a_second_start_changes_nothing_more(tmp_path: Path, clock: FakeClock) -> None:
    path, _ = await _crashed(tmp_path, clock)
    seen = []
    for start in range(3):
        async with open_ledger(path.parent, clock) as ledger:
            assert bool(ledger.recovered.settled) == (start == 0)
            seen.append(everything(ledger.conn))
            assert_books_balance(ledger.path, ledger.book)
        clock.advance(1_000)
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("where", ["usage", "transfers", "request_details", "accounts"])
async def test_a_recovery_that_breaks_in_the_middle_changes_nothing(where: str, tmp_path: Path, clock: FakeClock) -> None:
    path, _ = await _crashed(tmp_path, clock)
    with closing(open_writer(path)) as conn:
        event = "update" if where == "accounts" else "insert"
        conn.execute(f"create temp trigger broken before {event} on main.{where} begin select raise(rollback, 'broken'); end")
        before = everything(conn)
        boot_id = start_boot(conn, clock.at_ms(), "0.test")
        with pytest.raises(sqlite3.IntegrityError, match="broken"):  # and not "no transaction is active" over it
            recover(conn, boot_id, clock.at_ms())
        assert everything(conn) == before
        conn.execute("drop trigger broken")
        assert len(recover(conn, boot_id, clock.at_ms()).settled) == 3
        assert_books_balance(conn)


async def test_a_hold_of_this_boot_is_not_touched(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("1"))
        ledger.admit(alice, usd("1"))
        await ledger.drained()
        with closing(open_writer(ledger.path)) as conn:
            recovered = recover(conn, ledger.boot_id, clock.at_ms())
        assert not recovered.settled and not recovered.unknown
        with pytest.raises(BalanceHeld):
            ledger.admit(alice, 1)
        await ledger.drained()
        assert_books_balance(ledger.path, ledger.book, open_holds=1)


async def test_what_was_queued_and_not_acknowledged_is_all_that_a_crash_loses(tmp_path: Path, clock: FakeClock) -> None:
    """A queue of charges drained before its commit lost money elsewhere."""
    (tmp_path / "before").mkdir()
    async with open_ledger(tmp_path / "before", clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        acknowledged = [ledger.admit(alice, usd("1")) for _ in range(3)]
        await asyncio.gather(*(ledger.settle(hold, usd("0.5")) for hold in acknowledged))
        running = ledger.admit(alice, usd("1"))
        ledger.report_progress(running, usd("0.2"))
        await ledger.drained()
        async with ledger.writer_held_back():
            queued = ledger.settle(running, usd("0.9"))
            ledger.admit(alice, usd("5"))
            path = copy_as_killed(ledger.path, tmp_path / "after")
            assert not queued.done()
    async with open_ledger(path.parent, clock) as ledger:
        assert ledger.recovered.settled == (running.id,)
        usage = dict(ledger.conn.execute("select request_id, cost_nanos from usage"))
        assert usage == {**{hold.id: usd("0.5") for hold in acknowledged}, running.id: usd("0.2")}
        assert_books_balance(ledger.path, ledger.book)


# ── kill −9 ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Worker:
    """A started `killed_process` that has imported everything and waits for its word to begin."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.storage.killed_process", str(folder), *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def begin(self) -> None:
        assert self.process.stdout is not None and self.process.stdin is not None
        assert self.process.stdout.readline() == "ready\n"
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def listen(self, lines: int) -> list[str]:
        assert self.process.stdout is not None
        return [self.process.stdout.readline() for _ in range(lines)]

    def kill(self) -> list[str]:
        """What else it had said until its death; a line that was cut is not said."""
        assert self.process.stdout is not None and self.process.stdin is not None
        self.process.kill()
        said = self.process.stdout.read()  # not communicate(): it reads past what readline() has buffered, and begins in a line
        self.process.wait(30)
        self.process.stdout.close()
        self.process.stdin.close()
        return [line for line in said.splitlines(keepends=True) if line.endswith("\n")]


async def test_twenty_times_killed_every_acknowledged_settle_is_there(tmp_path: Path, clock: FakeClock) -> None:
    acknowledged: dict[int, int] = {}
    kinds: Counter[str] = Counter()
    upcoming = Worker(tmp_path)
    try:
        for number in range(20):
            worker, upcoming = upcoming, Worker(tmp_path)
            worker.begin()
            # The kill falls where it likes: now and then into the opening of the file, mostly into work.
            lines = worker.listen(0 if number % 4 == 2 else random.randrange(20, 80))
            time.sleep(random.random() / 30)
            for line in lines + worker.kill():
                request_id, cost = line.split()
                acknowledged[int(request_id)] = int(cost)
            if number % 5 == 4:  # once more, in the middle of its recovery
                dying = Worker(tmp_path, "die")
                dying.begin()
                assert dying.process.wait(30) == -9
                dying.kill()
            async with open_ledger(tmp_path, clock) as ledger:
                assert_books_balance(ledger.path, ledger.book)
                usage = dict(ledger.conn.execute("select request_id, cost_nanos from usage"))
                assert acknowledged.items() <= usage.items()
                kinds.update(settled=len(ledger.recovered.settled), unknown=len(ledger.recovered.unknown))
    finally:
        upcoming.kill()
    assert len(acknowledged) > 200 and min(kinds.values()) > 5, (len(acknowledged), kinds)
    with closing(open_reader(tmp_path / FILE_NAME)) as conn:
        assert all(held == 0 <= balance for balance, held, _, _ in read_wallets(conn).values())
