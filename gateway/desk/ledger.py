"""The audit, as an act: run on a connection of its own, in a thread, and remembered when it is clean."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing

from gateway.desk.desk import Desk
from gateway.metrics import alarm
from gateway.storage import audit, database

# Between two slices, so that a long audit leaves the disk and the interpreter to the requests.
PAUSE_S = 0.01


async def run_audit(desk: Desk, *, since_checkpoint: bool = False) -> audit.Report:
    """Audit the running house's ledger; a clean one becomes a checkpoint, a broken one rings."""

    def work() -> audit.Report:
        with closing(database.open_reader(desk.database)) as conn:
            return audit.audit(conn, since_checkpoint=since_checkpoint, pause=lambda: time.sleep(PAUSE_S))

    report = await asyncio.to_thread(work)
    if report.clean:
        at_ms = desk.clock.at_ms()
        await desk.writer.run(lambda ledger: audit.store_checkpoint(ledger.conn, report, at_ms))
    ring_findings(report)
    return report


def ring_findings(report: audit.Report) -> None:
    for finding in report.findings:
        alarm("audit", f"invariant broken: {finding.invariant}: {finding.count} rows, such as {finding.rows[:1]}")
