"""How fast anybody may guess: some tries are free, then each failure doubles the wait for the next.

    try  1 … free     at once
         free + 1     after `first_ms` from the last one, then 2 ×, 4 × … up to `most_ms`
         forgotten    after `forget_ms` without a try

A try is counted before it is judged, and given back if it was right: any number of guesses at the same moment are that many. A
try that is refused here does not count. The number of parties that are remembered is bounded. Knows nothing of passwords or HTTP;
time is handed in (monotonic ms).
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import ClientError

PARTIES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Pace:
    free: int
    first_ms: int
    most_ms: int
    forget_ms: int

    def wait_ms(self, tries: int) -> int:
        """Between the last of so many tries and the next."""
        if tries < self.free:
            return 0
        # Beyond 40 doublings any wait is the longest.
        return int(min(self.first_ms << min(tries - self.free, 40), self.most_ms))


class TooManyTries(ClientError):
    def __init__(self, wait_ms: int) -> None:
        wait_s = -(-wait_ms // 1000)
        super().__init__("rate_limited", f"Too many tries; try again in {wait_s} s.", retry_after_s=wait_s)


class Throttle:
    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        # Party → (tries, moment of the last); whoever tried last stands at the end.
        self._tries: dict[str, tuple[int, int]] = {}

    def check(self, party: str, now_ms: int) -> None:
        """Raises TooManyTries."""
        tries, last_ms = self._of(party, now_ms)
        wait_ms = last_ms + self._pace.wait_ms(tries) - now_ms
        if wait_ms > 0:
            raise TooManyTries(wait_ms)

    def count(self, party: str, now_ms: int) -> None:
        tries, _ = self._of(party, now_ms)
        self._tries.pop(party, None)
        self._tries[party] = (tries + 1, now_ms)
        if len(self._tries) > PARTIES_MAX:
            del self._tries[next(iter(self._tries))]

    def give_back(self, party: str) -> None:
        """One try, which was right."""
        tries, last_ms = self._tries.get(party, (0, 0))
        if tries > 1:
            self._tries[party] = (tries - 1, last_ms)
        else:
            self._tries.pop(party, None)

    def clear(self, party: str) -> None:
        """All is forgotten: it was they."""
        self._tries.pop(party, None)

    def _of(self, party: str, now_ms: int) -> tuple[int, int]:
        tries, last_ms = self._tries.get(party, (0, now_ms))
        return (0, now_ms) if now_ms - last_ms >= self._pace.forget_ms else (tries, last_ms)
