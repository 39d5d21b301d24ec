"""A token bucket: so many a minute, all of which may come at once, refilled continuously."""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a bucket stands, for headers: `reset_ms` until it is full again."""

    limit: int
    remaining: int
    reset_ms: int


class Bucket:
    """`per_minute` of something, all of which may come at once; full at the start, exact in 1/60,000."""

    __slots__ = ("_fill", "_seen_ms", "per_minute")

    def __init__(self, per_minute: int, now_ms: int) -> None:
        assert per_minute > 0
        self.per_minute = per_minute
        self._fill = per_minute * MINUTE_MS
        self._seen_ms = now_ms

    def wait_ms(self, amount: int, now_ms: int) -> int:
        """How long until `amount` may be taken, 0: now. What is larger than the bucket waits until it is full."""
        self._refill(now_ms)
        return max(0, -(-(min(amount, self.per_minute) * MINUTE_MS - self._fill) // self.per_minute))

    def resize(self, per_minute: int, now_ms: int) -> None:
        """Another limit, with the same share missing: switching to and fro fills nothing, and it is full as soon as before."""
        self._refill(now_ms)
        self._fill = self._fill * per_minute // self.per_minute
        self.per_minute = per_minute

    def take(self, amount: int) -> None:
        """Down into debt, if it must be."""
        self._fill -= amount * MINUTE_MS

    def put(self, amount: int) -> None:
        self._fill = min(self.per_minute * MINUTE_MS, self._fill + amount * MINUTE_MS)

    def standing(self, now_ms: int) -> Standing:
        self._refill(now_ms)
        missing = self.per_minute * MINUTE_MS - self._fill
        return Standing(self.per_minute, max(0, self._fill // MINUTE_MS), -(-missing // self.per_minute))

    def _refill(self, now_ms: int) -> None:
        self._fill = min(self.per_minute * MINUTE_MS, self._fill + max(0, now_ms - self._seen_ms) * self.per_minute)
        self._seen_ms = max(now_ms, self._seen_ms)


def renewed(bucket: Bucket | None, per_minute: int, now_ms: int) -> Bucket | None:
    """The bucket as its limit stands now."""
    if not per_minute:
        return None
    if bucket is None:
        return Bucket(per_minute, now_ms)
    if bucket.per_minute != per_minute:
        bucket.resize(per_minute, now_ms)
    return bucket


def move(bucket: Bucket, more: int) -> None:
    if more > 0:
        bucket.take(more)
    else:
        bucket.put(-more)
