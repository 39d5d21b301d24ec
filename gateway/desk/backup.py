"""Making a backup: of a running house, which remembers it, or on any reader's connection where none runs."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from gateway.desk.desk import Desk
from gateway.errors import ClientError, HouseError
from gateway.storage import audit_log
from gateway.storage.backup import back_up, partial_name
from gateway.storage.database import open_reader
from gateway.storage.ledger import LedgerWriter

ACTION = "backup.create"


async def back_up_house(desk: Desk, actor: str, *, file: str) -> dict[str, Any]:
    """As `create_backup`, of the running house, which remembers who took a copy of everything, and when."""

    def work() -> dict[str, Any]:
        with closing(open_reader(desk.database)) as conn:
            return create_backup(conn, file=file)

    made = await asyncio.to_thread(work)
    at_ms = desk.clock.at_ms()

    def remember(ledger: LedgerWriter) -> None:
        audit_log.record(ledger.conn, at_ms, actor, ACTION, made["file"], after={"transfers": made["transfers"]})

    await desk.writer.run(remember)
    return made


def create_backup(conn: sqlite3.Connection, *, file: str) -> dict[str, Any]:
    """Copy the database to `file` (an absolute path that is free), audited. Raises ClientError for a path that cannot be used,
    HouseError if it cannot be written or the copy's books do not balance (it stays then, under its partial name)."""
    target = Path(file)
    if not target.is_absolute():
        raise ClientError("invalid_request", "file must be an absolute path", param="file")
    if target.exists():
        raise ClientError("invalid_request", f"{target} exists already; name another file", param="file")
    if not target.parent.is_dir():
        raise ClientError("invalid_request", f"there is no directory {target.parent}; make it first", param="file")
    try:
        report = back_up(conn, target)
    except (OSError, sqlite3.Error) as error:
        raise HouseError("unavailable", f"the backup cannot be written to {target.parent}: {error}") from None
    if not report.clean:
        broken = "; ".join(finding.invariant for finding in report.findings)
        raise HouseError(
            "unavailable",
            f"the copy's books do not balance ({broken}); it is kept as {partial_name(target)}. See `pagegrid ledger audit`",
        )
    return {"file": str(target), "bytes": target.stat().st_size, "transfers": report.transfer_id}
