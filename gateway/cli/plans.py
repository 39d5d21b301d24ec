"""`pagegrid plans`: what users may be put on."""

from __future__ import annotations

import click

from gateway.cli.context import Place, json_option, place_options, print_json, print_table, where_options
from gateway.cli.desk_client import perform
from gateway.cli.keys import SHOWN_LIMITS


@click.group()
@where_options
def plans() -> None:
    """Plans of the configuration."""


@plans.command("list")
@place_options
@json_option
def list_(place: Place, as_json: bool) -> None:
    """All plans: what keys may do that say nothing themselves."""
    found = perform(place, "plans.list")
    if as_json:
        print_json(found)
        return
    rows = [
        [
            plan["name"],
            *("-" if plan[name] in (0, "0.00") else str(plan[name]) for name in SHOWN_LIMITS),
            *(",".join(plan[name] or ()) or "any" for name in ("models", "addresses")),
            *(plan["keys_expire"] or "never", str(plan["max_keys"]), plan["factor"]),
        ]
        for plan in found
    ]
    limits = [word.upper() for word in SHOWN_LIMITS.values()]
    headers = ["PLAN", *limits, "MODELS", "ADDRESSES", "KEYS EXPIRE", "MAX KEYS", "FACTOR"]
    print_table(headers, rows, empty="No plans.", right=limits)
