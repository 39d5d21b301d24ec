"""Opening the one SQLite file: the writer's connection, readers' connections, and what each PRAGMA is for.

Exactly one connection in the house writes and checkpoints (SQLite before 3.51.3 can corrupt the file with two).
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite

from gateway.errors import HouseError

FILE_NAME = "pagegrid.db"
SQLITE_VERSION = sqlite3.sqlite_version


# What the writing connection is set to. SQLite ignores a pragma that it does not know; `facts.pragmas_refused` reads them back.
WRITER_PRAGMAS: Mapping[str, str | int] = {
    "journal_mode": "wal",
    # FULL: in WAL mode NORMAL may lose the last commits in a power cut (seen: up to 1,000); an acknowledged settle is a promise.
    "synchronous": 2,
    "foreign_keys": 1,
    # Without it `insert or replace` deletes rows past the append-only triggers.
    "recursive_triggers": 1,
    "busy_timeout": 5000,
    # Functions and virtual tables in the schema are not trusted: the file may come from a backup of who knows whom.
    "trusted_schema": 0,
    # The writer checkpoints by itself, between batches, so that no commit is surprised by one.
    "wal_autocheckpoint": 0,
}


def open_writer(path: Path) -> sqlite3.Connection:
    """The writing connection, in autocommit (transactions are begun by hand). Use it in one thread at a time."""
    path.touch(mode=0o600)
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.chmod(0o600)
    conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    for name, value in WRITER_PRAGMAS.items():
        conn.execute(f"pragma {name} = {value}")
    return conn


def open_reader(path: Path) -> sqlite3.Connection:
    """A read-only connection for one short job, used in one thread (the audit, a command without a running server)."""
    if not path.exists():
        raise HouseError("unavailable", f"there is no database at {path}; `pagegrid serve` makes one")
    conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    conn.execute("pragma query_only = on")
    conn.execute("pragma busy_timeout = 5000")
    return conn


@asynccontextmanager
async def reading(path: Path) -> AsyncIterator[aiosqlite.Connection]:
    """A read-only connection for coroutines, closed at the end: one left open keeps the process from exiting.

    Single statements only, fetched whole at once: an open cursor pins the WAL, and a transaction would be shared by all users.
    """
    async with aiosqlite.connect(path, isolation_level=None) as conn:
        conn.row_factory = aiosqlite.Row
        await conn.execute("pragma query_only = on")
        await conn.execute("pragma busy_timeout = 5000")
        yield conn
