"""The ledger as people read it: a statement of account, and what an audit found."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

from gateway.desk.checks import check_count, get_user, get_wallet, money
from gateway.desk.desk import Desk
from gateway.desk.ledger import run_audit
from gateway.desk.wallets import render_line
from gateway.ids import render_id
from gateway.storage import accounts, audit, database, wallets
from gateway.storage.ledger import EXTERNAL, LOSS, PROMO, REVENUE
from gateway.storage.readonly import snapshot

LINES_DEFAULT = 1000
LINES_MAX = 1_000_000

_HOUSE_ACCOUNTS = {EXTERNAL: "external:manual", PROMO: "promo", REVENUE: "revenue", LOSS: "loss"}


def show_ledger(conn: sqlite3.Connection, *, user: str, limit: int = LINES_DEFAULT) -> dict[str, Any]:
    """A statement, oldest line first: opening balance + all amounts = closing balance.

    With more than `limit` transfers it opens with the balance before the oldest one shown.
    """
    check_count(limit, "limit", LINES_MAX)
    with snapshot(conn):
        found = get_user(conn, user)
        wallet = get_wallet(conn, found["id"])
        lines = wallets.statement(conn, wallet["id"], limit)[::-1]
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
    return _render_report(conn, audit.audit(conn))


async def audit_house(desk: Desk, actor: str) -> dict[str, Any]:
    """The whole audit in the running house: paced, remembered when clean, and a bell rings when it is not."""
    report = await run_audit(desk, actor)

    def render() -> dict[str, Any]:
        with closing(database.open_reader(desk.database)) as conn:
            return _render_report(conn, report)

    return await asyncio.to_thread(render)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _render_report(conn: sqlite3.Connection, report: audit.Report) -> dict[str, Any]:
    names = {} if report.clean else account_names(conn)
    return {
        "clean": report.clean,
        "transfers": report.transfer_id,
        "unknown_holds": report.unknown_holds,
        "findings": [
            {"invariant": finding.invariant, "count": finding.count, "rows": [named(row, names) for row in finding.rows]}
            for finding in report.findings
        ],
    }


def account_names(conn: sqlite3.Connection) -> dict[int, str]:
    """What people call an account: a wallet by its user."""
    return _HOUSE_ACCOUNTS | {account_id: f"wallet of {name}" for account_id, name in accounts.list_owners(conn)}


def named(row: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    """The row, with the request's id as clients know it and the account's name right behind the number."""
    named: dict[str, Any] = {}
    for column, value in row.items():
        named[column] = value
        if column == "request_id" and isinstance(value, int):
            named["request"] = render_id(value)
        if column.endswith(("account_id", "wallet_id")) and value in names:
            named[column.removesuffix("_id") + "_name"] = names[value]
    return named
