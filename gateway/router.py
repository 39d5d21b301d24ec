"""Which deployment serves a request: bound conversation first, then priority, then weight.

    eligible = serves the model, and was not tried in this request

A conversation is bound, model by model (as prompt caches are), to the deployment that served it, softly and for a sliding
hour, so that the provider's prompt cache stays warm; a failure drops the binding, so that it moves once and not back and
forth. Among equals a rendezvous hash of the conversation decides: the same choice on every start, spread by weight. Pure;
state in memory; time is handed in.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gateway.pricing import Price

BINDING_MS = 3_600_000
# How long a provider keeps a prompt cache: 5 minutes, or 1 hour where the request asks for it. It keeps none unasked.
WARM_MS = {"none": 0, "5m": 300_000, "1h": 3_600_000}
CONVERSATIONS_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model at one upstream. `model` is the upstream's name for it; `price` what a wallet pays, `list_price` what we do."""

    upstream: str
    model: str
    price: Price
    terms: str
    list_price: Price
    priority: int = 0
    weight: int = 1


@dataclass(slots=True)
class _Conversation:
    upstream: str
    bound_until_ms: int
    cached_tokens: int
    warm_until_ms: int


class Router:
    def __init__(self, deployments: Mapping[str, tuple[Deployment, ...]]) -> None:
        """`deployments` by public model id; each tuple is not empty."""
        self._deployments = deployments
        self._conversations: OrderedDict[tuple[str, str], _Conversation] = OrderedDict()

    def deployments(self, model_id: str) -> tuple[Deployment, ...]:
        """All that may serve the model; () if none does."""
        return self._deployments.get(model_id, ())

    def choose(self, model_id: str, conversation: str, tried: Collection[Deployment], now_ms: int) -> Deployment | None:
        """The next deployment to ask, or None if all were tried."""
        eligible = [deployment for deployment in self.deployments(model_id) if deployment not in tried]
        if not eligible:
            return None
        bound = self._conversations.get((model_id, conversation))
        if bound is not None and bound.bound_until_ms > now_ms:
            for deployment in eligible:
                if deployment.upstream == bound.upstream:
                    return deployment
        if len(eligible) == 1:
            return eligible[0]
        return min(eligible, key=lambda deployment: (deployment.priority, -_draw(deployment, conversation)))

    def failed(self, model_id: str, conversation: str, deployment: Deployment) -> None:
        """The conversation's binding to this upstream is dropped, and with it the cache we counted on."""
        bound = self._conversations.get((model_id, conversation))
        if bound is not None and bound.upstream == deployment.upstream:
            del self._conversations[model_id, conversation]

    def served(
        self, model_id: str, conversation: str, deployment: Deployment, cached_tokens: int, cache: str, now_ms: int
    ) -> None:
        """Bind, and remember how much of the conversation the provider's cache holds now: what it read there or wrote."""
        warm_until_ms = now_ms + WARM_MS[cache]
        earlier = self._conversations.get((model_id, conversation))
        if earlier is not None and earlier.upstream == deployment.upstream and earlier.warm_until_ms > now_ms:
            # A side request (a title, a search) takes nothing away from what the conversation's main one left in the cache.
            cached_tokens, warm_until_ms = max((earlier.cached_tokens, earlier.warm_until_ms), (cached_tokens, warm_until_ms))
        self._conversations[model_id, conversation] = _Conversation(
            deployment.upstream, now_ms + BINDING_MS, cached_tokens, warm_until_ms
        )
        self._conversations.move_to_end((model_id, conversation))
        if len(self._conversations) > CONVERSATIONS_MAX:
            self._conversations.popitem(last=False)

    def warm_tokens(self, model_id: str, conversation: str, now_ms: int) -> int:
        """How much of the conversation the cache of a deployment that can serve it should still hold."""
        bound = self._conversations.get((model_id, conversation))
        if bound is None or bound.warm_until_ms <= now_ms:
            return 0
        serves = any(deployment.upstream == bound.upstream for deployment in self.deployments(model_id))
        return bound.cached_tokens if serves else 0


def _draw(deployment: Deployment, conversation: str) -> float:
    """Weighted rendezvous hashing: each deployment draws a number, the highest wins in proportion to the weights."""
    digest = hashlib.blake2b(f"{deployment.upstream}\0{conversation}".encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest) + 1) / (2**64 + 1)
    return -deployment.weight / math.log(uniform)
