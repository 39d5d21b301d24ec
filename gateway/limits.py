"""Token buckets, in memory: requests per minute, by key.

A bucket refills continuously; a request takes one or learns how long to wait. Knows nothing of HTTP; time is handed in
(monotonic ms), so a wall clock that jumps neither freezes nor floods a bucket. Exact: fills are counted in 1/60,000 requests.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import ClientError
from gateway.metrics import limit_hit

MINUTE_MS = 60_000
# A request that the upstream refused as malformed gives its place back (Claude Code repeats a 400 up to 8 times within a second
# with fewer fields), but not without end.
GIVEN_BACK_PER_MINUTE_MAX = 20
COUNT_TOKENS_PER_MINUTE = 300


@dataclass(frozen=True, slots=True)
class Terms:
    """What a key may do; 0 is unlimited. Tokens are input + cache writes + output, not cache reads; days and months are UTC."""

    rpm: int = 0
    tpm: int = 0
    concurrent: int = 0
    requests_per_day: int = 0
    tokens_per_month: int = 0
    spend_per_day_nanos: int = 0
    spend_per_month_nanos: int = 0
    spend_total_nanos: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a key stands, for its headers: `reset_ms` until the bucket is full again."""

    limit: int
    remaining: int
    reset_ms: int


class Bucket:
    """`per_minute` requests, all of which may come at once; full at the start."""

    __slots__ = ("_fill", "_given_back", "_given_back_from_ms", "_seen_ms", "per_minute")

    def __init__(self, per_minute: int, now_ms: int) -> None:
        assert per_minute > 0
        self.per_minute = per_minute
        self._fill = per_minute * MINUTE_MS
        self._seen_ms = now_ms
        self._given_back = 0
        self._given_back_from_ms = now_ms

    def take(self, now_ms: int) -> int:
        """Take one; returns 0, or how many milliseconds to wait for it (and nothing was taken)."""
        self._refill(now_ms)
        if self._fill >= MINUTE_MS:
            self._fill -= MINUTE_MS
            return 0
        return -(-(MINUTE_MS - self._fill) // self.per_minute)

    def give_back(self, now_ms: int) -> None:
        if now_ms - self._given_back_from_ms >= MINUTE_MS:
            self._given_back, self._given_back_from_ms = 0, now_ms
        if self._given_back < GIVEN_BACK_PER_MINUTE_MAX:
            self._given_back += 1
            self._fill = min(self.per_minute * MINUTE_MS, self._fill + MINUTE_MS)

    def standing(self, now_ms: int) -> Standing:
        self._refill(now_ms)
        missing = self.per_minute * MINUTE_MS - self._fill
        return Standing(self.per_minute, self._fill // MINUTE_MS, -(-missing // self.per_minute))

    def _refill(self, now_ms: int) -> None:
        self._fill = min(self.per_minute * MINUTE_MS, self._fill + max(0, now_ms - self._seen_ms) * self.per_minute)
        self._seen_ms = max(now_ms, self._seen_ms)


class RateLimits:
    """One bucket per key for requests and one for token counting, made when first used."""

    def __init__(self) -> None:
        self._requests: dict[int, Bucket] = {}
        self._counts: dict[int, Bucket] = {}

    def take_request(self, key_id: int, per_minute: int, now_ms: int) -> None:
        """Raises ClientError `rate_limited`. `per_minute` 0 is unlimited."""
        if per_minute:
            _take(self._bucket(self._requests, key_id, per_minute, now_ms), now_ms, "requests")

    def take_count(self, key_id: int, now_ms: int) -> None:
        """As `take_request`, for token counting, which has a bucket of its own: `/context` sends 26 at once."""
        _take(self._bucket(self._counts, key_id, COUNT_TOKENS_PER_MINUTE, now_ms), now_ms, "token counts")

    def give_back(self, key_id: int, now_ms: int) -> None:
        bucket = self._requests.get(key_id)
        if bucket is not None:
            bucket.give_back(now_ms)

    def standing(self, key_id: int, per_minute: int, now_ms: int) -> Standing | None:
        """None if unlimited."""
        if not per_minute:
            return None
        return self._bucket(self._requests, key_id, per_minute, now_ms).standing(now_ms)

    @staticmethod
    def _bucket(buckets: dict[int, Bucket], key_id: int, per_minute: int, now_ms: int) -> Bucket:
        bucket = buckets.get(key_id)
        if bucket is None or bucket.per_minute != per_minute:
            bucket = buckets[key_id] = Bucket(per_minute, now_ms)
        return bucket


def _take(bucket: Bucket, now_ms: int, what: str) -> None:
    wait_ms = bucket.take(now_ms)
    if wait_ms:
        wait_s = -(-wait_ms // 1000)
        limit_hit("rpm" if what == "requests" else "count_tokens")
        raise ClientError(
            "rate_limited",
            f"This key may make {bucket.per_minute} {what} per minute, and they are used up; the next is free in {wait_s} s. "
            "The operator can raise the limit.",
            retry_after_s=wait_s,
        )
