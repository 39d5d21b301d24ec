"""The audit as an act: what it finds is known at once, whatever the disk says to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import load
from gateway.desk.ledger import run_audit
from gateway.errors import HouseError
from gateway.house import open_house
from gateway.metrics import counters
from gateway.storage.ledger import LedgerWriter
from tests.desk_tools import make_ada
from tests.fakes import FakeClock


async def test_broken_books_ring_and_freeze_although_nothing_can_be_written(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house(load(None, {}), tmp_path / "data", clock) as house:
        await make_ada(house)

        def damage(ledger: LedgerWriter) -> None:
            ledger.conn.execute("update accounts set balance_nanos = balance_nanos + 1 where kind = 'wallet'")

        await house.writer.run(damage)
        rung = counters["alarm_audit"]
        with monkeypatch.context() as patched:

            async def refuse(job: object) -> None:
                raise HouseError("unavailable", "the database cannot be written")

            patched.setattr(house.writer, "run", refuse)
            with pytest.raises(HouseError):
                await run_audit(house.desk, "daily")
        assert counters["alarm_audit"] > rung
        assert [wallet.frozen for wallet in house.desk.book.wallets()] == [True]
        await run_audit(house.desk, "daily")
        assert await house.writer.run(lambda ledger: ledger.conn.execute("select frozen from accounts where frozen").fetchall())
