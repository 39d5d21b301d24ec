"""Which deployment serves: priority before weight, a conversation stays where its cache is, a failure moves it once."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.health import Cause, Failure
from gateway.pricing import Price, Rates
from gateway.router import BINDING_MS, CONVERSATIONS_MAX, LAST_RESORT_MS, Closed, Deployment, Router

PRICE = Price("m", Rates(3, 15, 4, 6, 1))
NOW = 1_000_000
MISHAP = Failure("failing", "status_500", "k", 1)


def deployment(
    upstream: str, *, priority: int = 0, weight: int = 1, model: str = "m", rank: int = 0, signer: str = ""
) -> Deployment:
    return Deployment(upstream, model, PRICE, PRICE.terms(), PRICE, priority=priority, weight=weight, rank=rank, signer=signer)


A, B, C = deployment("a"), deployment("b"), deployment("c", priority=1)


def choose(
    router: Router, conversation: str, *tried: Deployment, now_ms: int = NOW, model: str = "m", signed: bool = False
) -> Deployment | None:
    return router.choose(model, conversation, tried, now_ms, signed=signed)


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
    router.failed("m", "k", B, MISHAP, NOW)  # not where it is bound: nothing changes
    assert choose(router, "k") == A and router.warm_tokens("m", "k", NOW) == 50_000
    router.failed("m", "k", A, MISHAP, NOW)
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
    router.failed("s", "k", small_b, MISHAP, NOW)
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


def test_what_rests_is_not_asked_and_comes_back_by_one_probe() -> None:
    router = Router({"m": (A, C)})
    router.failed("m", "k", A, Failure("connect", "connect", "k", 1), NOW)
    assert [choose(router, "k"), choose(router, "j")] == [C, C]
    later = NOW + 5_000
    assert [choose(router, "k", now_ms=later), choose(router, "j", now_ms=later)] == [A, C]
    router.answered(A, later)
    assert [choose(router, "k", now_ms=later), choose(router, "j", now_ms=later)] == [A, A]


def test_the_last_deployment_is_never_closed_but_asked_once_a_second() -> None:
    router = Router({"m": (A, B)})
    router.failed("m", "k", A, Failure("limited", "rate_limited", "k", 1, 60_000), NOW)
    router.failed("m", "k", B, Failure("limited", "rate_limited", "k", 1, 20_000), NOW)
    assert [choose(router, "k"), choose(router, "k")] == [B, None]
    assert router.why_closed("m", "k", NOW) == Closed(20_000, "limited", "rate_limited")
    assert choose(router, "k", now_ms=NOW + LAST_RESORT_MS - 1) is None
    assert choose(router, "k", now_ms=NOW + LAST_RESORT_MS) == B
    # Whoever was refused by one is not sent to another that rests.
    assert choose(router, "k", A, now_ms=NOW + 5 * LAST_RESORT_MS) is None


def test_a_full_upstream_is_not_asked_until_somebody_leaves() -> None:
    router = Router({"m": (A, C)}, {"a": 2, "c": 1})
    assert [choose(router, str(number)) for number in range(4)] == [A, A, C, None]
    assert router.why_closed("m", "k", NOW).full
    router.left(A)
    assert choose(router, "k") == A
    assert router.standing("a", "", NOW)[1] == 2


# A virtual model "v": first "one", at two upstreams, then "two", which its second upstream has too.
FIRST, FIRST_RESERVE = deployment("a", model="one"), deployment("b", model="one", priority=1)
THEN = deployment("b", model="two", rank=1)
VIRTUAL = {"v": (FIRST, FIRST_RESERVE, THEN)}


def test_the_next_model_of_a_virtual_one_comes_only_when_no_upstream_of_the_first_is_left() -> None:
    router = Router(VIRTUAL)
    in_order = [choose(router, "k", *(FIRST, FIRST_RESERVE, THEN)[:count], model="v") for count in range(4)]
    assert in_order == [FIRST, FIRST_RESERVE, THEN, None]
    router.failed("v", "k", FIRST, Failure("limited", "rate_limited", "k", 1), NOW)
    router.failed("v", "k", FIRST_RESERVE, Failure("limited", "rate_limited", "k", 1), NOW)
    assert choose(router, "k", model="v") == THEN
    full = Router(VIRTUAL, {"a": 1})
    assert [choose(full, "k", model="v"), choose(full, "j", model="v")] == [FIRST, FIRST_RESERVE]


def test_a_conversation_that_went_to_the_next_model_stays_there_and_its_place_is_model_and_upstream() -> None:
    router = Router(VIRTUAL)
    router.served("v", "k", FIRST, 90_000, "5m", NOW)
    router.failed("v", "k", FIRST_RESERVE, MISHAP, NOW)
    assert choose(router, "k", model="v") == FIRST and router.warm_tokens("v", "k", NOW) == 90_000
    router.failed("v", "k", FIRST, MISHAP, NOW)
    router.served("v", "k", THEN, 10, "5m", NOW)
    # Bound to the second model at b, not to whatever b has.
    assert choose(router, "k", model="v") == THEN
    assert choose(router, "other", model="v") == FIRST


def test_a_place_is_not_asked_twice_when_its_price_changed_meanwhile() -> None:
    dearer = Price("m", Rates(30, 150, 40, 60, 10))
    changed = Deployment("a", "m", dearer, dearer.terms(), PRICE)
    assert choose(Router({"m": (changed, C)}), "k", A) == C


SIGNS, ALSO_SIGNS = deployment("a", signer="anthropic"), deployment("d", signer="anthropic", priority=1)
OTHER_SIGNER, PLAIN = deployment("b", signer="bedrock", priority=1), deployment("c", priority=2)
KINDS = {"m": (SIGNS, OTHER_SIGNER, PLAIN)}


def test_signed_thinking_goes_to_whom_it_came_from_else_to_any_that_signs() -> None:
    router = Router(KINDS)
    assert choose(router, "k", SIGNS, signed=True) == OTHER_SIGNER
    assert choose(router, "k", SIGNS, OTHER_SIGNER, signed=True) is None
    assert choose(router, "k", SIGNS, OTHER_SIGNER) == PLAIN
    assert router.keeps_back("m", "k", (SIGNS, OTHER_SIGNER), NOW)
    router.served("m", "k", SIGNS, 0, "none", NOW)
    assert choose(router, "k", SIGNS, signed=True) is None
    # A failure drops the binding, and not the memory of who signed.
    router.failed("m", "k", SIGNS, MISHAP, NOW)
    assert choose(router, "k", SIGNS, signed=True) is None and choose(router, "k", SIGNS) == OTHER_SIGNER
    assert choose(Router({"m": (SIGNS, OTHER_SIGNER, ALSO_SIGNS)}), "k", SIGNS, OTHER_SIGNER, signed=True) == ALSO_SIGNS


def test_a_side_request_elsewhere_does_not_take_the_signature_along() -> None:
    router = Router(KINDS)
    router.served("m", "k", SIGNS, 0, "none", NOW)
    router.served("m", "k", PLAIN, 0, "none", NOW)
    assert choose(router, "k") == PLAIN and choose(router, "k", signed=True) == SIGNS


def test_where_nobody_signs_a_signature_keeps_nothing_back() -> None:
    router = Router({"m": (A, B)})
    assert choose(router, "k", signed=True) in (A, B) and not router.keeps_back("m", "k", (A,), NOW)


def test_what_rests_is_told_of_those_who_could_read_the_thinking_only() -> None:
    router = Router(KINDS)
    router.served("m", "k", SIGNS, 0, "none", NOW)
    router.failed("m", "k", SIGNS, Failure("limited", "rate_limited", "k", 1, 60_000), NOW)
    # The last resort, once a second, and within the kind.
    assert [choose(router, "k", signed=True), choose(router, "k", signed=True)] == [SIGNS, None]
    assert router.why_closed("m", "k", NOW, signed=True) == Closed(60_000, "limited", "rate_limited")
    assert router.keeps_back("m", "k", (), NOW)
    gone = Router({"m": (PLAIN,)})
    gone.served("m", "k", SIGNS, 0, "none", NOW)
    assert choose(gone, "k", signed=True) is None and gone.why_closed("m", "k", NOW, signed=True).signed


CAUSES: tuple[Cause, ...] = ("secret", "credit", "limited", "forbidden", "no_model", "connect", "failing")
STEPS = st.lists(
    st.tuples(st.integers(0, 40_000), st.sampled_from(["k", "j", "i"]), st.sampled_from([*CAUSES, "ok", "gone"])), max_size=80
)


@given(STEPS)
def test_no_ineligible_deployment_is_ever_chosen(steps: list[tuple[int, str, str]]) -> None:
    """Over random outcomes: only one of the model's, never a tried one, never over the cap, and one that rests only as a probe
    or as the last resort; a conversation stays while its deployment is healthy."""
    caps = {"a": 1, "b": 2}
    router, now_ms = Router({"m": (A, B, C)}, caps), NOW
    for wait_ms, conversation, outcome in steps:
        now_ms += wait_ms
        tried: list[Deployment] = []
        served = None
        while (chosen := choose(router, conversation, *tried, now_ms=now_ms)) is not None:
            assert chosen in (A, B, C) and chosen not in tried
            state, in_flight = router.standing(chosen.upstream, chosen.model, now_ms)
            assert in_flight <= caps.get(chosen.upstream, 1)
            assert state.serving or now_ms >= state.until_ms or not tried
            tried.append(chosen)
            router.left(chosen)
            if outcome == "ok":
                router.answered(chosen, now_ms)
                router.served("m", conversation, chosen, 0, "none", now_ms)
                served = chosen
                break
            if outcome == "gone":
                router.unreported(chosen, now_ms)
                break
            router.failed("m", conversation, chosen, Failure(outcome, outcome, conversation, 1), now_ms)  # type: ignore[arg-type]
        if served is not None and router.standing(served.upstream, served.model, now_ms)[0].serving:
            again = choose(router, conversation, now_ms=now_ms)
            assert again == served
            router.left(served)
            router.unreported(served, now_ms)


@st.composite
def houses(draw: st.DrawFn) -> tuple[tuple[Deployment, ...], dict[str, int]]:
    """A virtual model of up to three models at up to four upstreams, each of a kind; in any order, with any caps."""
    signers = {upstream: draw(st.sampled_from(["x", "y", ""])) for upstream in "abcd"}
    places = draw(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2)), min_size=1, max_size=8, unique=True))
    priorities = {upstream: draw(st.integers(0, 2)) for upstream in "abcd"}
    deployments = tuple(
        deployment(
            *(upstream,),
            priority=priorities[upstream],
            weight=draw(st.integers(1, 9)),
            model=f"model-{rank}",
            rank=rank,
            signer=signers[upstream],
        )
        for upstream, rank in places
    )
    return deployments, draw(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)))


class Conversation:
    """What a test knows of one: where it is bound, until when, and who signed its thinking."""

    bound: Deployment | None = None
    until_ms = 0
    signer = ""

    def takes(self, deployments: tuple[Deployment, ...], signed: bool) -> list[Deployment]:
        signers = {self.signer} if self.signer else {each.signer for each in deployments if each.signer}
        return [each for each in deployments if not signed or not signers or each.signer in signers]


VIRTUAL_STEPS = st.lists(
    st.tuples(
        st.integers(0, 40_000) | st.just(BINDING_MS),
        st.sampled_from(["k", "j", "i"]),
        st.booleans(),
        st.lists(st.sampled_from([*CAUSES, "ok", "ok", "cut", "gone"]), min_size=3, max_size=3),
    ),
    max_size=40,
)


@given(houses(), VIRTUAL_STEPS)
def test_every_choice_is_eligible_the_best_there_is_and_where_the_conversation_is_bound(
    house: tuple[tuple[Deployment, ...], dict[str, int]], steps: list[tuple[int, str, bool, list[str]]]
) -> None:
    deployments, caps = house
    router, now_ms = Router({"v": deployments}, caps), NOW
    conversations = {name: Conversation() for name in "kji"}
    for wait_ms, name, signed, outcomes in steps:
        now_ms += wait_ms
        known, tried = conversations[name], []
        for outcome in outcomes:
            free = [
                each
                for each in deployments
                if not caps.get(each.upstream) or router.standing(each.upstream, "", now_ms)[1] < caps[each.upstream]
            ]
            could = [each for each in known.takes(deployments, signed) if each in free and each not in tried]
            serving = [each for each in could if router.standing(each.upstream, each.model, now_ms)[0].serving]
            chosen = choose(router, name, *tried, now_ms=now_ms, model="v", signed=signed)
            if chosen is None:
                assert not serving
                break
            assert chosen in could
            bound = known.bound if known.until_ms > now_ms else None
            if bound in serving:
                assert chosen == bound
            elif chosen != bound:
                assert all((chosen.rank, chosen.priority) <= (each.rank, each.priority) for each in serving)
            state = router.standing(chosen.upstream, chosen.model, now_ms)[0]
            assert state.serving or now_ms >= state.until_ms or not (serving or tried)
            tried.append(chosen)
            router.left(chosen)
            if outcome == "gone":
                router.unreported(chosen, now_ms)
                break
            if outcome in ("ok", "cut"):
                router.answered(chosen, now_ms)
                if outcome == "ok":
                    router.served("v", name, chosen, 0, "none", now_ms)
                    known.bound, known.until_ms = chosen, now_ms + BINDING_MS
                    known.signer = chosen.signer or known.signer
                    break
                outcome = "failing"
            router.failed("v", name, chosen, Failure(outcome, outcome, name, 1), now_ms)  # type: ignore[arg-type]
            if chosen == known.bound:
                known.bound = None
