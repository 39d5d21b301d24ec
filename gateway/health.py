"""What failed rests, longer each time, and comes back by one probe.

    serving ──over the threshold──▶ cooling until T ──T──▶ probing, by one request ──success──▶ serving
                                        ▲                            │
                                        └────────── failure: twice as long, or as the provider says

| failure | rests | when | how long |
| --- | --- | --- | --- |
| secret refused, credit exhausted | the upstream | at once, and rings | 10 min, doubling to 1 h |
| rate limited, forbidden, model not found | the deployment (limits are per model) | at once | retry-after, else 30 s; ≤ 1 h |
| forbidden for 5 requests of ≥ 3 keys within 30 s | the upstream | then | 30 s, doubling |
| no connection | the upstream | at once | 5 s, doubling to 5 min |
| 5xx, overloaded, time-out, broken off | the deployment | 3 within 30 s, from ≥ 2 conversations | 5 s, doubling to 5 min |

One user's poisoned request, repeated as often as they like, cools nothing that serves others; nor do three failures among
hundreds of answers. Pure; state in memory; time is handed in (monotonic ms). Knows nothing of HTTP, and of requests only
whose they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Cause = Literal["secret", "credit", "limited", "forbidden", "no_model", "connect", "failing"]

FAILURES_MIN = 3
CONVERSATIONS_MIN = 2
FORBIDDEN_MIN = 5
KEYS_MIN = 3
# Of what was answered meanwhile: below this share a busy deployment has a bad moment, not an outage.
FAILING_SHARE_PERCENT = 10
WINDOW_MS = 30_000
# A probe that nobody reports back on (the client left before there was an answer) is forgotten after this long.
PROBE_MS = 120_000
HOUR_MS = 3_600_000
# (first rest, longest) by cause.
_RESTS_MS: dict[Cause, tuple[int, int]] = {
    "secret": (600_000, HOUR_MS),
    "credit": (600_000, HOUR_MS),
    "limited": (30_000, HOUR_MS),
    "forbidden": (30_000, HOUR_MS),
    "no_model": (30_000, HOUR_MS),
    "connect": (5_000, 300_000),
    "failing": (5_000, 300_000),
}
_OF_UPSTREAM: frozenset[Cause] = frozenset(("secret", "credit", "connect"))
# The provider said something, whatever it was.
_ANSWERS: frozenset[Cause] = frozenset(("limited", "forbidden", "no_model"))
_AT_ONCE: frozenset[Cause] = frozenset(("secret", "credit", "limited", "forbidden", "no_model", "connect"))


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt. `retry_after_ms` is what the provider asked for, if it did; `asked_ms` when it was asked, None: now."""

    cause: Cause
    reason: str
    conversation: str
    key_id: int
    retry_after_ms: int | None = None
    asked_ms: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """How a deployment or an upstream stands; the rest only while it cools."""

    serving: bool
    until_ms: int = 0
    cause: Cause | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """An upstream (model "") or a deployment rests for `rest_ms` from now on, or answers again (`cause` None, the rest empty).

    `asked_ms`: how long the provider asked us to wait, if it did. `prolonged`: the rest that it was in has become longer.
    """

    upstream: str
    model: str
    cause: Cause | None = None
    reason: str = ""
    rest_ms: int = 0
    asked_ms: int | None = None
    prolonged: bool = False


@dataclass(slots=True)
class _Circuit:
    rest_ms: int = 0  # 0: serving
    since_ms: int = 0
    until_ms: int = 0
    cause: Cause | None = None
    reason: str = ""
    probe_ms: int | None = None
    answered: int = 0  # since the oldest of `recent`
    recent: deque[tuple[int, Failure]] = field(default_factory=deque)

    @property
    def cooling(self) -> bool:
        return self.rest_ms > 0

    def may_ask(self, now_ms: int) -> bool:
        if not self.cooling:
            return True
        return now_ms >= self.until_ms and (self.probe_ms is None or now_ms - self.probe_ms >= PROBE_MS)

    def cool(self, failure: Failure, now_ms: int) -> None:
        first, longest = _RESTS_MS[failure.cause]
        rest = min(longest, max(first, self.rest_ms * 2 if self.cooling else first))
        if failure.retry_after_ms is not None:
            rest = min(longest, max(1_000, failure.retry_after_ms))
        self.rest_ms, self.since_ms, self.until_ms = rest, now_ms, now_ms + rest
        self.cause, self.reason = failure.cause, failure.reason
        self.probe_ms = None
        self.recent.clear()

    def prolong(self, failure: Failure, now_ms: int) -> None:
        if failure.cause == "limited" and failure.retry_after_ms is not None:
            longest = _RESTS_MS["limited"][1]
            self.until_ms = max(self.until_ms, now_ms + min(longest, failure.retry_after_ms))

    def answer(self, asked_ms: int) -> None:
        if not self.cooling:
            self.answered += 1 if self.recent else 0
        elif asked_ms > self.since_ms:
            self.close()

    def close(self) -> None:
        self.rest_ms = self.until_ms = 0
        self.cause, self.reason = None, ""
        self.probe_ms = None

    def remember(self, failure: Failure, now_ms: int) -> None:
        while self.recent and (now_ms - self.recent[0][0] > WINDOW_MS or len(self.recent) >= 100):
            self.recent.popleft()
        if not self.recent:
            self.answered = 0
        self.recent.append((now_ms, failure))

    def is_over_threshold(self) -> bool:
        failing = [failure for _, failure in self.recent if failure.cause == "failing"]
        if len(failing) < FAILURES_MIN or len({failure.conversation for failure in failing}) < CONVERSATIONS_MIN:
            return False
        return len(failing) * 100 >= (len(failing) + self.answered) * FAILING_SHARE_PERCENT


