"""Admin keys in memory, and how long whoever guesses at them has to wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access import KeyRing, hash_secret, is_admin_form, make_secret
from gateway.admins import ADDRESSES_MAX, FAILURE_MS, FAILURES_MAX, AdminKey, AdminRing, FailedAttempts, admin_prefix
from gateway.errors import ClientError

PREFIX = "sk-pgrid-"


def test_a_key_is_in_force_until_it_is_dropped() -> None:
    ring, secret = AdminRing(), make_secret(admin_prefix(PREFIX))
    key = AdminKey(7, "deploy", "hint")
    ring.put(hash_secret(secret), key)
    assert ring.authenticate([("authorization", f"Bearer {secret}")], PREFIX) is key and key.actor == "admin-key:7 deploy"
    # A vendor's key beside it is nobody's business here.
    assert ring.authenticate([("x-api-key", "sk-ant-x"), ("authorization", f"Bearer {secret}")], PREFIX) is key
    # Keys that were made before the prefix changed keep working.
    assert ring.authenticate([("x-api-key", secret)], "acme_") is key
    ring.drop(hash_secret(secret))
    ring.drop(hash_secret(secret))
    with pytest.raises(ClientError, match="it was revoked"):
        ring.authenticate([("x-api-key", secret)], PREFIX)


def test_each_kind_is_told_apart_under_any_prefix() -> None:
    for prefix in (PREFIX, "acme_", "a-admin-"):
        admin, users = make_secret(admin_prefix(prefix)), make_secret(prefix)
        assert is_admin_form(admin, prefix) and not is_admin_form(users, prefix)
        assert is_admin_form(admin, "other-") and not is_admin_form(admin[:-1], prefix)
        for secret, says in ((admin, "admin key"), (users, "unknown here")):
            with pytest.raises(ClientError, match=says):
                KeyRing().authenticate([("x-api-key", secret)], prefix, 0)
        with pytest.raises(ClientError, match="user's key"):
            AdminRing().authenticate([("x-api-key", users)], prefix)


def refused(attempts: FailedAttempts, address: str, now_ms: int) -> bool:
    try:
        attempts.check(address, now_ms)
    except ClientError as error:
        assert error.code == "rate_limited" and error.retry_after_s is not None and error.retry_after_s > 0
        return True
    return False


@given(st.lists(st.integers(0, 4 * FAILURE_MS), max_size=60))
def test_no_more_wrong_keys_are_looked_at_than_the_bucket_gives(waits: list[int]) -> None:
    attempts, now_ms, looked_at = FailedAttempts(), 1_000, []
    for wait in waits:
        now_ms += wait
        if not refused(attempts, "10.0.0.1", now_ms):
            attempts.note("10.0.0.1", now_ms)
            looked_at.append(now_ms)
        for first, start in enumerate(looked_at):
            assert len(looked_at) - first <= FAILURES_MAX + (now_ms - start) // FAILURE_MS
    assert not refused(attempts, "10.0.0.1", now_ms + FAILURE_MS)


def test_a_network_of_ipv6_is_one_party_and_the_memory_is_bounded() -> None:
    attempts = FailedAttempts()
    for number in range(FAILURES_MAX):
        attempts.note(f"2001:db8::{number:x}", 0)
    assert refused(attempts, "2001:db8::ffff", 0) and not refused(attempts, "2001:db8:0:1::1", 0)
    for number in range(ADDRESSES_MAX):
        attempts.note(f"10.0.{number // 256}.{number % 256}", 0)
    assert not refused(attempts, "2001:db8::ffff", 0), "whoever failed longest ago is forgotten"
    attempts.note("no address", 0)
