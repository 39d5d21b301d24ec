"""The process that `test_recovery.py` kills: a ledger at work, telling on stdout what was acknowledged.

python -m tests.storage.killed_process FOLDER        one line "request_id cost_nanos" per acknowledged settle
python -m tests.storage.killed_process FOLDER die    kills itself in the middle of its recovery
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

from gateway.clock import SystemClock
from gateway.errors import GatewayError
from gateway.storage.ledger import LedgerWriter
from tests.ledger_tools import Ledger, open_ledger, usd


async def call(ledger: Ledger, wallet: int) -> None:
    """One request that lives for a few milliseconds: raises, lowers, progress, an overrun now and then."""
    try:
        hold = ledger.admit(wallet, random.randrange(1, 900), 1_000)
    except GatewayError:
        await asyncio.sleep(0.001)
        return
    if random.random() < 0.6:
        await asyncio.sleep(random.random() / 100)
        ledger.report_progress(hold, random.randrange(3_000))
        ledger.raise_to(hold, random.randrange(4_000))
    await asyncio.sleep(random.random() / 100)
    ledger.lower_to(hold, random.randrange(4_000))
    if random.random() < 0.1:
        await ledger.void(hold)
        return
    cost = random.choice((0, 700, 5_000))
    await ledger.settle(hold, cost)
    print(hold.id, cost, flush=True)


async def work(folder: Path) -> None:
    async with open_ledger(folder, SystemClock()) as ledger:
        names = [wallet.id for wallet in ledger.book.wallets()]
        for name in () if names else ("alice", "bob", "carol"):
            names.append(await ledger.make_wallet(name, usd("1")))

        async def client(wallet: int) -> None:
            while True:
                await call(ledger, wallet)

        await asyncio.gather(*(client(names[number % len(names)]) for number in range(40)))


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    if "die" in sys.argv:
        LedgerWriter._insert_detail = die  # type: ignore[method-assign]  # holds closed, transfers written, nothing committed
    asyncio.run(work(Path(sys.argv[1])))
