"""Codes that people type: TOTP against the RFC's own table, each step once, and codes that survive how people write them."""

from __future__ import annotations

import base64
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.passcodes import (
    RECOVERY_CODES,
    RECOVERY_DIGITS,
    STEP_MS,
    VOUCHER_DIGITS,
    hash_code,
    looks_like_totp,
    make_code,
    make_recovery_codes,
    make_totp_secret,
    match_totp,
    show_totp_secret,
    totp_code,
    totp_uri,
)

# RFC 6238, appendix B, SHA-1 (8 digits there; the last 6 of each are the 6-digit code).
RFC_SECRET = b"12345678901234567890"
RFC_TABLE = [
    (59, "94287082"),
    (1_111_111_109, "07081804"),
    (1_111_111_111, "14050471"),
    (1_234_567_890, "89005924"),
    (2_000_000_000, "69279037"),
    (20_000_000_000, "65353130"),
]
# RFC 4226, appendix D.
HOTP_TABLE = ["755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"]


@pytest.mark.parametrize(("second", "code"), RFC_TABLE)
def test_the_table_of_rfc_6238(second: int, code: str) -> None:
    assert totp_code(RFC_SECRET, second * 1000 // STEP_MS) == code[-6:]
    assert match_totp(RFC_SECRET, code[-6:], second * 1000, 0) == second * 1000 // STEP_MS


@pytest.mark.parametrize(("step", "code"), list(enumerate(HOTP_TABLE)))
def test_the_table_of_rfc_4226(step: int, code: str) -> None:
    assert totp_code(RFC_SECRET, step) == code


@given(secret=st.binary(min_size=20, max_size=20), step=st.integers(10, 10**11), off=st.integers(-5, 5), last=st.integers(-5, 5))
def test_a_code_is_taken_within_one_step_and_after_the_last_taken(secret: bytes, step: int, off: int, last: int) -> None:
    matched = match_totp(secret, totp_code(secret, step + off), step * STEP_MS + 1, step + last)
    # Two steps may share a code, once in a million: then it is the later one that counts.
    if abs(off) <= 1 and off > last:
        assert matched is not None and matched >= step + off
    elif matched is not None:
        assert totp_code(secret, matched) == totp_code(secret, step + off) and matched != step + off


@given(steps=st.lists(st.integers(-3, 3), max_size=30))
def test_no_step_is_ever_taken_twice(steps: list[int]) -> None:
    """Whatever the clock does meanwhile: it may stand, go back, or jump."""
    secret, now, last, taken = RFC_SECRET, 50_000_000, 0, []
    for move in steps:
        now += move
        step = match_totp(secret, totp_code(secret, now), now * STEP_MS, last)
        if step is not None:
            taken.append(step)
            last = step
    assert taken == sorted(set(taken))


@pytest.mark.parametrize("code", ["", "0", "28708", "2870820", "abcdef", "٢٨٧٠٨٢", "287082x", "\ud800", "−287082"])
def test_what_is_no_code_matches_nothing(code: str) -> None:
    assert match_totp(RFC_SECRET, code, STEP_MS, 0) is None


@pytest.mark.parametrize("code", ["287082", "287 082", " 287082 ", "287-082"])
def test_a_code_may_be_typed_as_apps_show_it(code: str) -> None:
    assert looks_like_totp(code) and match_totp(RFC_SECRET, code, STEP_MS, 0) == 1


@pytest.mark.parametrize("code", ["A1B2-C3D4-E5F6-G7H8", "12345", "1234567", "", "٢٨٧٠٨٢"])
def test_any_other_is_meant_as_a_recovery_code(code: str) -> None:
    assert not looks_like_totp(code)


def test_the_uri_is_what_apps_read() -> None:
    secret = make_totp_secret()
    uri = urlsplit(totp_uri(secret, "Page: Grid & Söhne", "ada@example.com"))
    assert (uri.scheme, uri.netloc) == ("otpauth", "totp")
    assert unquote(uri.path) == "/Page Grid & Söhne:ada@example.com"
    query = parse_qs(uri.query)
    assert query == {
        "secret": [show_totp_secret(secret)],
        "issuer": ["Page Grid & Söhne"],
        "algorithm": ["SHA1"],
        "digits": ["6"],
        "period": ["30"],
    }
    assert base64.b32decode(query["secret"][0]) == secret and len(secret) == 20


def test_codes_are_random_and_grouped() -> None:
    codes = make_recovery_codes()
    assert len(set(codes)) == RECOVERY_CODES
    for digits in (RECOVERY_DIGITS, VOUCHER_DIGITS):
        code = make_code(digits)
        assert len(code.replace("-", "")) == digits and {len(group) for group in code.split("-")} == {4}
        assert not set(code) & set("ILOU")


@given(st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=20, max_size=20))
def test_a_code_is_the_same_however_it_is_typed(digits: str) -> None:
    code = "-".join(digits[start : start + 4] for start in range(0, 20, 4))
    for typed in (
        code.lower(),
        code.replace("-", " "),
        code.replace("-", ""),
        code.replace("0", "o").replace("1", "l"),
        f" {code} ",
    ):
        assert hash_code(typed) == hash_code(code)
    assert hash_code(code[:-1]) != hash_code(code)
