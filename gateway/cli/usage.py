"""`pagegrid usage`: one request, and how its cost came about."""

from __future__ import annotations

from typing import Any

import click

from gateway.cli.context import Place, json_option, out, place_options, print_json, print_table, time_text, usd
from gateway.cli.desk_client import perform
from gateway.money import format_usd


@click.command()
@place_options
@click.argument("request_id")
@json_option
def usage(place: Place, request_id: str, as_json: bool) -> None:
    """What one request used and cost. REQUEST_ID is our request-id, or the provider's request id."""
    found = perform(place, "usage.get", request_id=request_id)
    if as_json:
        print_json(found)
        return
    out(f"{found['request_id']}  {found['status']}  {found['model']}  {time_text(found['created_at_ms'])}")
    out(f"user {found['user']}, key {found['key_id']} ({found['key_name']}, {found['key_hint']}…)")
    if found["status"] == "void":
        out(f"nothing was charged: {found['reason']}")
    if found["status"] == "settled":
        _print_cost(found)
    if found["status"] != "running":
        _print_detail(found)


def _print_cost(found: dict[str, Any]) -> None:
    flags = f" ({', '.join(found['flags'])})" if found["flags"] else ""
    out(f"cost {usd(found['cost_usd'])}, paid {usd(found['paid_usd'])}, usage {found['source']}{flags}")
    if found["refunded_nanos"]:
        out(f"refunded {usd(found['refunded_usd'])}")
    if found["owed_nanos"]:
        out(f"owed {usd(found['owed_usd'])}: collected only from what the wallet's requests of that time set free")
    out()
    rows = [
        [
            line["name"],
            str(line.get("count", "")),
            usd(format_usd(line["price_nanos_per_million"])) if "count" in line else "",
            line["amount_nanos"],
        ]
        for line in found["derivation"]["lines"]
    ]
    factors = ", ".join(f"{multiplier['name']} ×{multiplier['factor']}" for multiplier in found["derivation"]["multipliers"])
    headers = ["PRICED", "COUNT", "PER MILLION", "NANO-DOLLARS" + (f" ({factors})" if factors else "")]
    print_table([*headers], [*rows, ["cost", "", "", str(found["cost_nanos"])]], empty="", right=headers[1:])


def _print_detail(found: dict[str, Any]) -> None:
    if found["attempts"]:
        out()
        rows = [
            [str(a["number"]), a["upstream"], str(a["status"] or "-"), a["reason"], f"{a['duration_ms']} ms"]
            for a in found["attempts"]
        ]
        print_table(["ATTEMPT", "UPSTREAM", "STATUS", "REASON", "TOOK"], rows, empty="", right=["ATTEMPT", "STATUS", "TOOK"])
    timings = found["timings"]
    if timings:
        first = "-" if timings["first_byte_ms"] is None else f"{timings['first_byte_ms']} ms"
        out(f"\nadmitted after {timings['admitted_ms']} ms, first byte {first}, ended after {timings['total_ms']} ms")
