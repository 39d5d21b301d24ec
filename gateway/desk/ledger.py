"""The audit, as an act: run on a connection of its own, in a thread, and remembered, as a checkpoint too when it is clean."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing

from gateway.desk.desk import Desk
from gateway.metrics import alarm, audited
from gateway.storage import audit, audits, database, wallets
from gateway.storage.ledger import LedgerWriter

# Between two slices, so that a long audit leaves the disk and the interpreter to the requests.
PAUSE_S = 0.01


class _Left(Exception):
    """Nobody waits for this audit any more."""


async def run_audit(desk: Desk, by: str, *, since_checkpoint: bool = False) -> audit.Report:
    """Audit the running house's ledger; a clean one becomes a checkpoint, a broken one rings and freezes whom it names.

    `by`: who asked for it, or when it is due. Cancelled, it ends with the slice that it is at.
    """
    left = threading.Event()

    def pause() -> None:
        if left.wait(PAUSE_S):
            raise _Left

    def work() -> audit.Report:
        with closing(database.open_reader(desk.database)) as conn:
            return audit.audit(conn, since_checkpoint=since_checkpoint, pause=pause)

    began_ms = desk.clock.now_ms()
    try:
        report = await asyncio.to_thread(work)
    finally:
        left.set()
    at_ms, took_ms = desk.clock.at_ms(), desk.clock.now_ms() - began_ms

    # First what needs no disk: one in trouble may be what broke the books.
    tell_findings(report, at_ms)
    broken = report.wallets & {wallet.id for wallet in desk.book.wallets()}
    for wallet_id in broken:
        desk.book.freeze(wallet_id)

    def remember(ledger: LedgerWriter) -> None:
        if report.clean:
            audit.store_checkpoint(ledger.conn, report, at_ms)
        for wallet_id in broken:
            wallets.set_frozen(ledger.conn, wallet_id, True)
        audits.insert_audit(ledger.conn, report, at_ms=at_ms, took_ms=took_ms, by=by, whole=not since_checkpoint)

    await desk.writer.run(remember)
    return report


def tell_findings(report: audit.Report, at_ms: int) -> None:
    """To the metrics; and ring for each."""
    audited(not report.since_transfer_id, at_ms, len(report.findings))
    for finding in report.findings:
        alarm(
            "audit",
            f"invariant broken: {finding.invariant}: {finding.count} rows, such as {finding.rows[:1]}; the wallets concerned are "
            "frozen. See `pagegrid ledger audit`",
        )
