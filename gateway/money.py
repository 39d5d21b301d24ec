"""Money as whole nano-dollars (1 USD = 10⁹ nanos): parsing, showing, and the one rounding.

No float ever holds money. What people type is a decimal string; what does not fit is refused, never rounded.
Knows nothing of accounts, prices of models or requests.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple

NANOS_PER_USD = 1_000_000_000

# No account may pass this on either side: far above any real sum, and still exact in SQLite's signed 64 bits
# after adding two of them.
NANOS_MAX = 2**62

DEPOSIT_MAX_NANOS = 1_000_000 * NANOS_PER_USD

_PLAIN = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)
_FACTOR = re.compile(r"(\d{1,2})(?:\.(\d{1,6}))?", re.ASCII)


class BadAmount(ValueError):
    """A text that is not an amount of money; the message says what an amount looks like."""


def parse_usd(text: str) -> int:
    """Nanos of a decimal USD text such as "12.50"; at most 9 decimals, no sign, no exponent. Zero is allowed."""
    match = _PLAIN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise BadAmount(
            f"{text!r} is not an amount: write US dollars as plain digits, at most 12, with at most 9 decimals, such as 12.50"
        )
    whole, decimals = match.group(1), match.group(2) or ""
    return int(whole) * NANOS_PER_USD + int(decimals.ljust(9, "0"))


def parse_deposit(text: str) -> int:
    """Nanos of an amount that a person moves: as `parse_usd`, above zero and at most 1,000,000 USD."""
    nanos = parse_usd(text)
    if not 0 < nanos <= DEPOSIT_MAX_NANOS:
        raise BadAmount(f"{text!r} is out of range: an amount is above 0 and at most 1000000 USD")
    return nanos


def format_usd(nanos: int) -> str:
    """The exact decimal text, without a currency sign: at least 2 decimals, at most 9."""
    sign, nanos = ("-", -nanos) if nanos < 0 else ("", nanos)
    whole, rest = divmod(nanos, NANOS_PER_USD)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{decimals}"


def to_micros(nanos: int) -> int:
    """Millionths of a dollar, rounded half up: for people and headers; the nanos stay the truth."""
    return (nanos + 500) // 1000


def ceil_div(dividend: int, divisor: int) -> int:
    """dividend ÷ divisor, rounded upwards; the divisor is positive."""
    return -(-dividend // divisor)


class Factor(NamedTuple):
    """A price multiplier as an exact fraction, 0 < f ≤ 10 with at most 6 decimals."""

    numerator: int
    denominator: int

    @classmethod
    def parse(cls, text: str) -> Factor:
        """The fraction of a decimal text such as "1.1", in lowest terms. Raises BadAmount."""
        if not isinstance(text, str) or _FACTOR.fullmatch(text) is None or not 0 < Decimal(text) <= 10:
            raise BadAmount(
                f"{text!r} is not a factor: write a decimal above 0 and at most 10 with at most 6 decimals, such as 1.1"
            )
        return cls(*Decimal(text).as_integer_ratio())

    def __str__(self) -> str:
        return format(Decimal(self.numerator) / Decimal(self.denominator), "f")


ONE = Factor(1, 1)
