"""Looks into the database for those who wait at a page: few at once, in threads of their own, and of each user one.

The loop's own threads resolve the names of providers: a look there would keep requests waiting (seen: 200 pages asked for at once
by one user made a name take 1.8 s, and every page of everybody else 3 s). More threads than these make nothing faster, as Python
runs one at a time, and make the loop wait for its turn among them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from weakref import WeakValueDictionary

from gateway.errors import HouseError

T = TypeVar("T")

LOOKS_AT_ONCE = 3
# A look of one user's waits for the one before it.
WAIT_S = 10


class Readers:
    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKS_AT_ONCE, thread_name_prefix="look")
        # Of those who look or wait, and no others.
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def run(self, work: Callable[[], T], user_id: int | None = None) -> T:
        """`user_id`: who asks; None for what is short whoever asks. Raises HouseError while too much of theirs waits."""
        if user_id is None:
            return await self._run(work)
        turn = self._turns.setdefault(user_id, asyncio.Lock())
        try:
            async with asyncio.timeout(WAIT_S):
                await turn.acquire()
        except TimeoutError:
            raise HouseError("unavailable", "You have too many pages open that load; wait a moment.", retry_after_s=5) from None
        try:
            return await self._run(work)
        finally:
            turn.release()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
