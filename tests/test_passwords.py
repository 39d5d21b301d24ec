"""Passwords: what may be one, the parameters, and that a wrong name costs what a wrong password costs."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type

from gateway import passwords
from gateway.errors import ClientError
from gateway.passwords import NOBODYS_HASH, check_password, hash_password, needs_rehash, verify_password

GOOD = "correct horse battery"


@pytest.mark.parametrize("password", [GOOD, "a1b2c3d4e5f6", "0123456789abc" * 9, "пароль из слов", "🐎🔋📎🧷🪝🧵🪡🧶🎨🖌🖍📐"])
def test_what_may_be_a_password_is_one(password: str) -> None:
    check_password(password)
    encoded = hash_password(password)
    assert verify_password(encoded, password) and not verify_password(encoded, password + "x")
    assert password not in encoded


@pytest.mark.parametrize(
    ("password", "says"),
    [
        ("", "12 to 128 characters"),
        ("short", "12 to 128 characters"),
        ("elevenchars", "12 to 128 characters"),
        ("0123456789abc" * 10, "12 to 128 characters"),
        ("half an emoji \ud83d", "12 to 128 characters"),
        ("aaaaaaaaaaaa", "repeats too few characters"),
        ("AbAbAbAbAbAb", "repeats too few characters"),
        ("ada@example.com", "a name that others know"),
        ("Ada.Lovelace.1815", "a name that others know"),
    ],
)
def test_what_may_not_be_one_is_said_without_repeating_it(password: str, says: str) -> None:
    with pytest.raises(ClientError) as caught:
        check_password(password, "ada.lovelace.1815", "ADA@example.com", param="new_password")
    assert says in caught.value.message and caught.value.param == "new_password"
    assert not password or password not in caught.value.message


def test_the_same_keys_on_another_keyboard_make_the_same_password() -> None:
    composed, decomposed = "Schöne Grüße 1", "Scho\u0308ne Gru\u0308ße 1"
    assert verify_password(hash_password(composed), decomposed)


def test_the_parameters_and_that_nobodys_hash_has_them() -> None:
    for encoded in (hash_password(GOOD), NOBODYS_HASH):
        found = extract_parameters(encoded)
        assert (found.type, found.memory_cost, found.time_cost, found.parallelism) == (Type.ID, 19 * 1024, 2, 1)
        assert not needs_rehash(encoded)
    assert needs_rehash(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(GOOD))


@pytest.mark.parametrize("password", [GOOD, "", "x" * 10**6, "\ud800", "\0" * 20])
def test_whoever_there_is_one_hash_is_computed(password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same way, whose length is one hash by the same parameters: that is what the time is made of."""
    seen: list[str] = []
    verify = PasswordHasher.verify

    def watched(self: PasswordHasher, encoded: str, text: str) -> bool:
        seen.append(encoded)
        assert len(text) <= passwords.CHARS_MAX + 1
        return bool(verify(self, encoded, text))

    monkeypatch.setattr(PasswordHasher, "verify", watched)
    mine = hash_password("another good password")
    assert not verify_password(mine, password) and not verify_password(None, password)
    assert seen == [mine, NOBODYS_HASH]


def test_a_damaged_hash_is_a_wrong_password() -> None:
    for encoded in ("$argon2id$", "nonsense", NOBODYS_HASH[:-5] + "A"):
        assert verify_password(encoded, GOOD) is False
