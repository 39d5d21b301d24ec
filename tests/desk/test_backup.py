"""A backup of the running house whose caller leaves."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway.desk import backup
from gateway.house import House


async def test_it_may_be_cancelled_when_it_has_just_ended(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, ended, plain = threading.Event(), threading.Event(), asyncio.to_thread

    async def to_thread(work: Any) -> Any:
        def told() -> Any:
            began.set()
            try:
                return work()
            finally:
                ended.set()

        return await plain(told)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    task = asyncio.ensure_future(backup.back_up_house(house.desk, "cli:tester", file=str(tmp_path / "copy.db")))
    while not began.is_set():
        await asyncio.sleep(0)
    assert ended.wait(10)  # on the loop, which hears of its end only afterwards
    task.cancel()
    await asyncio.wait([task])
    monkeypatch.undo()
    assert task.cancelled()
