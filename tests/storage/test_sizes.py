"""How much there is, counted while it moves."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

from gateway.storage.database import open_reader
from gateway.storage.sizes import table_sizes
from tests.desk_tools import desk_house, make_ada, open_request, settle_request
from tests.fakes import FakeClock


async def test_a_roll_up_in_between_loses_no_request(tmp_path: Path, clock: FakeClock) -> None:
    async with desk_house(tmp_path / "data", clock) as house:
        secret = (await make_ada(house))["secret"]
        for _ in range(3):
            request_id, key = await open_request(house, secret)
            await settle_request(house, request_id, key)
        loop = asyncio.get_running_loop()

        def roll_up(statement: str) -> None:
            if "rollup_mark" in statement:
                rolled = house.writer.run(lambda ledger: ledger.roll_up(request_id))
                asyncio.run_coroutine_threadsafe(rolled, loop).result(10)

        def work() -> dict[str, int]:
            with closing(open_reader(house.database)) as conn:
                conn.set_trace_callback(roll_up)
                return table_sizes(conn)

        assert (await asyncio.to_thread(work))["charged requests"] == 3
