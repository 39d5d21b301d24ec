"""Work that takes minutes and that a page starts without waiting for its end: one of a kind at a time.

The house ends it when it closes. Unlike an act (`jobs.whole`) it may be left in its middle.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger(__name__)


class Errand:
    """`since_ms` is when the running one began, None if none runs; `trouble` why the last one failed, "" if it did not."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._task: asyncio.Task[None] | None = None
        self.since_ms: int | None = None
        self.trouble = ""

    def start(self, work: Coroutine[Any, Any, Any], at_ms: int) -> bool:
        """Begin it; false, and nothing of it is done, if another one runs."""
        if self._task is not None:
            work.close()
            return False
        self.since_ms = at_ms
        self._task = asyncio.get_running_loop().create_task(self._run(work))
        return True

    async def wait(self, limit_s: float) -> bool:
        """Whether it is over, now or within the limit."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=limit_s)
        return self._task is None

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
            self.trouble = ""
        except Exception as error:
            logger.exception("%s failed", self._name)
            self.trouble = str(error)
        finally:
            self._task = self.since_ms = None
