"""A whole, consistent, audited copy of the database, made while the house works.

    VACUUM INTO file.partial  (a reader's snapshot; commits go on)  ─▶  audit of the copy  ─▶  rename to file

VACUUM INTO writes as fast as it can and syncs once at its end: that one fsync held up commits by 110–150 ms. So this connection
does not sync, and the file is synced every 20 ms while it grows: the worst commit was 9–10 ms at 1,000 commits/s (measured;
LEDGER.md, "SQLite facts"). A copied live file is not a backup; the stepped backup API never ends under load.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from gateway.storage.audit import Report, audit
from gateway.storage.database import open_reader

SYNC_EVERY_S = 0.02


def back_up(conn: sqlite3.Connection, target: Path, pause: Callable[[], None] = lambda: None) -> Report:
    """Copy what `conn` (a reader's) sees to `target`, which must not exist; returns the audit of the copy.

    If the copy is not clean it stays under its partial name. Raises sqlite3.Error, OSError and what `pause` does (the audit calls
    it between its slices), and leaves nothing then.
    """
    partial = partial_name(target)
    partial.unlink(missing_ok=True)
    file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _vacuum_into(conn, partial, file)
        with closing(open_reader(partial)) as copy:
            report = audit(copy, pause=pause)
        if report.clean:
            partial.rename(target)
            _sync_folder(target.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    return report


def partial_name(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


def _vacuum_into(conn: sqlite3.Connection, partial: Path, file: int) -> None:
    done = threading.Event()

    def keep_synced() -> None:
        while not done.wait(SYNC_EVERY_S):
            os.fdatasync(file)

    # query_only forbids writing any file, the copy too; the source is only read either way.
    conn.execute("pragma query_only = off")
    conn.execute("pragma synchronous = off")
    syncing = threading.Thread(target=keep_synced, name="backup-sync", daemon=True)
    syncing.start()
    try:
        conn.execute("vacuum into ?", (str(partial),))
    finally:
        done.set()
        syncing.join()
        conn.execute("pragma query_only = on")
    os.fsync(file)


def _sync_folder(folder: Path) -> None:
    """A rename is safe once the folder is on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