class Health:
    """Circuits by (upstream, model) and by upstream (model ""), made when something first fails; `on_change` hears of each that
    opens or closes."""

    def __init__(self, on_change: Callable[[Change], None] = lambda change: None) -> None:
        self._circuits: dict[tuple[str, str], _Circuit] = {}
        self._on_change = on_change

    def may_ask(self, upstream: str, model: str, now_ms: int) -> bool:
        """Whether neither the upstream nor the deployment rests; a rest that is over lets one probe through."""
        return all(circuit.may_ask(now_ms) for circuit in self._both(upstream, model))

    def asked(self, upstream: str, model: str, now_ms: int) -> None:
        """A request is on its way: if it is the probe of a rest that is over, no other goes until it is reported."""
        for circuit in self._both(upstream, model):
            if circuit.cooling:
                circuit.probe_ms = now_ms

    def succeeded(self, upstream: str, model: str, asked_ms: int) -> None:
        """It answered as a healthy provider does (a refusal of the client's own request included).

        `asked_ms` is when: what was asked before a rest began says nothing about its end.
        """
        for subject in ((upstream, ""), (upstream, model)):
            circuit = self._circuits.get(subject)
            if circuit is not None:
                rested = circuit.cooling
                circuit.answer(asked_ms)
                if rested and not circuit.cooling:
                    self._on_change(Change(*subject))

    def failed(self, upstream: str, model: str, failure: Failure, now_ms: int) -> tuple[str, str] | None:
        """What this failure put to rest, (upstream, model) or (upstream, ""), if it did."""
        subject = (upstream, "") if failure.cause in _OF_UPSTREAM else (upstream, model)
        circuit = self._circuits.setdefault(subject, _Circuit())
        circuit.remember(failure, now_ms)
        if failure.cause in _ANSWERS:
            self._end_unreachable(upstream, now_ms if failure.asked_ms is None else failure.asked_ms)
        if failure.cause == "forbidden" and self._is_forbidden_to_all(upstream, failure, now_ms):
            return upstream, ""
        if circuit.cooling and failure.asked_ms is not None and failure.asked_ms < circuit.until_ms:
            # Asked before the rest was over (in flight when it began, or as the last resort): no news, and no reason to double.
            until_ms = circuit.until_ms
            circuit.prolong(failure, now_ms)
            if circuit.until_ms > until_ms:
                self._tell_rest(subject, circuit, failure, now_ms, prolonged=True)
            return None
        if circuit.cooling or failure.cause in _AT_ONCE or circuit.is_over_threshold():
            circuit.cool(failure, now_ms)
            self._tell_rest(subject, circuit, failure, now_ms)
            return subject
        return None

    def released(self, upstream: str, model: str, asked_ms: int) -> None:
        """What was asked at `asked_ms` ended without a verdict (the client left): if it was the probe, another may go."""
        for circuit in self._both(upstream, model):
            if circuit.probe_ms == asked_ms:
                circuit.probe_ms = None

    def forget(self, upstream: str) -> None:
        for subject, circuit in self._circuits.items():
            if subject[0] == upstream and circuit.cooling:
                self._on_change(Change(*subject))
        self._circuits = {subject: circuit for subject, circuit in self._circuits.items() if subject[0] != upstream}

    def state(self, upstream: str, model: str, now_ms: int) -> State:
        """How the deployment stands; with model "" the upstream."""
        resting = [circuit for circuit in self._both(upstream, model) if circuit.cooling]
        if not resting:
            return State(True)
        longest = max(resting, key=lambda circuit: circuit.until_ms)
        return State(False, longest.until_ms, longest.cause, longest.reason)

    def _both(self, upstream: str, model: str) -> list[_Circuit]:
        found = (self._circuits.get((upstream, "")), self._circuits.get((upstream, model)) if model else None)
        return [circuit for circuit in found if circuit is not None]

    def _end_unreachable(self, upstream: str, asked_ms: int) -> None:
        """The upstream answered what was asked after it could not be connected to: it can be."""
        whole = self._circuits.get((upstream, ""))
        if whole is not None and whole.cause == "connect" and asked_ms > whole.since_ms:
            whole.close()
            self._on_change(Change(upstream, ""))

    def _is_forbidden_to_all(self, upstream: str, failure: Failure, now_ms: int) -> bool:
        """A 403 may be about one user's request or about the account: many keys at once tell the two apart."""
        whole = self._circuits.setdefault((upstream, ""), _Circuit())
        whole.remember(failure, now_ms)
        refused = [earlier for _, earlier in whole.recent if earlier.cause == "forbidden"]
        if len(refused) < FORBIDDEN_MIN or len({earlier.key_id for earlier in refused}) < KEYS_MIN:
            return False
        whole.cool(failure, now_ms)
        self._tell_rest((upstream, ""), whole, failure, now_ms)
        return True

    def _tell_rest(
        self, subject: tuple[str, str], circuit: _Circuit, failure: Failure, now_ms: int, *, prolonged: bool = False
    ) -> None:
        rest_ms = circuit.until_ms - now_ms
        self._on_change(Change(*subject, circuit.cause, circuit.reason, rest_ms, failure.retry_after_ms, prolonged))
