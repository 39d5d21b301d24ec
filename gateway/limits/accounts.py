"""What every key has used and reserved: all limits are checked, then all are taken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.errors import ClientError
from gateway.limits.buckets import MINUTE_MS, Bucket, Standing, move, renewed
from gateway.limits.refusals import LimitHeld, code_of, counted, exhausted, take_one, tokens_used_up, window_text
from gateway.limits.windows import DAY_MS, WINDOWS, Spent, Terms, Window, day_and_month, period_of, resets_at_ms_of
from gateway.metrics import limit_hit

# A request that the upstream refused as malformed gives its place back (Claude Code repeats a 400 up to 8 times within a second
# with fewer fields), but not without end.
GIVEN_BACK_PER_MINUTE_MAX = 20
COUNT_TOKENS_PER_MINUTE = 300
# Above whatever a request may come to, at any price that can be written.
UNLIMITED = 2**200


@dataclass(frozen=True, slots=True)
class Level:
    """Where a limit stands, for people: amounts in its own unit; `resets_at_ms` None if it does not by itself."""

    name: str
    limit: int
    used: int
    reserved: int
    resets_at_ms: int | None


@dataclass(slots=True)
class Tally:
    used: int = 0
    reserved: int = 0


# Periods that are kept: a clock that is set back by a day finds the day that it knew.
_KEPT = 3


@dataclass(slots=True)
class Account:
    """All that is counted of one key, whichever of it is limited: a limit may come later."""

    requests: Bucket | None = None
    tokens: Bucket | None = None
    counts: Bucket | None = None
    running: int = 0
    given_back: int = 0
    given_back_from_ms: int = 0
    loaded: bool = False
    # Conversations that a limit cut: until when, under which terms, and what they are told.
    cut: dict[str, tuple[int, Terms, ClientError]] = field(default_factory=dict)
    tallies: dict[str, dict[int, Tally]] = field(default_factory=lambda: {window.name: {} for window in WINDOWS})

    def tally(self, name: str, period: int) -> Tally:
        periods = self.tallies[name]
        tally = periods.get(period)
        if tally is None:
            tally = periods[period] = Tally()
            newest = max(periods)
            for old in [old for old in periods if old <= newest - _KEPT and not periods[old].reserved]:
                if old != period:
                    del periods[old]
        return tally


@dataclass(slots=True)
class Lease:
    """What one running request has reserved: `tokens` as counted, `nanos` as held; `taken` of the tokens came from the bucket."""

    account: Account
    terms: Terms
    day: int
    month: int
    tokens: int
    nanos: int
    bucket: Bucket | None
    taken: int = 0

    def tally(self, window: Window) -> Tally:
        return self.account.tally(window.name, period_of(window, self.day, self.month))

    def reserved(self, window: Window) -> int:
        return {"requests": 1, "tokens": self.tokens, "nanos": self.nanos}[window.unit]


class Limits:
    """The accounts of all keys, by the first key of a chain of rotations (`Key.root_id`), made when first used."""

    def __init__(self) -> None:
        self._accounts: dict[int, Account] = {}

    # ── at the door ──────────────────────────────────────────────────────────────────────────────────────────────────

    def take_request(self, key: int, terms: Terms, now_ms: int) -> None:
        """Raises ClientError `rate_limited`."""
        bucket = self._requests(key, terms, now_ms)
        if bucket is not None:
            take_one(bucket, now_ms, "rpm", "requests")

    def take_count(self, key: int, now_ms: int) -> None:
        """As `take_request`, for token counting, which has a bucket of its own: `/context` sends 26 at once."""
        account = self._account(key)
        account.counts = account.counts or Bucket(COUNT_TOKENS_PER_MINUTE, now_ms)
        take_one(account.counts, now_ms, "count_tokens", "token counts")

    def give_back(self, key: int, now_ms: int) -> None:
        """The upstream refused the request as malformed."""
        account = self._account(key)
        if now_ms - account.given_back_from_ms >= MINUTE_MS:
            account.given_back, account.given_back_from_ms = 0, now_ms
        if account.requests is not None and account.given_back < GIVEN_BACK_PER_MINUTE_MAX:
            account.given_back += 1
            account.requests.put(1)

    # ── beside the hold ──────────────────────────────────────────────────────────────────────────────────────────────

    def check(self, key: int, terms: Terms, tokens: int, nanos: int, at_ms: int, now_ms: int, conversation: str = "") -> int:
        """How many nanos `enter` may take at most; `tokens` and `nanos` are the least that the request needs.

        Raises ClientError, `rate_limited` or (a spend cap) `cap_reached`; LimitHeld if running requests are in the way.
        """
        account = self._account(key)
        if account.cut:
            account.cut = {name: mark for name, mark in account.cut.items() if mark[0] > now_ms and mark[1] == terms}
            if conversation in account.cut:
                error = account.cut[conversation][2]
                raise ClientError(error.code, error.message, should_retry=False)
        if terms.concurrent and account.running >= terms.concurrent:
            raise LimitHeld(
                "concurrent", f"This key may run {counted(terms.concurrent, 'request')} at one time, and as many are running."
            )
        bucket = self._tokens(account, terms, now_ms)
        if bucket is not None and (wait_ms := bucket.wait_ms(tokens, now_ms)):
            raise tokens_used_up(bucket, tokens, wait_ms, now_ms)
        day, month = day_and_month(at_ms)
        amounts = {"requests": 1, "tokens": tokens, "nanos": nanos}
        room = UNLIMITED
        for window in WINDOWS:
            limit = getattr(terms, window.name)
            if not limit:
                continue
            tally = account.tally(window.name, period_of(window, day, month))
            amount = amounts[window.unit]
            if tally.used + amount > limit:
                raise exhausted(window, limit, tally.used, amount, at_ms)
            if tally.used + tally.reserved + amount > limit:
                raise LimitHeld(window.name, window_text(window, limit, tally.used, tally.reserved))
            if window.unit == "nanos":
                room = min(room, limit - tally.used - tally.reserved)
        return room

    def enter(self, key: int, terms: Terms, tokens: int, nanos: int, at_ms: int, now_ms: int) -> Lease:
        """Take what `check` allowed, in the same step."""
        account = self._account(key)
        day, month = day_and_month(at_ms)
        bucket = self._tokens(account, terms, now_ms)
        lease = Lease(account, terms, day, month, 0, 0, bucket)
        account.running += 1
        lease.tally(WINDOWS[0]).reserved += 1
        self.change(lease, tokens, nanos)
        return lease

    def change(self, lease: Lease, tokens: int, nanos: int) -> None:
        """Bring the reservation to `tokens` and `nanos`, with the hold."""
        more = {"requests": 0, "tokens": tokens - lease.tokens, "nanos": nanos - lease.nanos}
        if not more["tokens"] and not more["nanos"]:
            return
        for window in WINDOWS:
            if more[window.unit]:
                lease.tally(window).reserved += more[window.unit]
        if lease.bucket is not None:
            move(lease.bucket, tokens - lease.taken)
        lease.tokens, lease.nanos, lease.taken = tokens, nanos, tokens

    def widen(self, lease: Lease, tokens: int) -> None:
        """Reserve up to `tokens` as far as there is room, for a request whose output cannot be watched: beside it no other may
        use them. The bucket is left as it is: the debt of one such request may be larger than a minute's refill.
        """
        if tokens <= lease.tokens:
            return
        more = min(tokens - lease.tokens, self.room(lease)[0])
        for window in WINDOWS:
            if window.unit == "tokens":
                lease.tally(window).reserved += more
        lease.tokens += more

    def room(self, lease: Lease) -> tuple[int, int]:
        """(tokens, nanos) that the reservation may still grow by. A bucket does not bound it: it may fall into debt."""
        rooms = {"requests": UNLIMITED, "tokens": UNLIMITED, "nanos": UNLIMITED}
        for window in WINDOWS:
            limit = getattr(lease.terms, window.name)
            if limit:
                tally = lease.tally(window)
                rooms[window.unit] = min(rooms[window.unit], max(0, limit - tally.used - tally.reserved))
        return rooms["tokens"], rooms["nanos"]

    def why_full(self, lease: Lease) -> ClientError | None:
        """What a running request is told that a limit stopped; None if none of them did."""
        for window in WINDOWS:
            limit = getattr(lease.terms, window.name)
            tally = lease.tally(window)
            if limit and window.unit != "requests" and tally.used + tally.reserved >= limit:
                limit_hit(window.name)
                text = window_text(window, limit, tally.used, tally.reserved)
                return ClientError(code_of(window), text + " What was delivered is charged.", should_retry=False)
        return None

    def mark_cut(self, lease: Lease, conversation: str, error: ClientError, now_ms: int) -> None:
        """Answer this conversation the same for a minute, or until the key's terms change: Claude Code repeats a cut turn
        silently, and what the cut set free again must not let it in."""
        if conversation:
            lease.account.cut[conversation] = (now_ms + MINUTE_MS, lease.terms, error)

    def leave(self, lease: Lease, used: tuple[int, int] | None) -> None:
        """The request is over: `used` is (tokens, nanos), None if nothing was charged. A request that was not answered does not
        count for the day.
        """
        tokens, nanos = used or (0, 0)
        amounts = {"requests": 0 if used is None else 1, "tokens": tokens, "nanos": nanos}
        for window in WINDOWS:
            tally = lease.tally(window)
            tally.reserved -= lease.reserved(window)
            tally.used += amounts[window.unit]
            assert tally.reserved >= 0
        if lease.bucket is not None:
            move(lease.bucket, tokens - lease.taken)
        lease.account.running -= 1

    # ── history ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def is_loaded(self, key: int) -> bool:
        """Only looks: it may be asked in another thread."""
        account = self._accounts.get(key)
        return account is not None and account.loaded

    def load(self, key: int, days: Iterable[Spent], ever_nanos: int) -> None:
        """What the key used before this start; the second time changes nothing."""
        account = self._account(key)
        if account.loaded:
            return
        account.loaded = True
        for spent in days:
            month = day_and_month(spent.day * DAY_MS)[1]
            amounts = {"requests": spent.requests, "tokens": spent.tokens, "nanos": spent.nanos}
            for window in WINDOWS:
                if window.period != "ever":
                    account.tally(window.name, period_of(window, spent.day, month)).used += amounts[window.unit]
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
        day, month = day_and_month(at_ms)
        levels = []
        for name, bucket in (("rpm", self._requests(key, terms, now_ms)), ("tpm", self._tokens(account, terms, now_ms))):
            if bucket is not None:
                standing = bucket.standing(now_ms)
                levels.append(Level(name, standing.limit, standing.limit - standing.remaining, 0, at_ms + standing.reset_ms))
        if terms.concurrent:
            levels.append(Level("concurrent", terms.concurrent, account.running, 0, None))
        for window in WINDOWS:
            limit = getattr(terms, window.name)
            if limit:
                tally = account.tally(window.name, period_of(window, day, month))
                levels.append(Level(window.name, limit, tally.used, tally.reserved, resets_at_ms_of(window, at_ms)))
        return levels

    # ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _account(self, key: int) -> Account:
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account()
        return account

    def _requests(self, key: int, terms: Terms, now_ms: int) -> Bucket | None:
        account = self._account(key)
        account.requests = renewed(account.requests, terms.rpm, now_ms)
        return account.requests

    @staticmethod
    def _tokens(account: Account, terms: Terms, now_ms: int) -> Bucket | None:
        account.tokens = renewed(account.tokens, terms.tpm, now_ms)
        return account.tokens
