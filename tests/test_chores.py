"""What the house does by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import metrics
from gateway.chores import _every, resolve_forgotten_holds
from gateway.errors import HouseError
from gateway.metrics import counters
from gateway.storage.rows import HoldRow
from tests.gateway_tools import MODEL, ScriptedUpstream, open_gateway


@pytest.mark.parametrize("durable", [True, False])
async def test_a_hold_that_no_request_owns_is_given_back_and_rings(tmp_path: Path, durable: bool) -> None:
    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        walk, desk = gateway.house.walk, gateway.house.desk
        request_id = walk.ids.next(desk.clock.at_ms())
        hold = walk.book.admit(request_id, alice.key.wallet_id, 5_000, 5_000)
        if durable:
            desk.writer.submit(HoldRow(request_id, hold.wallet_id, alice.key.id, MODEL, hold.amount_nanos, desk.clock.at_ms()))
        rung = counters["alarm_forgotten_hold"]
        await resolve_forgotten_holds(walk, desk)
        assert counters["alarm_forgotten_hold"] == rung + 1
        assert walk.book.wallet(alice.key.wallet_id).held_nanos == 0
        await gateway.assert_settled()


@pytest.mark.parametrize(("error", "told"), [(HouseError("unavailable", "the disk is full"), 2), (ValueError("our bug"), 4)])
async def test_a_disk_in_trouble_is_told_once_and_a_bug_each_time(
    error: Exception, told: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "chores", {})
    runs: Iterator[Exception | None] = iter([None, error, error, error, None, error])
    over = asyncio.Event()

    async def work() -> None:
        try:
            outcome = next(runs)
        except StopIteration:
            over.set()
            return
        if outcome is not None:
            raise outcome

    task = asyncio.ensure_future(_every(0.001, work))
    await asyncio.wait_for(over.wait(), 10)
    task.cancel()
    assert len([record for record in caplog.records if "a chore failed" in record.message]) == told
