"""What the desk asks of an argument, in one place: texts that people will read, amounts, durations, who is meant.

Every refusal names the argument and the next step. Look-ups take a connection: the writer's inside a job, or a reader's.
"""

from __future__ import annotations

import difflib
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.errors import ClientError, LedgerError
from gateway.money import NANOS_MAX, BadAmount, format_usd, parse_deposit, parse_usd
from gateway.storage import users, wallets

NAME_CHARS_MAX = 64
REFERENCE_CHARS_MAX = 128
NOTE_CHARS_MAX = 500
# RFC 5321 §4.5.3.1.3 leaves 254 for an address without its brackets.
EMAIL_CHARS_MAX = 254
# Ten years: longer than any server lives; beyond it a duration is a mistake in its unit.
DURATION_MS_MAX = 3650 * 86_400_000

# What a shell takes as one plain word, and no command takes for an option: the steps that we print can be pasted.
_USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*", re.ASCII)
_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(?:\.[^@\s.]+)+")
_DURATION = re.compile(r"(\d{1,9})([mhd])", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(_DAY.pattern + r"[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_UNIT_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}


def refused(message: str, param: str | None = None) -> ClientError:
    return ClientError("invalid_request", message, param=param)


def check_text(text: str, param: str, chars_max: int) -> str:
    """One line that can be printed anywhere: no control characters, no blanks at its ends."""
    if not 0 < len(text) <= chars_max or not text.isprintable() or text != text.strip():
        raise refused(f"{param}: write 1 to {chars_max} printable characters, without blanks at the ends", param)
    return text


def check_user_name(text: str) -> str:
    if len(text) > NAME_CHARS_MAX or not _USER_NAME.fullmatch(text):
        raise refused(
            f'name: write 1 to {NAME_CHARS_MAX} letters (a to z), digits and ". _ - @", beginning with a letter or a digit',
            "name",
        )
    return text


def check_note(text: str) -> str:
    return check_text(text, "note", NOTE_CHARS_MAX) if text else ""


def check_count(number: int, param: str, most: int) -> int:
    """How many of something are asked for."""
    if not 1 <= number <= most:
        raise refused(f"{param}: write a number from 1 to {most}", param)
    return number


def check_email(text: str | None) -> str | None:
    """In small letters, so that one address is one address."""
    if text is None:
        return None
    if len(text) > EMAIL_CHARS_MAX or not text.isprintable() or not _EMAIL.fullmatch(text):
        raise refused("email: write an address such as ada@example.com, or leave it out", "email")
    return text.lower()


def parse_amount(text: str, param: str = "amount") -> int:
    try:
        return parse_deposit(text)
    except BadAmount as error:
        raise LedgerError("invalid_request", f"{param}: {error}", param=param) from None


def parse_limit_usd(text: str, param: str) -> int:
    """Nanos of a cap or threshold; zero is allowed and means what its option says."""
    try:
        nanos = parse_usd(text)
    except BadAmount as error:
        raise refused(f"{param}: {error}", param) from None
    if nanos > NANOS_MAX:
        raise refused(f"{param}: write at most {format_usd(NANOS_MAX)} US dollars, or 0 for unlimited", param)
    return nanos


def parse_duration_ms(text: str, param: str) -> int:
    """Milliseconds of a text such as 90m, 12h or 30d; above zero and at most ten years."""
    match = _DURATION.fullmatch(text)
    duration_ms = int(match.group(1)) * _UNIT_MS[match.group(2)] if match else 0
    if not 0 < duration_ms <= DURATION_MS_MAX:
        raise refused(f"{param}: write a duration such as 90m, 12h or 30d, at most 3650d", param)
    return duration_ms


def parse_time_ms(text: str, param: str) -> int:
    """Milliseconds since 1970 of a day (UTC) or a time with its offset."""
    try:
        if _DAY.fullmatch(text):
            return _to_ms(datetime.fromisoformat(text).replace(tzinfo=UTC))
        if _TIME.fullmatch(text):
            return _to_ms(datetime.fromisoformat(text.upper()))
    except (ValueError, OverflowError):
        pass  # a 30th of February, an offset of 99 hours
    # What was a + in a URL arrives as a blank.
    hint = "; a + in a URL is %2B" if " " in text else ""
    raise refused(f"{param}: write a day (2026-11-20, UTC) or a time with its offset (2026-11-20T08:00:00Z{hint})", param)


def parse_day_ms(text: str, param: str) -> int:
    """The beginning of a day (UTC)."""
    if not _DAY.fullmatch(text):
        raise refused(f"{param}: write a day, such as 2026-11-20 (UTC)", param)
    return parse_time_ms(text, param)


def get_user(conn: sqlite3.Connection, name: str) -> dict[str, Any]:
    """The user of this name, or of this e-mail address. Raises ClientError that names the nearest."""
    user = users.find_user(conn, name) or users.find_user_by_email(conn, name.lower())
    if user is not None:
        return user
    names = {user["name"].lower(): user["name"] for user in users.list_users(conn)}
    nearest = difflib.get_close_matches(name[:NAME_CHARS_MAX].lower(), names, n=1)
    hint = f"did you mean {names[nearest[0]]}?" if nearest else "`pagegrid users list` shows who there is."
    raise ClientError("not_found", f"there is no user {_shown(name)}; {hint}", param="user")


def get_wallet(conn: sqlite3.Connection, user_id: int) -> dict[str, Any]:
    wallet = wallets.find_wallet(conn, user_id)
    assert wallet is not None, "every user is made with a wallet"
    return wallet


def money(**amounts_nanos: int) -> dict[str, Any]:
    """Each amount twice: `balance_nanos` to reckon with, `balance_usd` to read."""
    fields: dict[str, Any] = {}
    for name, nanos in amounts_nanos.items():
        fields[f"{name}_nanos"] = nanos
        fields[f"{name}_usd"] = format_usd(nanos)
    return fields


def _to_ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _shown(text: str) -> str:
    """A stranger's text in a message: short, and without anything that a terminal would obey."""
    return text if text.isprintable() and len(text) <= NAME_CHARS_MAX else repr(text[:NAME_CHARS_MAX])
