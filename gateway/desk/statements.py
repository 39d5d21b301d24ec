"""The ledger as people read it: a statement of account, and what an audit found."""

from __future__ import annotations

import sqlite3
from typing import Any

from gateway.desk.checks import get_user, get_wallet, money
from gateway.desk.desk import Desk
from gateway.desk.ledger import run_audit
from gateway.desk.wallets import render_line
from gateway.storage import audit, wallets
from gateway.storage.readonly import snapshot

LINES_DEFAULT = 1000


def show_ledger(conn: sqlite3.Connection, *, user: str, limit: int = LINES_DEFAULT) -> dict[str, Any]:
    """A statement, oldest line first: opening balance + all amounts = closing balance.

    With more than `limit` transfers it opens with the balance before the oldest one shown.
    """
    with snapshot(conn):
        found = get_user(conn, user)
        wallet = get_wallet(conn, found["id"])
        lines = wallets.statement(conn, wallet["id"], max(1, limit))[::-1]
    closing = wallet["balance_nanos"]
    opening = lines[0]["balance_after_nanos"] - lines[0]["amount_nanos"] if lines else closing
    return {
        "user": found["name"],
        "wallet_id": wallet["id"],
        **money(opening=opening, closing=closing, held=wallet["held_nanos"], owed=wallet["owed_nanos"]),
        "lines": [render_line(line) for line in lines],
    }


def audit_file(conn: sqlite3.Connection) -> dict[str, Any]:
    """The whole audit on a reader's connection; nothing is written, so it is not remembered as a checkpoint."""
    return _render_report(audit.audit(conn))


async def audit_house(desk: Desk, actor: str) -> dict[str, Any]:
    """The whole audit in the running house: paced, remembered when clean, and a bell rings when it is not."""
    return _render_report(await run_audit(desk))


def _render_report(report: audit.Report) -> dict[str, Any]:
    return {
        "clean": report.clean,
        "transfers": report.transfer_id,
        "unknown_holds": report.unknown_holds,
        "findings": [
            {"invariant": finding.invariant, "count": finding.count, "rows": list(finding.rows)} for finding in report.findings
        ],
    }
