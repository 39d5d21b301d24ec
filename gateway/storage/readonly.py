"""Looking without touching: a database of which nobody else may be the server, read by a command that leaves no trace.

    clean stop      no WAL             immutable, under a shared lock that keeps writers out while we read
    after a crash   WAL and index      read-only: SQLite replays the WAL in its index, the files of data stay as they are

An ordinary connection would do neither: the last one to close checkpoints the WAL into the file, even with query_only (seen on
SQLite 3.40), and a merely read-only one leaves an empty -wal and a -shm behind. Never recovers, migrates or creates anything.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from gateway.errors import HouseError
from gateway.storage import migrate
from gateway.storage.database import FILE_NAME
from gateway.storage.folder import Busy


@contextmanager
def looking(data_dir: Path) -> Iterator[sqlite3.Connection]:
    """A reader's connection for one command. Raises HouseError (no database, another schema, damage), `Busy` while one writes."""
    with peeking(data_dir) as conn:
        _check_schema(conn)
        yield conn


@contextmanager
def peeking(data_dir: Path, *, beside_server: bool = False) -> Iterator[sqlite3.Connection]:
    """As `looking`, whatever the schema. `beside_server`: a server is known to run; whether it ends meanwhile or not, a
    read-only connection never checkpoints what is its."""
    path = data_dir / FILE_NAME
    with nullcontext() if beside_server else _shared_lock(data_dir):
        mode = "mode=ro" if beside_server or _size(path.with_name(FILE_NAME + "-wal")) else "mode=ro&immutable=1"
        if _size(path) is None:
            raise no_database(path)
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)) as conn:
                conn.execute("pragma query_only = on")
                conn.execute("pragma busy_timeout = 5000")
                yield conn
        except sqlite3.Error as error:
            raise HouseError("unavailable", f"the database {path} cannot be read: {error}") from None


@contextmanager
def snapshot(conn: sqlite3.Connection) -> Iterator[None]:
    """Statements inside see one state, whatever is written meanwhile. Short: an open one pins the WAL."""
    conn.execute("begin")
    try:
        yield
    finally:
        if conn.in_transaction:  # an I/O error may have ended it by itself
            conn.execute("rollback")


def no_database(path: Path) -> HouseError:
    return HouseError(
        "unavailable", f"there is no database at {path}: `pagegrid serve` makes one, or name another directory with --data-dir"
    )


def _check_schema(conn: sqlite3.Connection) -> None:
    version, newest = migrate.schema_version(conn), migrate.find_migrations(migrate.migrations_folder())[-1][0]
    migrate.check_not_newer(version, newest)
    if version < newest:
        raise HouseError(
            "unavailable",
            f"this database has schema {version}, this release reads {newest}: `pagegrid serve` brings it up (a copy is kept)",
        )


@contextmanager
def _shared_lock(data_dir: Path) -> Iterator[None]:
    """Keep writers out while we read, without making the lock's file: where there is none, nobody has ever written."""
    try:
        file = os.open(data_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    except OSError as error:
        raise HouseError("unavailable", f"{data_dir} cannot be read: {error.strerror}; run this as its owner") from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            raise Busy("unavailable", f"another pagegrid is using {data_dir}") from None
        yield
    finally:
        os.close(file)


def _size(path: Path) -> int | None:
    """Bytes of a file; None if it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HouseError("unavailable", f"{path} cannot be read: {error.strerror}; run this as its owner") from None
