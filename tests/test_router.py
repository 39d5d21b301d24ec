"""Which deployment serves: priority before weight, a conversation stays where its cache is, a failure moves it once."""

from __future__ import annotations

from collections import Counter

import pytest

from gateway.pricing import Price, Rates
from gateway.router import BINDING_MS, CONVERSATIONS_MAX, Deployment, Router

PRICE = Price("m", Rates(3, 15, 4, 6, 1))
NOW = 1_000_000


def deployment(upstream: str, *, priority: int = 0, weight: int = 1, model: str = "m") -> Deployment:
    return Deployment(upstream, model, PRICE, PRICE.terms(), PRICE, priority=priority, weight=weight)


A, B, C = deployment("a"), deployment("b"), deployment("c", priority=1)


def choose(router: Router, conversation: str, *tried: Deployment, now_ms: int = NOW, model: str = "m") -> Deployment | None:
    return router.choose(model, conversation, tried, now_ms)


def test_priority_comes_before_everything_but_a_live_binding() -> None:
    router = Router({"m": (C, A, B)})
    first = {choose(router, f"k:{number}") for number in range(200)}
    assert first == {A, B}
    assert choose(router, "k:1", A) == B and choose(router, "k:1", A, B) == C and choose(router, "k:1", A, B, C) is None
    router.served("m", "k:1", C, 0, "none", NOW)
    assert choose(router, "k:1") == C
    assert choose(router, "k:1", C) in (A, B)


@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (5, 2, 1), (1, 99)])
def test_weight_decides_among_equals_in_proportion(weights: tuple[int, ...]) -> None:
    router = Router({"m": tuple(deployment(f"u{number}", weight=weight) for number, weight in enumerate(weights))})
    count = 10_000
    chosen = Counter(found.upstream for number in range(count) if (found := choose(router, f"1:session:{number}")))
    for number, weight in enumerate(weights):
        expected = count * weight / sum(weights)
        assert abs(chosen[f"u{number}"] - expected) < 4 * expected**0.5 + 1


def test_the_same_conversation_gets_the_same_choice_after_a_restart() -> None:
    deployments = {"m": (A, B)}
    before = [choose(Router(deployments), f"k:{number}") for number in range(50)]
    assert before == [choose(Router({"m": (B, A)}), f"k:{number}") for number in range(50)]


def test_taking_one_away_moves_only_its_own_conversations() -> None:
    everywhere, fewer = Router({"m": (A, B, deployment("d"))}), Router({"m": (A, B)})
    for number in range(300):
        chosen = choose(everywhere, f"k:{number}")
        assert chosen is not None
        assert chosen.upstream == "d" or choose(fewer, f"k:{number}") == chosen


def test_a_binding_lives_for_a_sliding_hour() -> None:
    router = Router({"m": (A, B)})
    other = B if choose(router, "k") == A else A
    router.served("m", "k", other, 0, "5m", NOW)
    router.served("m", "k", other, 0, "5m", NOW + BINDING_MS - 1)
    assert choose(router, "k", now_ms=NOW + 2 * BINDING_MS - 2) == other
    assert choose(router, "k", now_ms=NOW + 2 * BINDING_MS) != other


def test_a_failure_drops_the_binding_and_the_conversation_stays_where_it_went() -> None:
    router = Router({"m": (A, B)})
    router.served("m", "k", A, 50_000, "5m", NOW)
    router.failed("m", "k", B)  # not where it is bound: nothing changes
    assert choose(router, "k") == A and router.warm_tokens("m", "k", NOW) == 50_000
    router.failed("m", "k", A)
    assert router.warm_tokens("m", "k", NOW) == 0
    router.served("m", "k", B, 0, "5m", NOW)
    # A is well again, and nobody goes back.
    assert choose(router, "k") == B


def test_warm_is_what_the_cache_holds_for_as_long_as_it_does() -> None:
    router = Router({"m": (A,)})
    assert router.warm_tokens("m", "k", NOW) == 0
    for cache, keeps_ms in (("5m", 300_000), ("1h", 3_600_000)):
        router = Router({"m": (A,)})
        router.served("m", "k", A, 1000, cache, NOW)
        assert router.warm_tokens("m", "k", NOW + keeps_ms - 1) == 1000
        assert router.warm_tokens("m", "k", NOW + keeps_ms) == 0
    router = Router({"m": (A,)})
    router.served("m", "k", A, 1000, "none", NOW)
    assert router.warm_tokens("m", "k", NOW) == 0


def test_a_side_request_does_not_cool_a_conversation_and_does_not_keep_it_warm_for_ever() -> None:
    router = Router({"m": (A,)})
    router.served("m", "k", A, 100_000, "5m", NOW)
    router.served("m", "k", A, 500, "5m", NOW + 200_000)
    assert router.warm_tokens("m", "k", NOW + 299_999) == 100_000
    assert router.warm_tokens("m", "k", NOW + 300_000) == 0
    router.served("m", "k", A, 500, "5m", NOW + 310_000)
    assert router.warm_tokens("m", "k", NOW + 310_000) == 500


def test_models_of_one_conversation_have_caches_and_bindings_of_their_own() -> None:
    small_a, small_b = deployment("a", model="s"), deployment("b", model="s")
    router = Router({"m": (A, B), "s": (small_a, small_b)})
    router.served("m", "k", A, 90_000, "5m", NOW)
    router.served("s", "k", small_b, 10, "5m", NOW)
    assert choose(router, "k") == A and choose(router, "k", model="s") == small_b
    assert (router.warm_tokens("m", "k", NOW), router.warm_tokens("s", "k", NOW)) == (90_000, 10)
    router.failed("s", "k", small_b)
    assert choose(router, "k") == A


def test_warmth_at_a_deployment_that_no_longer_serves_the_model_is_none() -> None:
    router = Router({"m": (A,)})
    router.served("m", "k", B, 1000, "5m", NOW)
    assert router.warm_tokens("m", "k", NOW) == 0 and choose(router, "k") == A


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    router = Router({"m": (A,)})
    for number in range(CONVERSATIONS_MAX + 1):
        router.served("m", f"k:{number}", A, 7, "5m", NOW)
        if number == 10:
            router.served("m", "k:0", A, 7, "5m", NOW)
    assert [router.warm_tokens("m", f"k:{number}", NOW) for number in (0, 1, 2, CONVERSATIONS_MAX)] == [7, 0, 7, 7]


def test_a_model_that_nobody_serves() -> None:
    assert Router({}).choose("m", "k", (), NOW) is None and Router({}).deployments("m") == ()
