"""Commands that only read leave no trace: nothing made, recovered, migrated or checkpointed, in whatever state the files are."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.ids import render_id
from gateway.storage.database import FILE_NAME
from gateway.storage.folder import Lock
from tests.cli.tools import Shell
from tests.desk_tools import desk_house, make_ada, open_request
from tests.fakes import FakeClock
from tests.ledger_tools import copy_as_killed

READING = (
    ["users", "list"],
    ["wallets", "show", "ada"],
    ["keys", "list", "ada"],
    ["ledger", "show", "ada"],
    ["ledger", "audit"],
    ["audit", "list"],
    ["admin-keys", "list"],
    ["models", "list"],
)


def traces(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """What is in a folder: bytes, mtime and mode of each file. The index of a WAL (-shm) is memory, not data."""
    return {
        file.name: (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_mode)
        for file in sorted(folder.iterdir())
        if not file.name.endswith("-shm")
    }


def test_after_a_clean_stop_reading_changes_no_file(shell: Shell) -> None:
    shell.ok("users", "create", "ada")
    shell.ok("wallets", "topup", "ada", "5", "--reference", "r")
    before, names = traces(shell.data), set(os.listdir(shell.data))
    for words in READING:
        shell.ok(*words)
        shell.ok(*words, "--json")
    shell.refused("usage", "get", "req_x")
    assert traces(shell.data) == before and set(os.listdir(shell.data)) == names


def test_a_database_without_its_lock_file_is_read_too(shell: Shell) -> None:
    """A copy restored from a backup."""
    shell.ok("users", "create", "ada")
    (shell.data / "lock").unlink()
    before = traces(shell.data)
    assert shell.json("users", "list")[0]["name"] == "ada"
    assert traces(shell.data) == before


async def test_after_a_crash_reading_sees_all_and_recovers_nothing(tmp_path: Path, clock: FakeClock) -> None:
    shell = Shell(tmp_path)
    async with desk_house(tmp_path / "alive", clock) as house:
        key = await make_ada(house)
        request_id, _ = await open_request(house, key["secret"])
        copy_as_killed(house.database, shell.data)
        await asyncio.to_thread(look_at_what_a_crash_left, shell, request_id)


def look_at_what_a_crash_left(shell: Shell, request_id: int) -> None:
    shell.config.write_text("this is no TOML, and reading needs none")
    (shell.data / "lock").touch(0o600)
    before = traces(shell.data)
    assert len(before[FILE_NAME + "-wal"][0]) > 0
    assert shell.json("wallets", "show", "ada")["held_usd"] == "1.00"
    assert shell.json("usage", "get", render_id(request_id))["status"] == "running"
    assert shell.json("ledger", "audit")["clean"]
    assert traces(shell.data) == before


@pytest.mark.parametrize(("version", "message"), [(0, "brings it up"), (99, "it was opened by a newer pagegrid")])
def test_another_schema_is_refused(shell: Shell, version: int, message: str) -> None:
    shell.ok("users", "create", "ada")
    with closing(sqlite3.connect(shell.data / FILE_NAME)) as conn:
        (known,) = conn.execute("pragma user_version").fetchone()
        conn.execute(f"pragma user_version = {version}")
    before = traces(shell.data)
    assert message in shell.refused("users", "list")
    assert traces(shell.data) == before
    with closing(sqlite3.connect(shell.data / FILE_NAME)) as conn:
        conn.execute(f"pragma user_version = {known}")


def test_a_damaged_database_is_told_and_no_traceback(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.data.mkdir()
    (shell.data / FILE_NAME).write_bytes(b"this is no database" * 100)
    shell.config.write_text("")
    assert "cannot be read: file is not a database" in shell.refused("users", "list")


def test_two_may_look_at_once_and_nobody_writes_meanwhile(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.ok("users", "create", "ada")
    monkeypatch.setattr("gateway.cli.desk_client.BUSY_S", 0.2)
    file = os.open(shell.data / "lock", os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert shell.json("users", "list")[0]["name"] == "ada"
        assert "does not open its door" in shell.refused("users", "create", "bob")
    finally:
        os.close(file)


def test_a_directory_in_use_without_a_door_is_waited_for_and_then_told(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.ok("users", "create", "ada")
    monkeypatch.setattr("gateway.cli.desk_client.BUSY_S", 0.2)
    lock = Lock(shell.data)
    try:
        for words in (["users", "list"], ["users", "create", "bob"]):
            assert f"another pagegrid is using {shell.data}" in shell.refused(*words)
    finally:
        lock.release()
