"""Codes that people type: of an authenticator app (TOTP), for when it is lost (recovery codes), and of vouchers.

    TOTP       6 digits of HMAC-SHA-1 over the number of 30-second steps since 1970 (RFC 6238, RFC 4226); one step of clock
               difference either way is forgiven, and no step is taken twice, or after a later one
    others     random, in groups of four of Crockford's base 32: A1B2-C3D4-…; what looks alike is taken for the same

SHA-1 with 30 s and 6 digits is what every app knows; none of the known weaknesses of SHA-1 touches HMAC. Knows nothing of users
or SQL; time is handed in. (A library would be as long: it does not tell which step a code was of, which is what makes it single.)
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from urllib.parse import quote, urlencode

from gateway.ids import DIGITS

STEP_MS = 30_000
TOTP_DIGITS = 6
# RFC 6238 §5.2 recommends at most one, for the network's delay and for people who type slowly.
STEPS_FORGIVEN = 1
# RFC 4226 §4 R6 recommends 160 bits.
SECRET_BYTES = 20

RECOVERY_CODES = 10
# 80 bits: beyond guessing, also for somebody who has the hash.
RECOVERY_DIGITS = 16
# 100 bits, of which lists show the first four digits.
VOUCHER_DIGITS = 20
VOUCHER_HINT_CHARS = 4

_GROUP = 4
# Crockford's base 32 has no I, L and O, so that they can be told from 1, 1 and 0.
_LOOK_ALIKES = str.maketrans("ILO", "110", " -\t")


def make_totp_secret() -> bytes:
    return secrets.token_bytes(SECRET_BYTES)


def totp_code(secret: bytes, step: int) -> str:
    digest = hmac.new(secret, step.to_bytes(8, "big"), hashlib.sha1).digest()
    offset = digest[-1] & 0x0F
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFF_FFFF
    return f"{number % 10**TOTP_DIGITS:0{TOTP_DIGITS}d}"


def match_totp(secret: bytes, code: str, at_ms: int, last_step: int) -> int | None:
    """The step that the code is of, if it may be taken now: about now, and later than `last_step`. None for any other code."""
    now = at_ms // STEP_MS
    sent = code.translate(_LOOK_ALIKES).encode(errors="surrogatepass")
    matched = None
    for step in range(max(0, now - STEPS_FORGIVEN), now + STEPS_FORGIVEN + 1):
        # All are compared, whichever is right.
        if hmac.compare_digest(totp_code(secret, step).encode(), sent) and step > last_step:
            matched = step
    return matched


def show_totp_secret(secret: bytes) -> str:
    """As it is typed into an app that cannot scan: base 32 of RFC 4648, without padding."""
    return base64.b32encode(secret).decode().rstrip("=")


def parse_totp_secret(text: str) -> bytes:
    """The other way round. Raises ValueError."""
    secret = base64.b32decode(text)
    if len(secret) != SECRET_BYTES:
        raise ValueError("not as long as ours")
    return secret


def totp_uri(secret: bytes, issuer: str, account: str) -> str:
    """What the QR code says (github.com/google/google-authenticator/wiki/Key-Uri-Format, read 2026-11-20)."""
    # A colon would end the issuer.
    issuer = issuer.replace(":", "")
    label = f"{quote(issuer, safe='')}:{quote(account, safe='')}"
    query = {
        "secret": show_totp_secret(secret),
        "issuer": issuer,
        "algorithm": "SHA1",
        "digits": TOTP_DIGITS,
        "period": STEP_MS // 1000,
    }
    return f"otpauth://totp/{label}?{urlencode(query, quote_via=quote)}"


def make_code(digits: int) -> str:
    text = "".join(secrets.choice(DIGITS) for _ in range(digits))
    return "-".join(text[start : start + _GROUP] for start in range(0, digits, _GROUP))


def make_recovery_codes() -> list[str]:
    return [make_code(RECOVERY_DIGITS) for _ in range(RECOVERY_CODES)]


def looks_like_totp(code: str) -> bool:
    """Whether it is an app's code that was meant; any other is a recovery code."""
    digits = code.translate(_LOOK_ALIKES)
    return len(digits) == TOTP_DIGITS and digits.isascii() and digits.isdigit()


def hash_code(code: str) -> bytes:
    """However it was typed: small letters, blanks for dashes, an O for a 0."""
    return hashlib.sha256(code.upper().translate(_LOOK_ALIKES).encode(errors="surrogatepass")).digest()
