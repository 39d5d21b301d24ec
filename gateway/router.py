"""Which deployment serves a request: bound conversation first, then rank (virtual models), priority, weight.

    eligible = serves the model · was not tried in this request · does not rest (health.py) · its upstream is not full
               · takes back what the conversation's thinking was signed with, if the request carries such thinking

A conversation is bound, model by model (as prompt caches are), to the deployment that served it, softly and for a sliding
hour, so that the provider's prompt cache stays warm; a failure drops the binding, so that it moves once and not back and
forth. Among equals a rendezvous hash of the conversation decides: the same choice on every start, spread by weight. Where all
of a model's deployments rest, the one that is back first is still asked once a second: we never make an outage of our own.
Whose signature a conversation's thinking bears is remembered beyond the binding: no failure moves it to another kind.
Pure; state in memory; time is handed in.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from gateway.health import Cause, Change, Failure, Health, State
from gateway.money import Factor
from gateway.pricing import Price

BINDING_MS = 3_600_000
# How long a provider keeps a prompt cache: 5 minutes, or 1 hour where the request asks for it. It keeps none unasked.
WARM_MS = {"none": 0, "5m": 300_000, "1h": 3_600_000}
CONVERSATIONS_MAX = 50_000
LAST_RESORT_MS = 1_000


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model at one upstream. `model` is the upstream's name for it; `price` what a wallet pays, `list_price` what we do.

    `rank` is the place of the model among those that a virtual one serves, 0 for any other. `signer` is the kind of upstream
    that takes back what it signed of the model's thinking, "" if nothing is signed there.
    """

    upstream: str
    model: str
    price: Price
    terms: str
    list_price: Price
    priority: int = 0
    weight: int = 1
    rank: int = 0
    signer: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """What stays the same when prices change."""
        return self.upstream, self.model


@lru_cache(maxsize=4096)
def _with_factors(deployment: Deployment, factors: tuple[Factor, ...]) -> Deployment:
    price = replace(deployment.price, factors=(*deployment.price.factors, *factors))
    return replace(deployment, price=price, terms=price.terms())


def for_key(deployment: Deployment, factors: tuple[Factor, ...]) -> Deployment:
    """The deployment as one key pays for it: the factors of its plan and its own beside those that all pay."""
    return _with_factors(deployment, factors) if factors else deployment


@dataclass(slots=True)
class _Conversation:
    place: tuple[str, str]
    signer: str
    bound_until_ms: int
    cached_tokens: int
    warm_until_ms: int


@dataclass(frozen=True, slots=True)
class Closed:
    """Why no deployment of a model may be asked now, and when one may: `full` if only for its upstream's cap, `signed` if none
    ever may, since who signed the conversation's thinking does not serve the model any more."""

    retry_after_ms: int
    cause: Cause | None = None
    reason: str = ""
    full: bool = False
    signed: bool = False


