"""Time, asked for in one place so that tests can move it.

Wall time (`at_ms`, UTC, stored) and running time (`now_ms`, monotonic, for buckets and time-outs) are different things:
a wall clock may jump by a day, the other never does.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def at_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        ...

    def now_ms(self) -> int:
        """Monotonic milliseconds since some moment of this process."""
        ...


class SystemClock:
    def at_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def now_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


def rfc3339(at_ms: int) -> str:
    """UTC, to the second."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).isoformat().replace("+00:00", "Z")
