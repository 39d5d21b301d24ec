"""`pagegrid models`: what is offered."""

from __future__ import annotations

import click

from gateway.cli.context import Place, json_option, place_options, print_json, print_table, usd, where_options
from gateway.cli.desk_client import perform


@click.group()
@where_options
def models() -> None:
    """Models that are served."""


@models.command("list")
@place_options
@json_option
def list_(place: Place, as_json: bool) -> None:
    """All models with their list prices, in US dollars per million tokens."""
    found = perform(place, "models.list")
    if as_json:
        print_json(found)
        return
    prices = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
    rows = [
        [
            model["id"],
            *(f"{model[size]:,}" for size in ("context_tokens", "max_output_tokens")),
            *(usd(model["prices_usd_per_mtok"][name]) for name in prices),
            ",".join(model["aliases"]) or "-",
        ]
        for model in found
    ]
    headers = ["ALIASES"]
    if any(model["serves"] for model in found):
        headers.append("SERVES")
        rows = [[*row, ", then ".join(model["serves"]) or "-"] for row, model in zip(rows, found, strict=True)]
    numbers = ["CONTEXT", "MAX OUTPUT", "INPUT/M", "OUTPUT/M", "CACHE READ/M", "WRITE 5M/M", "WRITE 1H/M"]
    print_table(["MODEL", *numbers, *headers], rows, empty="No models: no upstream serves any.", right=numbers)
