"""Fakes that we wrote: a clock that tests move."""

from __future__ import annotations


class FakeClock:
    """Wall and running time, apart from each other; nothing moves unless a test moves it."""

    def __init__(self, at_ms: int = 1_780_000_000_000, now_ms: int = 1_000_000) -> None:
        self.wall_ms = at_ms
        self.running_ms = now_ms

    def at_ms(self) -> int:
        return self.wall_ms

    def now_ms(self) -> int:
        return self.running_ms

    def advance(self, ms: int) -> None:
        self.wall_ms += ms
        self.running_ms += ms
