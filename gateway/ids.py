"""Time-ordered ids: an integer for the database, a short text for people.

    bit 62 ........ 20 19 ......... 0
        milliseconds   counter of this millisecond, from a start that each process draws

Ordered by time, so that rows are appended to the end of every index they stand in. The text form is `req_` and 13 digits of
Crockford's base 32 (no I, L, O, U), in the same order. Ids are not secrets: every look-up asks for the owner too.
"""

from __future__ import annotations

import secrets

_COUNTER_BITS = 20
DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {digit: value for value, digit in enumerate(DIGITS)}
_TEXT_DIGITS = 13
_PREFIX = "req_"


class IdSource:
    """Ever rising ids, also when the wall clock steps back: each is above the last, `floor` (the highest stored) included."""

    def __init__(self, floor: int = 0) -> None:
        self._last = floor
        # Drawn so that two databases do not count alike; the upper half of the counter leaves room to count on.
        self._start = secrets.randbits(_COUNTER_BITS - 1)

    def next(self, at_ms: int) -> int:
        self._last = max(lowest_id(at_ms) | self._start, self._last + 1)
        return self._last


def lowest_id(at_ms: int) -> int:
    """No id of that millisecond, or a later one, is below it."""
    return at_ms << _COUNTER_BITS


def render_id(request_id: int) -> str:
    digits = []
    for _ in range(_TEXT_DIGITS):
        request_id, value = divmod(request_id, 32)
        digits.append(DIGITS[value])
    return _PREFIX + "".join(reversed(digits))


def parse_id(text: str) -> int | None:
    """The integer of a text id, or None if it is not one of ours."""
    digits = text.removeprefix(_PREFIX)
    if len(text) != len(_PREFIX) + _TEXT_DIGITS or len(digits) != _TEXT_DIGITS or not digits.isascii():
        return None
    number = 0
    for digit in digits.upper():
        value = _VALUES.get(digit)
        if value is None:
            return None
        number = number * 32 + value
    return number if number < 2**63 else None
