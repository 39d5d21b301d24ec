"""The plans that users may have, as they are declared: this needs no database."""

from __future__ import annotations

from typing import Any

from gateway.desk.desk import Declared
from gateway.limits import Terms
from gateway.money import format_usd


def list_plans(declared: Declared) -> list[dict[str, Any]]:
    """By name. A limit of 0 is none, money is US dollars as a text; `models` None are all, `addresses` [] any, `keys_expire` ""
    is never; `max_keys` 0: they make none themselves."""
    return [
        {
            "name": plan.name,
            **dict(_limit(name, getattr(plan.terms, name)) for name in Terms.__slots__),
            "models": None if plan.models is None else sorted(plan.models),
            "addresses": [str(network) for network in plan.addresses],
            "keys_expire": plan.keys_expire,
            "factor": str(plan.factor),
            "max_keys": plan.max_keys,
        }
        for _, plan in sorted(declared.plans.items())
    ]


def _limit(name: str, value: int) -> tuple[str, int | str]:
    return (name.removesuffix("_nanos"), format_usd(value)) if name.endswith("_nanos") else (name, value)
