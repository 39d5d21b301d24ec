"""What a key may do in a minute, in a day, in a month and ever: all limits are checked, then all are taken.

    enter ──▶ Lease ──▶ change, with the hold ──▶ leave: what was reserved gives way to what was used

Requests and tokens per minute are buckets that refill continuously, by a monotonic clock, so that a wall clock that jumps neither
freezes nor floods them. Days and months are UTC calendar windows of the moment of admission; what was used in them before this
start is handed in (`load`), so that they survive a restart exactly. Tokens and money are reserved before they are used and
raised with the hold, so that requests side by side cannot race past a limit. Knows nothing of HTTP, prices or SQL; time is
handed in.
"""

from gateway.limits.accounts import COUNT_TOKENS_PER_MINUTE, GIVEN_BACK_PER_MINUTE_MAX, Lease, Level, Limits
from gateway.limits.buckets import MINUTE_MS, Bucket, Standing
from gateway.limits.refusals import LimitHeld
from gateway.limits.windows import DAY_MS, Spent, Terms

__all__ = [
    "COUNT_TOKENS_PER_MINUTE",
    "DAY_MS",
    "GIVEN_BACK_PER_MINUTE_MAX",
    "MINUTE_MS",
    "Bucket",
    "Lease",
    "Level",
    "LimitHeld",
    "Limits",
    "Spent",
    "Standing",
    "Terms",
]
