"""What a key may be limited to, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.desk.keys import MONEY_LIMITS
from gateway.limits import Terms
from gateway.money import format_usd, parse_usd
from gateway.web.text import count, usd

# By the names of `keys.update`, as forms call them.
LIMITS: Mapping[str, str] = {
    "rpm": "Requests per minute",
    "tpm": "Tokens per minute",
    "concurrent": "Requests at one time",
    "requests_per_day": "Requests per day",
    "tokens_per_month": "Tokens per month",
    "spend_per_day": "Dollars per day",
    "spend_per_month": "Dollars per month",
    "spend_total": "Dollars in all",
}
LISTS = ("models", "addresses")


def limits_told(key: Mapping[str, Any]) -> str:
    """What a key of `list_keys` says for itself; "" if all is as the plan has it."""
    told = []
    for name, words in LIMITS.items():
        value, words = key[name], words.lower()
        if value is None:
            continue
        if not float(value):
            told.append(f"unlimited {words}")
        elif name in MONEY_LIMITS:
            told.append(f"{usd(parse_usd(value))} {words.removeprefix('dollars ')}")
        else:
            told.append(f"{count(value)} {words.replace('requests', 'request') if value == 1 else words}")
    told += [f"{name}: {', '.join(key[name])}" for name in LISTS if key[name] is not None]
    return "; ".join(told + ([f"price × {key['factor']}"] if key["factor"] != "1" else []))


def plan_told(terms: Terms, name: str) -> str:
    """What a plan says of a limit."""
    value = getattr(terms, f"{name}_nanos" if name in MONEY_LIMITS else name)
    if not value:
        return "unlimited"
    return f"${format_usd(value)}" if name in MONEY_LIMITS else count(value)