class Router:
    def __init__(
        self,
        deployments: Mapping[str, tuple[Deployment, ...]],
        caps: Mapping[str, int] | None = None,
        on_change: Callable[[Change], None] = lambda change: None,
    ) -> None:
        """`deployments` by public model id; each tuple is not empty. `caps`: requests at once by upstream, 0 or none = no cap.
        `on_change` hears what begins to rest, and what answers again."""
        self._deployments = deployments
        self._caps = caps or {}
        self._in_flight: Counter[str] = Counter()
        self._health = Health(on_change)
        self._last_resort_ms: dict[str, int] = {}
        self._conversations: OrderedDict[tuple[str, str], _Conversation] = OrderedDict()

    def replace(self, deployments: Mapping[str, tuple[Deployment, ...]], caps: Mapping[str, int]) -> None:
        """Other deployments, from now on; what is known of upstreams, models and conversations by their names stays."""
        self._deployments = deployments
        self._caps = caps

    def forget(self, upstream: str) -> None:
        """How it stood: it is another account now."""
        self._health.forget(upstream)

    def deployments(self, model_id: str) -> tuple[Deployment, ...]:
        """All that may serve the model; () if none does."""
        return self._deployments.get(model_id, ())

    def preferred(self, model_id: str) -> Deployment:
        """The one that is asked first while all are well: its price is the one that is shown. The model is served."""
        return min(self._deployments[model_id], key=lambda deployment: (deployment.rank, deployment.priority))

    def choose(
        self,
        model_id: str,
        conversation: str,
        tried: Collection[Deployment],
        now_ms: int,
        *,
        tells_health: bool = True,
        signed: bool = False,
    ) -> Deployment | None:
        """The next deployment to ask, or None (see `why_closed`). Whoever gets one reports `left`, and how it went.

        What tells nothing about health is no probe and no last resort, and reports nothing but `left`. `signed`: the request
        carries thinking that bears a signature.
        """
        signers = self._signers(model_id, conversation) if signed else None
        deployments = self.deployments(model_id)
        eligible = [deployment for deployment in deployments if self._is_eligible(deployment, tried, signers, now_ms)]
        chosen = self._pick(eligible, model_id, conversation, now_ms) if eligible else None
        if chosen is None and not tried and tells_health:
            chosen = self._last_resort(model_id, signers, now_ms)
        if chosen is not None:
            self._in_flight[chosen.upstream] += 1
            if tells_health:
                self._health.asked(chosen.upstream, chosen.model, now_ms)
        return chosen

    def keeps_back(self, model_id: str, conversation: str, tried: Collection[Deployment], now_ms: int) -> bool:
        """Whether a deployment could be asked now but for the signature on the conversation's thinking."""
        signers = self._signers(model_id, conversation)
        others = [deployment for deployment in self.deployments(model_id) if not _takes(deployment, signers)]
        return any(self._is_eligible(deployment, tried, None, now_ms) for deployment in others)

    def why_closed(
        self, model_id: str, conversation: str, now_ms: int, tried: Collection[Deployment] = (), *, signed: bool = False
    ) -> Closed:
        """Of all deployments of the model that might serve the request, beside those tried, the one that may be asked first."""
        signers = self._signers(model_id, conversation) if signed else None
        might = [
            deployment for deployment in self.deployments(model_id) if deployment not in tried and _takes(deployment, signers)
        ]
        if not might:
            return Closed(0, signed=True)
        states = [self._health.state(d.upstream, d.model, now_ms) for d in might if not self._is_full(d)]
        if not states:
            return Closed(1_000, full=True)
        first = min(states, key=lambda state: state.until_ms)
        return Closed(max(1_000, first.until_ms - now_ms), first.cause, first.reason)

    def answered(self, deployment: Deployment, asked_ms: int) -> None:
        """It answered what was asked at `asked_ms` as a healthy provider does."""
        self._health.succeeded(deployment.upstream, deployment.model, asked_ms)

    def failed(
        self, model_id: str, conversation: str, deployment: Deployment, failure: Failure, now_ms: int
    ) -> tuple[str, str] | None:
        """The conversation's binding is dropped, and with it the cache we counted on; returns what rests now, if anything."""
        bound = self._conversations.get((model_id, conversation))
        if bound is not None and bound.place == deployment.place:
            bound.bound_until_ms = bound.warm_until_ms = now_ms
        return self._health.failed(deployment.upstream, deployment.model, failure, now_ms)

    def unreported(self, deployment: Deployment, asked_ms: int) -> None:
        """What was asked at `asked_ms` ended without a verdict: the client left."""
        self._health.released(deployment.upstream, deployment.model, asked_ms)

    def left(self, deployment: Deployment) -> None:
        """Nothing of ours runs there any more for this request."""
        self._in_flight[deployment.upstream] -= 1
        assert self._in_flight[deployment.upstream] >= 0

    def standing(self, upstream: str, model: str, now_ms: int) -> tuple[State, int]:
        """How a deployment (with model "" the upstream) stands, and how many requests run at the upstream."""
        return self._health.state(upstream, model, now_ms), self._in_flight[upstream]

    def served(
        self, model_id: str, conversation: str, deployment: Deployment, cached_tokens: int, cache: str, now_ms: int
    ) -> None:
        """Bind, and remember how much of the conversation the provider's cache holds now: what it read there or wrote."""
        warm_until_ms = now_ms + WARM_MS[cache]
        earlier = self._conversations.get((model_id, conversation))
        if earlier is not None and earlier.place == deployment.place and earlier.warm_until_ms > now_ms:
            # A side request (a title, a search) takes nothing away from what the conversation's main one left in the cache.
            cached_tokens, warm_until_ms = max((earlier.cached_tokens, earlier.warm_until_ms), (cached_tokens, warm_until_ms))
        # A side request that went to one that signs nothing takes the signature from no thinking.
        signer = deployment.signer or (earlier.signer if earlier is not None else "")
        self._conversations[model_id, conversation] = _Conversation(
            deployment.place, signer, now_ms + BINDING_MS, cached_tokens, warm_until_ms
        )
        self._conversations.move_to_end((model_id, conversation))
        if len(self._conversations) > CONVERSATIONS_MAX:
            self._conversations.popitem(last=False)

    def warm_tokens(self, model_id: str, conversation: str, now_ms: int) -> int:
        """How much of the conversation the cache of a deployment that can serve it should still hold."""
        bound = self._conversations.get((model_id, conversation))
        if bound is None or bound.warm_until_ms <= now_ms:
            return 0
        serves = any(deployment.place == bound.place for deployment in self.deployments(model_id))
        return bound.cached_tokens if serves else 0

    # ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _is_eligible(
        self, deployment: Deployment, tried: Collection[Deployment], signers: Collection[str] | None, now_ms: int
    ) -> bool:
        return (
            all(deployment.place != earlier.place for earlier in tried)
            and _takes(deployment, signers)
            and not self._is_full(deployment)
            and self._health.may_ask(deployment.upstream, deployment.model, now_ms)
        )

    def _signers(self, model_id: str, conversation: str) -> Collection[str] | None:
        """Who may have signed the conversation's thinking: who served it last, else any that signs; None if none does."""
        known = self._conversations.get((model_id, conversation))
        if known is not None and known.signer:
            return (known.signer,)
        return {deployment.signer for deployment in self.deployments(model_id) if deployment.signer} or None

    def _is_full(self, deployment: Deployment) -> bool:
        cap = self._caps.get(deployment.upstream, 0)
        return cap > 0 and self._in_flight[deployment.upstream] >= cap

    def _pick(self, eligible: list[Deployment], model_id: str, conversation: str, now_ms: int) -> Deployment:
        bound = self._conversations.get((model_id, conversation))
        if bound is not None and bound.bound_until_ms > now_ms:
            for deployment in eligible:
                if deployment.place == bound.place:
                    return deployment
        if len(eligible) == 1:
            return eligible[0]
        return min(eligible, key=lambda deployment: (deployment.rank, deployment.priority, -_draw(deployment, conversation)))

    def _last_resort(self, model_id: str, signers: Collection[str] | None, now_ms: int) -> Deployment | None:
        """All rest: the one that is back first is asked all the same, once a second."""
        deployments = self.deployments(model_id)
        resting = [deployment for deployment in deployments if _takes(deployment, signers) and not self._is_full(deployment)]
        if not resting or now_ms - self._last_resort_ms.get(model_id, -LAST_RESORT_MS) < LAST_RESORT_MS:
            return None
        self._last_resort_ms[model_id] = now_ms
        return min(resting, key=lambda deployment: self._health.state(deployment.upstream, deployment.model, now_ms).until_ms)


def _takes(deployment: Deployment, signers: Collection[str] | None) -> bool:
    return signers is None or deployment.signer in signers


def _draw(deployment: Deployment, conversation: str) -> float:
    """Weighted rendezvous hashing: each deployment draws a number, the highest wins in proportion to the weights."""
    digest = hashlib.blake2b(f"{deployment.upstream}\0{conversation}".encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest) + 1) / (2**64 + 1)
    return -deployment.weight / math.log(uniform)
