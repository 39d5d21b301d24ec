"""What a key may do in a minute, in a day, in a month and ever: all limits are checked, then all are taken.

    enter ──▶ Lease ──▶ change, with the hold ──▶ leave: what was reserved gives way to what was used

Requests and tokens per minute are buckets that refill continuously, by a monotonic clock, so that a wall clock that jumps neither
freezes nor floods them. Days and months are UTC calendar windows of the moment of admission; what was used in them before this
start is handed in (`load`), so that they survive a restart exactly. Tokens and money are reserved before they are used and
raised with the hold, so that requests side by side cannot race past a limit. Knows nothing of HTTP, prices or SQL; time is
handed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

from gateway.errors import ClientError, Code
from gateway.metrics import limit_hit
from gateway.money import format_usd

MINUTE_MS = 60_000
DAY_MS = 86_400_000
# A request that the upstream refused as malformed gives its place back (Claude Code repeats a 400 up to 8 times within a second
# with fewer fields), but not without end.
GIVEN_BACK_PER_MINUTE_MAX = 20
COUNT_TOKENS_PER_MINUTE = 300
# What waits longer is not worth an SDK's patience.
RETRY_S_MAX = 60
UNLIMITED = 2**62


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

    @property
    def need_history(self) -> bool:
        """Whether what was used before this start counts."""
        return any(getattr(self, window.name) for window in _WINDOWS)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a bucket stands, for headers: `reset_ms` until it is full again."""

    limit: int
    remaining: int
    reset_ms: int


@dataclass(frozen=True, slots=True)
class Level:
    """Where a limit stands, for people: amounts in its own unit; `resets_at_ms` None if it does not by itself."""

    name: str
    limit: int
    used: int
    reserved: int
    resets_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Spent:
    """What a key used on one UTC day (days since 1970) before this start."""

    day: int
    requests: int
    tokens: int
    nanos: int


