"""What audits found, remembered: the latest whole one, and those of the last days."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass

from gateway.storage.audit import Finding, Report

KEPT = 200


@dataclass(frozen=True, slots=True)
class Audit:
    """One that was run: `by` is start, hourly, daily, or the actor who asked for it; it looked at transfers above the first."""

    at_ms: int
    took_ms: int
    by: str
    whole: bool
    from_transfer_id: int
    to_transfer_id: int
    findings: tuple[Finding, ...]


def insert_audit(conn: sqlite3.Connection, report: Report, *, at_ms: int, took_ms: int, by: str, whole: bool) -> None:
    """Remember it, and forget the oldest; the latest whole one stays."""
    findings = json.dumps([asdict(finding) for finding in report.findings])
    conn.execute(
        """
        insert into audits (at_ms, took_ms, by, whole, from_transfer_id, to_transfer_id, findings) values (?, ?, ?, ?, ?, ?, ?)
        """,
        (at_ms, took_ms, by, whole, report.since_transfer_id, report.transfer_id, findings),
    )
    conn.execute(
        """
        delete from audits
        where id <= (select max(id) from audits) - ? and id <> (select coalesce(max(id), 0) from audits where whole = 1)
        """,
        (KEPT,),
    )


def latest_audits(conn: sqlite3.Connection) -> tuple[Audit | None, Audit | None]:
    """(the latest whole one, the latest of those since a checkpoint)"""
    return _latest(conn, whole=True), _latest(conn, whole=False)


def _latest(conn: sqlite3.Connection, *, whole: bool) -> Audit | None:
    row = conn.execute(
        """
        select at_ms, took_ms, by, from_transfer_id, to_transfer_id, findings from audits
        where whole = ?
        order by id desc
        limit 1
        """,
        (whole,),
    ).fetchone()
    if row is None:
        return None
    at_ms, took_ms, by, from_id, to_id, text = row
    findings = (Finding(each["invariant"], each["count"], tuple(each["rows"])) for each in json.loads(text))
    return Audit(at_ms, took_ms, by, whole, from_id, to_id, tuple(findings))
