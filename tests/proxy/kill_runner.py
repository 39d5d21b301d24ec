"""A gateway to be killed: `python -m tests.proxy.kill_runner DATA_DIR CONFIG [die-in-recovery]` prints its port and serves."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.api.server import serving
from gateway.config import parse
from gateway.house import open_house
from gateway.storage import recovery
from gateway.storage.ledger import LedgerWriter
from gateway.storage.rows import Row


class DyingWriter(LedgerWriter):
    """Writes all that recovery decided, and dies before the commit."""

    def write(self, rows: Sequence[Row]) -> None:
        super().write(rows)
        os.kill(os.getpid(), signal.SIGKILL)


async def main(data_dir: Path, config: Path) -> None:
    settings = parse(config.read_text(), str(config), {})
    async with open_house(settings, data_dir) as house, serving(house, "127.0.0.1", 0) as port:
        print(port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    if "die-in-recovery" in sys.argv:
        recovery.LedgerWriter = DyingWriter  # type: ignore[misc]
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
