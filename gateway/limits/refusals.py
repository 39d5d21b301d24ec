"""What people are told of a limit: which it is, its value, when there is room again, and who can raise it."""

from __future__ import annotations

from datetime import UTC, datetime

from gateway.errors import ClientError, Code
from gateway.limits.buckets import Bucket
from gateway.limits.windows import Window, resets_at_ms_of
from gateway.metrics import limit_hit
from gateway.money import format_usd

# What waits longer is not worth an SDK's patience.
RETRY_S_MAX = 60

_WHO = "The operator can raise the limit."
_PERIODS = {"day": " per day (UTC)", "month": " per month (UTC)", "ever": " in all"}


class LimitHeld(ClientError):
    """Only running requests are in the way: worth another try soon. `name` is the limit's in Terms."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__("rate_limited", f"{text} Try again when one has ended. {_WHO}", retry_after_s=5)
        self.name = name


def take_one(bucket: Bucket, now_ms: int, name: str, what: str) -> None:
    wait_ms = bucket.wait_ms(1, now_ms)
    if wait_ms:
        limit_hit(name)
        wait_s = -(-wait_ms // 1000)
        raise ClientError(
            "rate_limited",
            f"This key may make {bucket.per_minute} {what if bucket.per_minute != 1 else what.removesuffix('s')} per minute, "
            f"and no more is left; the next is free in {wait_s} s. " + _WHO,
            retry_after_s=wait_s,
        )
    bucket.take(1)


def tokens_used_up(bucket: Bucket, tokens: int, wait_ms: int, now_ms: int) -> ClientError:
    limit_hit("tpm")
    wait_s, left = -(-wait_ms // 1000), bucket.standing(now_ms).remaining
    fits = tokens <= bucket.per_minute
    room = "There is room for it" if fits else "It is larger than the limit: one such request is let through when all are left,"
    return ClientError(
        "rate_limited",
        f"This key may use {bucket.per_minute:,} tokens per minute (input, cache writes and output); {left:,} are left and this "
        f"request may need {tokens:,}. {room} in {wait_s} s. {_WHO}",
        retry_after_s=wait_s,
        should_retry=False if wait_s > RETRY_S_MAX else None,
    )


def exhausted(window: Window, limit: int, used: int, amount: int, at_ms: int) -> ClientError:
    """The window itself is used up: nothing but its end, or the operator, will help."""
    limit_hit(window.name)
    needs = f" This request may need {_amount(window, amount, up=True)}." if window.unit != "requests" else ""
    resets_at_ms = resets_at_ms_of(window, at_ms)
    again, retry_after_s = "", None
    if resets_at_ms is not None:
        again = f" It starts anew at {datetime.fromtimestamp(resets_at_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC."
        retry_after_s = -(-(resets_at_ms - at_ms) // 1000) if window.unit != "nanos" else None
    should_retry = None if retry_after_s is not None and retry_after_s <= RETRY_S_MAX else False
    text = window_text(window, limit, used, 0) + needs + again
    return ClientError(code_of(window), f"{text} {_WHO}", retry_after_s=retry_after_s, should_retry=should_retry)


def code_of(window: Window) -> Code:
    # Money, though not the wallet's: 402.
    return "cap_reached" if window.unit == "nanos" else "rate_limited"


def window_text(window: Window, limit: int, used: int, reserved: int) -> str:
    verb = {"requests": "make", "tokens": "use", "nanos": "spend"}[window.unit]
    done = {"requests": "made", "tokens": "used", "nanos": "spent"}[window.unit]
    held = f", and running requests hold {_amount(window, reserved)}" if reserved else ""
    return f"This key may {verb} {_amount(window, limit)}{_PERIODS[window.period]}; it has {done} {_amount(window, used)}{held}."


def _amount(window: Window, amount: int, *, up: bool = False) -> str:
    if window.unit == "nanos":
        # To the hundredth of a cent, small amounts exactly; what is needed upwards, so that the sentence stays true.
        step = 100_000 if amount >= 10_000_000 else 1
        return f"${format_usd(-(-amount // step) * step if up else amount // step * step)}"
    return counted(amount, window.unit.removesuffix("s"))


def counted(amount: int, noun: str) -> str:
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"
