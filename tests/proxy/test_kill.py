"""kill −9, again and again, with requests of every kind under way: what was acknowledged is there, what was seen is charged."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.ids import parse_id
from gateway.storage.database import FILE_NAME, open_reader
from gateway.usage import Usage
from tests.gateway_tools import MODEL, ScriptedUpstream, open_gateway, settings_text
from tests.ledger_tools import assert_books_balance, copy_as_killed
from tests.upstream import contains
from tests.upstreams import scripts
from tests.upstreams.replies import Reply

ROOT = Path(__file__).parents[2]
ROUNDS = 20

SLOW = Reply(text=("t" * 70,) * 400, usage=Usage(input_tokens=2000, output_tokens=8000), reporting="cumulative")
MUTE = Reply(text=("t" * 70,) * 400, usage=Usage(input_tokens=2000, output_tokens=8000))
QUICK = Reply(usage=Usage(input_tokens=300, output_tokens=20))


@asynccontextmanager
async def running(data_dir: Path, config: Path, *options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.proxy.kill_runner", str(data_dir), str(config), *options),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            port = (await process.stdout.readline()).strip().decode()
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()


class Clients:
    """Ask for everything at once, and remember what was acknowledged: a settle that GET /v1/usage told of."""

    def __init__(self, key: str) -> None:
        self.headers = {"x-api-key": key}
        self.acknowledged: dict[int, int] = {}
        self.answered = 0

    async def run(self, url: str) -> None:
        async with aiohttp.ClientSession(headers=self.headers, timeout=aiohttp.ClientTimeout(total=20)) as session:
            await asyncio.gather(
                *(self._stream(session, url, "slow") for _ in range(3)),
                *(self._stream(session, url, "mute") for _ in range(2)),
                *(self._again_and_again(session, url, stream) for stream in (False, True, False)),
            )

    async def _stream(self, session: aiohttp.ClientSession, url: str, content: str) -> None:
        try:
            async with session.post(url + "/v1/messages", json=self.body(content, True)) as response:
                await response.read()
        except (aiohttp.ClientError, ConnectionError):
            pass  # killed

    async def _again_and_again(self, session: aiohttp.ClientSession, url: str, stream: bool) -> None:
        try:
            while True:
                async with session.post(url + "/v1/messages", json=self.body("quick", stream)) as response:
                    assert response.status == 200, await response.text()
                    await response.read()
                    request_id = response.headers["request-id"]
                    self.answered += 1
                async with session.get(f"{url}/v1/usage/{request_id}") as response:
                    assert response.status == 200
                    number = parse_id(request_id)
                    assert number is not None
                    self.acknowledged[number] = (await response.json())["cost_nanos"]
        except (aiohttp.ClientError, ConnectionError):
            pass  # killed

    @staticmethod
    def body(content: str, stream: bool) -> dict[str, Any]:
        return {"model": MODEL, "max_tokens": 20_000, "stream": stream, "messages": [{"role": "user", "content": content}]}


def progress_of(copy: Path) -> dict[int, tuple[int, int]]:
    """What each open hold had come to on disk: (cost, held durably)."""
    with closing(open_reader(copy)) as conn:
        rows = conn.execute(
            """
            select h.id, p.cost_nanos,
              h.amount_nanos + coalesce((select sum(delta_nanos) from hold_changes where hold_id = h.id), 0)
            from holds as h join progress as p on p.hold_id = h.id where h.state = 'open'
            """
        ).fetchall()
    return {hold_id: (cost, held) for hold_id, cost, held in rows}


def check(database: Path, clients: Clients, seen: dict[int, tuple[int, int]]) -> None:
    with closing(open_reader(database)) as conn:
        assert_books_balance(conn)  # and no open hold: nothing has been asked since the start
        costs = dict(conn.execute("select request_id, cost_nanos from usage"))
        lost = {request_id for request_id, cost in clients.acknowledged.items() if costs.get(request_id) != cost}
        assert not lost
        for hold_id, (cost, held) in seen.items():
            row = conn.execute("select source, cost_nanos, paid_nanos from usage where request_id = ?", (hold_id,)).fetchone()
            assert row == ("recovered", min(cost, held), min(cost, held))
        unknown = {hold_id for (hold_id,) in conn.execute("select id from holds where reason = 'unknown'")}
        assert not unknown & costs.keys() and not unknown & seen.keys()


@pytest.mark.slow
async def test_twenty_kills_with_streams_open(tmp_path: Path) -> None:
    chance = random.Random(20261120)
    recovered: dict[int, tuple[int, int]] = {}
    async with ScriptedUpstream(default=scripts.answer(QUICK, pace_s=0.002)) as up:
        up.when(contains(b'"slow"'), scripts.answer(SLOW, pace_s=0.02))
        up.when(contains(b'"mute"'), scripts.answer(MUTE, pace_s=0.02))
        async with open_gateway(tmp_path, up.url) as gateway:
            clients = Clients((await gateway.make_user("alice", "1000")).secret)
        config, data_dir = tmp_path / "pagegrid.toml", tmp_path / "data"
        config.write_text(settings_text(up.url))
        for number in range(ROUNDS):
            async with running(data_dir, config) as (process, url):
                check(data_dir / FILE_NAME, clients, recovered)
                asking = asyncio.ensure_future(clients.run(url))
                # Progress is written from the second second on: now before, now after it.
                await asyncio.sleep(chance.uniform(0.05, 1.0) if number % 3 else chance.uniform(2.1, 2.6))
                os.kill(process.pid, signal.SIGKILL)
                await process.wait()
                await asking
            copy = copy_as_killed(data_dir / FILE_NAME, tmp_path / f"killed-{number}")
            seen = progress_of(copy)
            assert number % 3 or len(seen) >= 4, "streams older than a second have progress on disk"
            recovered |= seen
            if number in (9, 18):
                # Once more, in the middle of its recovery: nothing of that may be left, and the next start does it all again.
                async with running(data_dir, config, "die-in-recovery") as (process, url):
                    assert await process.wait() == -signal.SIGKILL and url.endswith(":")
        async with running(data_dir, config) as (process, url):
            check(data_dir / FILE_NAME, clients, recovered)
            body = clients.body("quick", False)
            async with aiohttp.ClientSession() as session:
                answer = await session.post(url + "/v1/messages", json=body, headers=clients.headers)
                assert answer.status == 200
        assert len(recovered) >= 4 * 7 and len(clients.acknowledged) > ROUNDS
        # What providers billed and nobody charged for is only what died unseen: at most the requests in flight at each kill.
        with closing(open_reader(data_dir / FILE_NAME)) as conn:
            charged = conn.execute("select count(*) from usage").fetchone()[0]
        billed = sum(1 for seen_request in up.journal if seen_request.billed is not None)
        assert charged <= billed <= charged + 8 * ROUNDS
