"""Making a backup: of a running house, which remembers it, or on any reader's connection where none runs.

A page names no path: its backups go into `backups` in the data directory, under a name of their moment.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.desk.desk import Desk
from gateway.errors import ClientError, HouseError
from gateway.storage import audit_log
from gateway.storage.backup import back_up, partial_name
from gateway.storage.database import open_reader
from gateway.storage.ledger import LedgerWriter

ACTION = "backup.create"
FOLDER = "backups"
# In that folder: nothing removes them by itself, and a button must not fill the disk that the ledger needs.
KEPT_MAX = 20
ROOM_LEFT_BYTES = 200 * 2**20


@dataclass(frozen=True, slots=True)
class Kept:
    """A file among the backups; `partial`: of a copy that is being made, or whose books did not balance."""

    name: str
    size: int
    at_ms: int
    partial: bool


class _Left(Exception):
    """The house closes."""


async def back_up_house(desk: Desk, actor: str, *, file: str) -> dict[str, Any]:
    """As `create_backup`, of the running house, which remembers who took a copy of everything, and when. Cancelled before the
    copy is whole, it leaves nothing behind."""
    conn = open_reader(desk.database)
    left = threading.Event()

    def pause() -> None:
        if left.is_set():
            raise _Left

    def work() -> dict[str, Any]:
        with closing(conn):
            return _create(conn, file, pause)

    try:
        made = await asyncio.to_thread(work)
    except asyncio.CancelledError:
        left.set()
        with suppress(sqlite3.ProgrammingError):  # it has just ended, and closed it: the copy is made
            conn.interrupt()
        raise
    at_ms = desk.clock.at_ms()

    def remember(ledger: LedgerWriter) -> None:
        audit_log.record(ledger.conn, at_ms, actor, ACTION, made["file"], after={"transfers": made["transfers"]})

    await desk.writer.run(remember)
    return made


async def back_up_here(desk: Desk, actor: str) -> dict[str, Any]:
    """Into the house's own folder, of which `check_room` has said that it has room for it."""
    folder = desk.database.parent / FOLDER
    await asyncio.to_thread(folder.mkdir, mode=0o700, exist_ok=True)
    moment = datetime.fromtimestamp(desk.clock.at_ms() / 1000, UTC)
    return await back_up_house(desk, actor, file=str(folder.absolute() / f"pagegrid-{moment:%Y%m%d-%H%M%S}.db"))


def check_room(database: Path) -> None:
    """Raises ClientError where another copy does not belong."""
    folder = database.parent / FOLDER
    kept = len(list_kept(database))
    if kept >= KEPT_MAX:
        raise ClientError("invalid_request", f"there are {kept} backups in {folder}; move the older ones to another disk first")
    needed, free = database.stat().st_size + ROOM_LEFT_BYTES, shutil.disk_usage(database.parent).free
    if free < needed:
        raise ClientError(
            "invalid_request",
            f"{free // 2**20:,} MiB are free, and a copy wants {needed // 2**20:,} MiB so that the ledger keeps room; back up to "
            "another disk with `pagegrid backup FILE`",
        )


def list_kept(database: Path) -> list[Kept]:
    """The files of the house's own folder, the latest first."""
    folder = database.parent / FOLDER
    if not folder.is_dir():
        return []
    found = []
    for file in folder.iterdir():
        try:
            status = file.stat()
        except OSError:
            continue  # gone meanwhile
        found.append(Kept(file.name, status.st_size, int(status.st_mtime * 1000), not file.name.endswith(".db")))
    return sorted(found, key=lambda kept: (kept.at_ms, kept.name), reverse=True)


def create_backup(conn: sqlite3.Connection, *, file: str) -> dict[str, Any]:
    """Copy the database to `file` (an absolute path that is free), audited. Raises ClientError for a path that cannot be used,
    HouseError if it cannot be written or the copy's books do not balance (it stays then, under its partial name)."""
    return _create(conn, file, lambda: None)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _create(conn: sqlite3.Connection, file: str, pause: Callable[[], None]) -> dict[str, Any]:
    target = Path(file)
    if not target.is_absolute():
        raise ClientError("invalid_request", "file must be an absolute path", param="file")
    if target.exists():
        raise ClientError("invalid_request", f"{target} exists already; name another file", param="file")
    if not target.parent.is_dir():
        raise ClientError("invalid_request", f"there is no directory {target.parent}; make it first", param="file")
    try:
        report = back_up(conn, target, pause)
    except (OSError, sqlite3.Error) as error:
        raise HouseError("unavailable", f"the backup cannot be written to {target.parent}: {error}") from None
    if not report.clean:
        broken = "; ".join(finding.invariant for finding in report.findings)
        raise HouseError(
            "unavailable",
            f"the copy's books do not balance ({broken}); it is kept as {partial_name(target)}. See `pagegrid ledger audit`",
        )
    return {"file": str(target), "bytes": target.stat().st_size, "transfers": report.transfer_id}
