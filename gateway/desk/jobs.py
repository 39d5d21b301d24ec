"""An act is done whole or not at all, also if whoever asked for it leaves.

A commit that memory does not follow would leave a revoked key alive. So an act runs as a task of its own: when its caller is
cancelled (a command that was interrupted, a browser that went away) the act still goes to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# The loop itself keeps only weak references to tasks.
_running: set[asyncio.Task[Any]] = set()


def whole(act: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let the act go to its end whatever becomes of its caller. It is short: one job on the writer, whose queue is bounded in
    time by the writer itself and emptied before the house closes."""

    @wraps(act)
    async def to_its_end(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.get_running_loop().create_task(act(*args, **kwargs))
        _running.add(task)
        task.add_done_callback(_running.discard)
        return await asyncio.shield(task)

    return to_its_end
