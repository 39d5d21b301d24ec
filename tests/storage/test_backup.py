"""A backup is whole, audited and made beside the work; a restored one goes on where it was made."""

from __future__ import annotations

import asyncio
import stat
from contextlib import closing
from pathlib import Path

import pytest

from gateway.desk import acts
from gateway.desk.backup import create_backup
from gateway.errors import ClientError, HouseError
from gateway.storage.database import open_reader
from tests.gateway_tools import ScriptedUpstream, open_gateway
from tests.ledger_tools import assert_books_balance
from tests.upstreams import scripts


async def test_a_copy_made_under_load_is_clean_and_its_restore_goes_on(tmp_path: Path) -> None:
    target, stop = tmp_path / "copy.db", asyncio.Event()
    async with ScriptedUpstream(default=scripts.answer(before_s=0.005)) as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")

        async def load() -> int:
            count = 0
            while not stop.is_set():
                assert (await gateway.ask(alice)).status == 200
                count += 1
            return count

        loads = [asyncio.ensure_future(load()) for _ in range(8)]
        await up.arrived(40)
        made = await acts.perform(gateway.house.desk, "test", "backup.create", {"file": str(target)})
        arrived = len(up.journal)
        await up.arrived(arrived + 20)
        stop.set()
        assert sum([await each for each in loads]) == len(up.journal)
        await gateway.assert_settled()
        # Who took a copy of everything is remembered, and so `pagegrid doctor` knows when.
        rows = await gateway.table("select actor, action, subject from audit_log")
        assert rows == [("test", "backup.create", str(target))]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600 and made["bytes"] == target.stat().st_size
    restored = tmp_path / "restored"
    (restored / "data").mkdir(parents=True, mode=0o700)
    target.rename(restored / "data" / "pagegrid.db")
    async with ScriptedUpstream() as up, open_gateway(restored, up.url) as gateway:
        # What ran at that moment is resolved as after a crash.
        assert (await gateway.ask(alice)).status == 200
        await gateway.assert_settled()
    assert_books_balance(restored / "data" / "pagegrid.db")


async def test_a_path_that_cannot_be_used_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        (tmp_path / "there.db").write_text("mine")
        for file, tells in (
            ("copy.db", "absolute"),
            (str(tmp_path / "there.db"), "exists"),
            (str(tmp_path / "no" / "x"), "make it"),
        ):
            with pytest.raises(ClientError, match=tells):
                await acts.perform(gateway.house.desk, "test", "backup.create", {"file": file})
        assert (tmp_path / "there.db").read_text() == "mine"
        assert not list(tmp_path.glob("*.partial"))
        await gateway.assert_settled()


async def test_a_copy_whose_books_do_not_balance_is_not_called_a_backup(tmp_path: Path) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        await gateway.make_user("alice", "10")
        await gateway.house.writer.run(
            lambda ledger: ledger.conn.execute("update accounts set balance_nanos = balance_nanos + 1 where kind = 'wallet'")
        )
        with (
            closing(open_reader(gateway.house.database)) as conn,
            pytest.raises(HouseError, match=r"do not balance .*copy\.db\.partial"),
        ):
            create_backup(conn, file=str(tmp_path / "copy.db"))
        assert not (tmp_path / "copy.db").exists() and (tmp_path / "copy.db.partial").exists()
