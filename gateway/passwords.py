"""Passwords: what may be one, and argon2id with the parameters of OWASP's cheat sheet (19 MiB, 2 passes, 1 lane; read
2026-11-20).

Hashing takes 20 to 80 ms of a core and 19 MiB: whoever calls does so in a thread, and sees to it that few run at once. A text is
normalised first (NFKC, as NIST SP 800-63B §5.1.1.2 has it), so that the same keys on another keyboard make the same password.
"""

from __future__ import annotations

import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from gateway.errors import ClientError

CHARS_MIN = 12
CHARS_MAX = 128
# Of "aaaaaaaaaaaa" and "121212121212" nobody needs a list.
_DIFFERENT_MIN = 5

_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, hash_len=32, salt_len=16)

# Of a random text that nobody kept, by the parameters above: whoever has no password is checked against it, which takes as long.
NOBODYS_HASH = "$argon2id$v=19$m=19456,t=2,p=1$bI6d7ru7RFJvmrA0u4pjOA$9s3WXX5TnzOdFz1V1EKRb6Y1os+rv5qjCqRE3C0VGu0"


def check_password(password: str, *names: str, param: str = "password") -> None:
    """Raises ClientError for one that nobody should have; it is never repeated.

    `names` are what everybody knows of its user.
    """
    text = _normalise(password)
    if not CHARS_MIN <= len(text) <= CHARS_MAX or not _is_text(text):
        raise ClientError("invalid_request", f"{param}: write {CHARS_MIN} to {CHARS_MAX} characters", param=param)
    if len(set(text.lower())) < _DIFFERENT_MIN:
        raise ClientError("invalid_request", f"{param}: it repeats too few characters; choose a less simple one", param=param)
    if text.lower() in {name.lower() for name in names}:
        raise ClientError("invalid_request", f"{param}: it is a name that others know; choose another", param=param)


def hash_password(password: str) -> str:
    """Of one that was checked, now or when it was chosen."""
    return _HASHER.hash(_normalise(password))


def verify_password(encoded: str | None, password: str) -> bool:
    """Whether it is the password. Without one to compare with, or for a text that can be none, it takes as long to say no."""
    # Longer ones are cut where no password reaches, so that nobody makes us hash a book.
    text = _normalise(password[: 4 * CHARS_MAX])[: CHARS_MAX + 1]
    try:
        return _HASHER.verify(encoded or NOBODYS_HASH, text if _is_text(text) else "")
    except (VerificationError, InvalidHashError):
        return False


def needs_rehash(encoded: str) -> bool:
    """Whether it was made with other parameters than those of today."""
    return _HASHER.check_needs_rehash(encoded)


def _normalise(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


def _is_text(text: str) -> bool:
    """Lone surrogates (half an emoji of a broken form) are no text, and cannot be encoded."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
