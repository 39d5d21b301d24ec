"""How values are written for people: money, counts, sizes. Exact; the filters of all templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.money import format_usd


def usd(nanos: int) -> str:
    """Dollars with as many decimals as it takes: $4.00, $0.0125."""
    return f"${format_usd(nanos)}" if nanos >= 0 else f"−${format_usd(-nanos)}"


def count(number: int) -> str:
    return f"{number:,}"


def size(tokens: int) -> str:
    """Tokens, short where that is exact: 1 M, 200 k, 131,072."""
    if tokens and tokens % 1_000_000 == 0:
        return f"{tokens // 1_000_000} M"
    if tokens and tokens % 1000 == 0:
        return f"{tokens // 1000} k"
    return count(tokens)


FILTERS: Mapping[str, Callable[..., str]] = {"usd": usd, "count": count, "size": size}