class LimitHeld(ClientError):
    """Only running requests are in the way: worth another try soon. `name` is the limit's in Terms."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__("rate_limited", f"{text} Try again when one has ended. {_WHO}", retry_after_s=5)
        self.name = name


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
        """Another limit, with the same amount missing: switching to and fro fills nothing."""
        self._refill(now_ms)
        self._fill += (per_minute - self.per_minute) * MINUTE_MS
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


@dataclass(slots=True)
class _Tally:
    used: int = 0
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class _Window:
    """One limit that counts over a calendar period: the name in Terms, and what it counts."""

    name: str
    period: Literal["day", "month", "ever"]
    unit: Literal["requests", "tokens", "nanos"]


_WINDOWS = (
    _Window("requests_per_day", "day", "requests"),
    _Window("tokens_per_month", "month", "tokens"),
    _Window("spend_per_day_nanos", "day", "nanos"),
    _Window("spend_per_month_nanos", "month", "nanos"),
    _Window("spend_total_nanos", "ever", "nanos"),
)
# Periods that are kept: a clock that is set back by a day finds the day that it knew.
_KEPT = 3


@dataclass(slots=True)
class _Account:
    """All that is counted of one key, whichever of it is limited: a limit may come later."""

    requests: Bucket | None = None
    tokens: Bucket | None = None
    counts: Bucket | None = None
    running: int = 0
    given_back: int = 0
    given_back_from_ms: int = 0
    loaded: bool = False
    tallies: dict[str, dict[int, _Tally]] = field(default_factory=lambda: {window.name: {} for window in _WINDOWS})

    def tally(self, name: str, period: int) -> _Tally:
        periods = self.tallies[name]
        tally = periods.get(period)
        if tally is None:
            tally = periods[period] = _Tally()
            newest = max(periods)
            for old in [old for old in periods if old <= newest - _KEPT and not periods[old].reserved]:
                if old != period:
                    del periods[old]
        return tally


@dataclass(slots=True)
class Lease:
    """What one running request has reserved: `tokens` as counted, `nanos` as held."""

    account: _Account
    terms: Terms
    day: int
    month: int
    tokens: int
    nanos: int
    bucket: Bucket | None

    def tally(self, window: _Window) -> _Tally:
        return self.account.tally(window.name, _period(window, self.day, self.month))

    def reserved(self, window: _Window) -> int:
        return {"requests": 1, "tokens": self.tokens, "nanos": self.nanos}[window.unit]


class Limits:
    """The accounts of all keys, by the first key of a chain of rotations (`Key.root_id`), made when first used."""

    def __init__(self) -> None:
        self._accounts: dict[int, _Account] = {}

    # ── at the door ──────────────────────────────────────────────────────────────────────────────────────────────────

    def take_request(self, key: int, terms: Terms, now_ms: int) -> None:
        """Raises ClientError `rate_limited`."""
        bucket = self._requests(key, terms, now_ms)
        if bucket is not None:
            _take_one(bucket, now_ms, "rpm", "requests")

    def take_count(self, key: int, now_ms: int) -> None:
        """As `take_request`, for token counting, which has a bucket of its own: `/context` sends 26 at once."""
        account = self._account(key)
        account.counts = account.counts or Bucket(COUNT_TOKENS_PER_MINUTE, now_ms)
        _take_one(account.counts, now_ms, "count_tokens", "token counts")

    def give_back(self, key: int, now_ms: int) -> None:
        """The upstream refused the request as malformed."""
        account = self._account(key)
        if now_ms - account.given_back_from_ms >= MINUTE_MS:
            account.given_back, account.given_back_from_ms = 0, now_ms
        if account.requests is not None and account.given_back < GIVEN_BACK_PER_MINUTE_MAX:
            account.given_back += 1
            account.requests.put(1)

    # ── beside the hold ──────────────────────────────────────────────────────────────────────────────────────────────

    def check(self, key: int, terms: Terms, tokens: int, nanos: int, at_ms: int, now_ms: int) -> int:
        """How many nanos `enter` may take at most; `tokens` and `nanos` are the least that the request needs.

        Raises ClientError, `rate_limited` or (a spend cap) `balance_too_low`; LimitHeld if running requests are in the way.
        """
        account = self._account(key)
        if terms.concurrent and account.running >= terms.concurrent:
            raise LimitHeld(
                "concurrent", f"This key may run {_count(terms.concurrent, 'request')} at one time, and as many are running."
            )
        bucket = self._tokens(account, terms, now_ms)
        if bucket is not None and (wait_ms := bucket.wait_ms(tokens, now_ms)):
            raise _tokens_used_up(bucket, tokens, wait_ms, now_ms)
        day, month = _day_and_month(at_ms)
        amounts = {"requests": 1, "tokens": tokens, "nanos": nanos}
        room = UNLIMITED
        for window in _WINDOWS:
            limit = getattr(terms, window.name)
            if not limit:
                continue
            tally = account.tally(window.name, _period(window, day, month))
            amount = amounts[window.unit]
            if tally.used + amount > limit:
                raise _exhausted(window, limit, tally.used, amount, at_ms)
            if tally.used + tally.reserved + amount > limit:
                raise LimitHeld(window.name, _window_text(window, limit, tally.used, tally.reserved))
            if window.unit == "nanos":
                room = min(room, limit - tally.used - tally.reserved)
        return room

    def enter(self, key: int, terms: Terms, tokens: int, nanos: int, at_ms: int, now_ms: int) -> Lease:
        """Take what `check` allowed, in the same step."""
        account = self._account(key)
        day, month = _day_and_month(at_ms)
        bucket = self._tokens(account, terms, now_ms)
        lease = Lease(account, terms, day, month, 0, 0, bucket)
        account.running += 1
        lease.tally(_WINDOWS[0]).reserved += 1
        self.change(lease, tokens, nanos)
        return lease

    def change(self, lease: Lease, tokens: int, nanos: int) -> None:
        """Bring the reservation to `tokens` and `nanos`, with the hold."""
        more = {"requests": 0, "tokens": tokens - lease.tokens, "nanos": nanos - lease.nanos}
        if not more["tokens"] and not more["nanos"]:
            return
        for window in _WINDOWS:
            if more[window.unit]:
                lease.tally(window).reserved += more[window.unit]
        if lease.bucket is not None:
            _move(lease.bucket, more["tokens"])
        lease.tokens, lease.nanos = tokens, nanos

    def room(self, lease: Lease) -> tuple[int, int]:
        """(tokens, nanos) that the reservation may still grow by. A bucket does not bound it: it may fall into debt."""
        rooms = {"requests": UNLIMITED, "tokens": UNLIMITED, "nanos": UNLIMITED}
        for window in _WINDOWS:
            limit = getattr(lease.terms, window.name)
            if limit:
                tally = lease.tally(window)
                rooms[window.unit] = min(rooms[window.unit], max(0, limit - tally.used - tally.reserved))
        return rooms["tokens"], rooms["nanos"]

    def why_full(self, lease: Lease) -> ClientError | None:
        """What a running request is told that a limit stopped; None if none of them did."""
        for window in _WINDOWS:
            limit = getattr(lease.terms, window.name)
            tally = lease.tally(window)
            if limit and window.unit != "requests" and tally.used + tally.reserved >= limit:
                limit_hit(window.name)
                text = _window_text(window, limit, tally.used, tally.reserved)
                return ClientError(_code(window), text + " What was delivered is charged.", should_retry=False)
        return None

    def leave(self, lease: Lease, used: tuple[int, int] | None) -> None:
        """The request is over: `used` is (tokens, nanos), None if nothing was charged. A request that was not answered does not
        count for the day.
        """
        tokens, nanos = used or (0, 0)
        amounts = {"requests": 0 if used is None else 1, "tokens": tokens, "nanos": nanos}
        for window in _WINDOWS:
            tally = lease.tally(window)
            tally.reserved -= lease.reserved(window)
            tally.used += amounts[window.unit]
            assert tally.reserved >= 0
        if lease.bucket is not None:
            _move(lease.bucket, tokens - lease.tokens)
        lease.account.running -= 1

    # ── history ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def is_loaded(self, key: int) -> bool:
        return self._account(key).loaded

    def load(self, key: int, days: Iterable[Spent], ever_nanos: int) -> None:
        """What the key used before this start; the second time changes nothing."""
        account = self._account(key)
        if account.loaded:
            return
        account.loaded = True
        for spent in days:
            month = _day_and_month(spent.day * DAY_MS)[1]
            amounts = {"requests": spent.requests, "tokens": spent.tokens, "nanos": spent.nanos}
            for window in _WINDOWS:
                if window.period != "ever":
                    account.tally(window.name, _period(window, spent.day, month)).used += amounts[window.unit]
        account.tally("spend_total_nanos", 0).used += ever_nanos

    # ── for people ───────────────────────────────────────────────────────────────────────────────────────────────────

    def requests_standing(self, key: int, terms: Terms, now_ms: int) -> Standing | None:
        """None if unlimited."""
        bucket = self._requests(key, terms, now_ms)
        return None if bucket is None else bucket.standing(now_ms)

    def tokens_standing(self, key: int, terms: Terms, now_ms: int) -> Standing | None:
        bucket = self._tokens(self._account(key), terms, now_ms)
        return None if bucket is None else bucket.standing(now_ms)

    def levels(self, key: int, terms: Terms, at_ms: int, now_ms: int) -> list[Level]:
        """Every limit that the key has, and where it stands."""
        account = self._account(key)
        day, month = _day_and_month(at_ms)
        levels = []
        for name, bucket in (("rpm", self._requests(key, terms, now_ms)), ("tpm", self._tokens(account, terms, now_ms))):
            if bucket is not None:
                standing = bucket.standing(now_ms)
                levels.append(Level(name, standing.limit, standing.limit - standing.remaining, 0, at_ms + standing.reset_ms))
        if terms.concurrent:
            levels.append(Level("concurrent", terms.concurrent, account.running, 0, None))
        for window in _WINDOWS:
            limit = getattr(terms, window.name)
            if limit:
                tally = account.tally(window.name, _period(window, day, month))
                levels.append(Level(window.name, limit, tally.used, tally.reserved, _resets_at_ms(window, at_ms)))
        return levels

    # ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _account(self, key: int) -> _Account:
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account()
        return account

    def _requests(self, key: int, terms: Terms, now_ms: int) -> Bucket | None:
        account = self._account(key)
        account.requests = _renewed(account.requests, terms.rpm, now_ms)
        return account.requests

    @staticmethod
    def _tokens(account: _Account, terms: Terms, now_ms: int) -> Bucket | None:
        account.tokens = _renewed(account.tokens, terms.tpm, now_ms)
        return account.tokens


def _renewed(bucket: Bucket | None, per_minute: int, now_ms: int) -> Bucket | None:
    """The bucket as its limit stands now."""
    if not per_minute:
        return None
    if bucket is None:
        return Bucket(per_minute, now_ms)
    if bucket.per_minute != per_minute:
        bucket.resize(per_minute, now_ms)
    return bucket


def _move(bucket: Bucket, more: int) -> None:
    if more > 0:
        bucket.take(more)
    else:
        bucket.put(-more)


def _period(window: _Window, day: int, month: int) -> int:
    return day if window.period == "day" else month if window.period == "month" else 0


def _day_and_month(at_ms: int) -> tuple[int, int]:
    """Days since 1970 and months since the year 0, UTC."""
    day = at_ms // DAY_MS
    return day, _month_of(day)


@lru_cache(maxsize=64)
def _month_of(day: int) -> int:
    date = datetime.fromtimestamp(day * DAY_MS // 1000, UTC)
    return date.year * 12 + date.month - 1


def _resets_at_ms(window: _Window, at_ms: int) -> int | None:
    day, month = _day_and_month(at_ms)
    if window.period == "day":
        return (day + 1) * DAY_MS
    if window.period == "month":
        year, index = divmod(month + 1, 12)
        return int(datetime(year, index + 1, 1, tzinfo=UTC).timestamp()) * 1000
    return None


# ── what people are told ─────────────────────────────────────────────────────────────────────────────────────────────

_WHO = "The operator can raise the limit."
_PERIODS = {"day": " per day (UTC)", "month": " per month (UTC)", "ever": " in all"}


def _take_one(bucket: Bucket, now_ms: int, name: str, what: str) -> None:
    wait_ms = bucket.wait_ms(1, now_ms)
    if wait_ms:
        limit_hit(name)
        wait_s = -(-wait_ms // 1000)
        raise ClientError(
            "rate_limited",
            f"This key may make {bucket.per_minute} {what} per minute, and they are used up; the next is free in {wait_s} s. "
            + _WHO,
            retry_after_s=wait_s,
        )
    bucket.take(1)


def _tokens_used_up(bucket: Bucket, tokens: int, wait_ms: int, now_ms: int) -> ClientError:
    limit_hit("tpm")
    wait_s, left = -(-wait_ms // 1000), bucket.standing(now_ms).remaining
    return ClientError(
        "rate_limited",
        f"This key may use {bucket.per_minute:,} tokens per minute (input, cache writes and output); {left:,} are left and this "
        f"request may need {tokens:,}. There is room for it in {wait_s} s. {_WHO}",
        retry_after_s=wait_s,
        should_retry=False if wait_s > RETRY_S_MAX else None,
    )


def _exhausted(window: _Window, limit: int, used: int, amount: int, at_ms: int) -> ClientError:
    """The window itself is used up: nothing but its end, or the operator, will help."""
    limit_hit(window.name)
    needs = f" This request may need {_amount(window, amount, up=True)}." if window.unit != "requests" else ""
    resets_at_ms = _resets_at_ms(window, at_ms)
    again, retry_after_s = "", None
    if resets_at_ms is not None:
        again = f" It starts anew at {datetime.fromtimestamp(resets_at_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC."
        retry_after_s = -(-(resets_at_ms - at_ms) // 1000) if window.unit != "nanos" else None
    should_retry = None if retry_after_s is not None and retry_after_s <= RETRY_S_MAX else False
    text = _window_text(window, limit, used, 0) + needs + again
    return ClientError(_code(window), f"{text} {_WHO}", retry_after_s=retry_after_s, should_retry=should_retry)


def _code(window: _Window) -> Code:
    # Money, though not the wallet's: 402.
    return "balance_too_low" if window.unit == "nanos" else "rate_limited"


def _window_text(window: _Window, limit: int, used: int, reserved: int) -> str:
    verb = {"requests": "make", "tokens": "use", "nanos": "spend"}[window.unit]
    done = {"requests": "made", "tokens": "used", "nanos": "spent"}[window.unit]
    held = f", and running requests hold {_amount(window, reserved)}" if reserved else ""
    return f"This key may {verb} {_amount(window, limit)}{_PERIODS[window.period]}; it has {done} {_amount(window, used)}{held}."


def _amount(window: _Window, amount: int, *, up: bool = False) -> str:
    if window.unit == "nanos":
        # To the hundredth of a cent; what is needed upwards, so that the sentence stays true.
        step = 100_000
        return f"${format_usd(-(-amount // step) * step if up else amount // step * step)}"
    return _count(amount, window.unit.removesuffix("s"))


def _count(amount: int, noun: str) -> str:
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"
