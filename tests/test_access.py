"""Keys: their checksum, which of several credentials counts, when one is dead, and that no message ever repeats one."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access import (
    Key,
    KeyRing,
    Own,
    Plan,
    check_address,
    check_model,
    hash_secret,
    hint_of,
    looks_like_key,
    make_secret,
)
from gateway.errors import ClientError
from gateway.limits import Terms
from gateway.money import Factor

PREFIX = "sk-pgrid-"
OURS, OTHER = make_secret(PREFIX), make_secret(PREFIX)
OLD = make_secret("sk-oldbrand-")
FOREIGN = ["sk-ant-api03-" + "x" * 80, "sk-proj-" + "0" * 64, "eyJhbGciOi.eyJzdWIi.c2ln", "0" * 64, ""]
NOW = 1_000


def key(number: int = 1, *, expires: int | None = None, revoked: int | None = None, models: frozenset[str] | None = None) -> Key:
    return Key(
        *(number, number, number, "alice", 5, "laptop", hint_of(PREFIX, OURS)),
        own=Own(models=models),
        expires_at_ms=expires,
        revoked_at_ms=revoked,
    )


def ring(**keys: Key) -> KeyRing:
    secrets = {"ours": OURS, "other": OTHER, "old": OLD}
    return KeyRing(
        (hash_secret(secrets[name]), value) for name, value in (keys or {"ours": key(1), "other": key(2), "old": key(3)}).items()
    )


def refusal(headers: list[tuple[str, str]], at: KeyRing | None = None, at_ms: int = NOW) -> str:
    """The message of the 401, which never tells a credential nor speaks like a vendor."""
    with pytest.raises(ClientError) as refused:
        (at or ring()).authenticate(headers, PREFIX, at_ms)
    error = refused.value
    assert (error.code, error.status, error.should_retry) == ("unauthenticated", 401, False)
    for _, value in headers:
        for word in value.split():
            assert len(word) < 12 or word not in error.message
    assert not any(words in error.message.lower() for words in ("invalid api key", "/login", "credit balance", "oauth"))
    return error.message


# ── the form ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_secret_is_prefix_random_digits_and_their_checksum() -> None:
    assert len(OURS) == len(PREFIX) + 64 and OURS != OTHER
    assert int(OURS[-8:], 16) == zlib.crc32(OURS[:-8].encode())
    assert looks_like_key(OURS) and looks_like_key(OLD)
    assert hint_of(PREFIX, OURS) == OURS[: len(PREFIX) + 8]
    assert hash_secret(OURS) == hashlib.sha256(OURS.encode()).digest()


@given(st.integers(0, len(OURS) - 1), st.characters())
def test_a_single_typo_is_told_by_the_checksum(place: int, character: str) -> None:
    typo = OURS[:place] + character + OURS[place + 1 :]
    assert looks_like_key(typo) == (typo == OURS)


@given(st.integers(0, len(OURS) - 2))
def test_two_digits_swapped_or_one_lost_are_told(place: int) -> None:
    swapped = OURS[:place] + OURS[place + 1] + OURS[place] + OURS[place + 2 :]
    assert looks_like_key(swapped) == (swapped == OURS)
    assert not looks_like_key(OURS[:place] + OURS[place + 1 :])


@pytest.mark.parametrize("text", [*FOREIGN, OURS + " ", OURS.upper(), OURS + OURS, " " + OURS, OURS[:-1], PREFIX])
def test_what_has_not_our_form_is_not_ours(text: str) -> None:
    assert not looks_like_key(text)


# ── which credential counts ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "headers",
    [
        [("x-api-key", OURS)],
        [("api-key", OURS)],
        [("authorization", f"Bearer {OURS}")],
        [("authorization", f"bearer {OURS}")],
        [("authorization", f"BEARER   {OURS}  ")],
        [("x-api-key", f"  {OURS}\t")],
        [("x-api-key", OURS), ("authorization", f"Bearer {OURS}")],
        [("x-api-key", OURS), ("api-key", OURS), ("x-api-key", OURS)],
        [("x-api-key", FOREIGN[0]), ("authorization", f"Bearer {OURS}")],
        [("authorization", f"Bearer {FOREIGN[2]}"), ("api-key", OURS)],
        [("x-api-key", ""), ("authorization", f"Bearer {OURS}")],
        [("x-api-key", OURS[:-1] + "g"), ("authorization", f"Bearer {OURS}")],
        [("authorization", "Basic YWxpY2U6eA=="), ("x-api-key", OURS), ("cookie", OTHER)],
    ],
)
def test_the_one_credential_that_is_ours_counts(headers: list[tuple[str, str]]) -> None:
    assert ring().authenticate(headers, PREFIX, NOW).id == 1


def test_a_key_made_under_an_earlier_prefix_is_still_ours() -> None:
    assert ring().authenticate([("x-api-key", OLD)], PREFIX, NOW).id == 3


def test_two_different_keys_of_ours_are_refused_whichever_headers_they_come_in() -> None:
    unknown = make_secret(PREFIX)
    for second in (OTHER, OLD, unknown):
        assert "Two different" in refusal([("x-api-key", OURS), ("authorization", f"Bearer {second}")])
        assert "Two different" in refusal([("x-api-key", OURS), ("x-api-key", second)])


@pytest.mark.parametrize(
    ("headers", "tells"),
    [
        ([], "No key was sent"),
        ([("x-api-key", "")], "No key was sent"),
        ([("authorization", "Bearer ")], "must read: Bearer"),
        ([("authorization", f"Basic {OURS}")], "must read: Bearer"),
        ([("authorization", OURS)], "must read: Bearer"),
        ([("cookie", OURS)], "No key was sent"),
        ([("x-api-key", FOREIGN[0])], f"keys start with {PREFIX}"),
        ([("authorization", f"Bearer {FOREIGN[2]}")], f"keys start with {PREFIX}"),
        ([("x-api-key", OURS[:-3])], "mistyped or cut"),
        ([("x-api-key", OURS[:20] + "g" + OURS[21:])], "mistyped or cut"),
        ([("x-api-key", make_secret(PREFIX))], "unknown here"),
        ([("x-api-key", make_secret("sk-elsewhere-"))], "unknown here"),
    ],
)
def test_a_refusal_tells_what_to_do(headers: list[tuple[str, str]], tells: str) -> None:
    assert tells in refusal(headers)


def test_header_bytes_that_are_no_text_are_a_refusal_like_any_other() -> None:
    """aiohttp hands them on as lone surrogates; one that has our form and a right checksum must not break the door."""
    for stray in ("\udcff", "\ud800"):
        digits = stray + "0" * 56
        checksum = zlib.crc32(digits.encode(errors="surrogatepass"))
        assert "unknown here" in refusal([("x-api-key", f"{digits}{checksum:08x}")])
        assert "keys start with" in refusal([("x-api-key", digits + "0" * 8)])


@given(
    st.lists(st.tuples(st.sampled_from(["x-api-key", "api-key", "authorization", "cookie"]), st.text(max_size=90)), max_size=4)
)
def test_whatever_is_sent_nobody_gets_in_without_a_key(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(ClientError):
        ring().authenticate(headers, PREFIX, NOW)


# ── life and death ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("expires", "revoked", "at_ms", "tells"),
    [
        (None, None, 10**15, None),
        (2_000, None, 1_999, None),
        (2_000, None, 2_000, "has expired"),
        (None, 2_000, 1_999, None),  # the grace of a rotation
        (None, 2_000, 2_000, "was revoked"),
        (2_000, 3_000, 2_500, "has expired"),
        (3_000, 2_000, 2_500, "was revoked"),
        (None, 0, 0, "was revoked"),
    ],
)
def test_a_key_dies_of_what_comes_first(expires: int | None, revoked: int | None, at_ms: int, tells: str | None) -> None:
    keys = ring(ours=key(expires=expires, revoked=revoked))
    if tells is None:
        assert keys.authenticate([("x-api-key", OURS)], PREFIX, at_ms).id == 1
    else:
        assert tells in refusal([("x-api-key", OURS)], keys, at_ms)


def test_a_key_that_is_dropped_is_dead_at_once_and_a_user_loses_all_of_his() -> None:
    keys = ring()
    keys.drop(hash_secret(OURS))
    keys.drop(hash_secret(OURS))
    assert "unknown here: it was revoked" in refusal([("x-api-key", OURS)], keys)
    keys.put(hash_secret(OURS), key(1))
    assert keys.authenticate([("x-api-key", OURS)], PREFIX, NOW).id == 1
    keys.drop_user(1)
    refusal([("x-api-key", OURS)], keys)
    assert keys.authenticate([("x-api-key", OTHER)], PREFIX, NOW).id == 2


def test_a_key_may_use_what_it_lists() -> None:
    check_model(key(), "anything")
    some, none = (ring().completed(key(models=models)) for models in (frozenset({"b", "a"}), frozenset[str]()))
    check_model(some, "a")
    with pytest.raises(ClientError, match="may not use c; allowed: a, b") as refused:
        check_model(some, "c")
    assert (refused.value.status, refused.value.param) == (403, "model")
    with pytest.raises(ClientError, match="allowed: none"):
        check_model(none, "c")


PLAN = Plan(
    "free",
    Terms(rpm=10, tpm=40_000, spend_total_nanos=5),
    models=frozenset({"small"}),
    addresses=(ip_network("10.0.0.0/8"),),
    factor=Factor.parse("1.2"),
)


def test_a_plan_says_what_a_key_does_not_say_itself() -> None:
    plans = KeyRing(plans={"free": PLAN, "default": Plan("default", Terms(rpm=1))})
    silent = plans.completed(replace(key(), plan="free"))
    assert (silent.terms, silent.models, silent.addresses, silent.factors) == (
        *(PLAN.terms, PLAN.models, PLAN.addresses),
        (PLAN.factor,),
    )
    own = Own(limits=(("rpm", 0), ("tpm", 7)), models=frozenset({"large"}), addresses=(), factor=Factor.parse("0.5"))
    outspoken = plans.completed(replace(key(), plan="free", own=own))
    assert outspoken.terms == Terms(rpm=0, tpm=7, spend_total_nanos=5)
    assert (outspoken.models, outspoken.addresses) == ({"large"}, ())
    assert outspoken.factors == (PLAN.factor, own.factor)
    # A plan that is not declared (any more) gives nobody more than the default.
    assert plans.completed(replace(key(), plan="gone")).terms == Terms(rpm=1)


def test_other_plans_are_in_force_for_every_key_at_once_and_a_user_can_change_his() -> None:
    keys = ring()
    assert all(known.terms == Terms() for known in keys)
    keys.set_plans({"default": Plan("default", Terms(rpm=3)), "free": PLAN})
    assert all(known.terms == Terms(rpm=3) for known in keys)
    keys.set_user_plan(2, "free")
    assert {known.user_id: known.terms.rpm for known in keys} == {1: 3, 2: 10, 3: 3}
    assert keys.authenticate([("x-api-key", OTHER)], PREFIX, NOW).plan == "free"


@pytest.mark.parametrize(
    ("addresses", "address", "allowed"),
    [
        ((), "203.0.113.9", True),
        (("203.0.113.0/24", "10.0.0.0/8"), "10.1.2.3", True),
        (("203.0.113.0/24",), "203.0.114.1", False),
        (("10.0.0.0/8",), "::ffff:10.0.0.1", True),
        (("10.0.0.0/8",), "::ffff:11.0.0.1", False),
        (("2001:db8::/32",), "2001:db8::1", True),
        (("2001:db8::/32",), "10.0.0.1", False),
        (("0.0.0.0/0",), "", False),
        (("0.0.0.0/0",), "a stranger", False),
    ],
)
def test_a_key_may_be_used_from_its_addresses(addresses: tuple[str, ...], address: str, allowed: bool) -> None:
    bound = replace(key(), addresses=tuple(ip_network(text) for text in addresses))
    if allowed:
        check_address(bound, address)
    else:
        with pytest.raises(ClientError, match="may not be used from") as refused:
            check_address(bound, address)
        assert refused.value.status == 403
