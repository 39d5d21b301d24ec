"""`pagegrid usage`: one request and how its cost came about; sums over many."""

from __future__ import annotations

from typing import Any

import click

from gateway.cli.context import (
    Place,
    json_option,
    out,
    place_options,
    print_json,
    print_table,
    say,
    time_text,
    usd,
    where_options,
)
from gateway.cli.desk_client import perform
from gateway.desk.usage_reports import ALL_DIMENSIONS, CSV_LIMIT_MAX, render_csv_page
from gateway.money import format_usd


@click.group()
@where_options
def usage() -> None:
    """What was used, and what it cost."""


@usage.command()
@place_options
@click.argument("request_id")
@json_option
def get(place: Place, request_id: str, as_json: bool) -> None:
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


@usage.command()
@place_options
@click.option("--user", help="Of one user; everybody's otherwise.")
@click.option(
    "--start", metavar="TIME", help="A day (2026-11-20, UTC) or a time with its offset; default 30 days, today included."
)
@click.option("--end", metavar="TIME", help="As --start; a day counts whole. Default now.")
@click.option("--by", multiple=True, metavar="WHAT", help=f"{', '.join(ALL_DIMENSIONS)}; several with commas. Default day.")
@click.option("--key", type=click.IntRange(min=1), metavar="ID", help="Of one key.")
@click.option("--model", help="Of one model.")
@click.option("--session", help="Of one session of Claude Code, or another client that tells its session.")
@click.option("--limit", type=click.IntRange(1, CSV_LIMIT_MAX), default=1000, show_default=True, help="At most so many rows.")
@click.option("--cursor", help="Where the rows before ended, to go on there.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, safe to open in a spreadsheet.")
@json_option
def report(place: Place, /, by: tuple[str, ...], as_csv: bool, as_json: bool, **asked: Any) -> None:
    """Sums of requests, tokens, cost and margin.

    PAID is what wallets paid at the settle (overruns collected later and refunds stand in the ledger), UPSTREAM what the attempts
    cost at list price.
    """
    found = perform(place, "usage.report", by=list(by) or None, **asked)
    if as_json:
        print_json(found)
    elif as_csv:
        click.echo(render_csv_page(found), nl=False)
    else:
        _print_report(found)
    if found["has_more"] and not as_json:
        say(f"There is more: add --cursor {found['next_cursor']}")


def _print_report(found: dict[str, Any]) -> None:
    names = {"key": ("key_id", "key_name")}
    columns = [column for by in found["group_by"] for column in names.get(by, (by,))]
    figures = ["REQUESTS", "INPUT", "OUTPUT", "CACHE WRITE", "CACHE READ", "COST", "PAID", "UPSTREAM", "MARGIN"]
    rows = [[*(_printable(str(row[column] or "-")) for column in columns), *_figures(row)] for row in found["data"]]
    out(f"from {found['start']} to {found['end']}")
    headers = [*(column.replace("_", " ").upper() for column in columns), *figures]
    total = [["total", *[""] * (len(columns) - 1), *_figures(found["total"])]] if rows else []
    print_table(headers, [*rows, *total], empty="Nothing was used.", right=figures)
    if unknown := found["total"]["upstream_unknown_requests"]:
        say(f"Of {unknown} of these requests it is not known what they cost upstream.")
    if found.get("detail_since"):
        say(f"Sessions and agents are known since {found['detail_since']}.")


def _printable(text: str) -> str:
    """Sessions and agents are what clients call them: nothing that a terminal would obey."""
    return text if text.isprintable() else ascii(text)


def _figures(row: dict[str, Any]) -> list[str]:
    written = sum(row["cache_creation"].values())
    counts = [row["requests"], row["input_tokens"], row["output_tokens"], written, row["cache_read_input_tokens"]]
    return [*map(str, counts), *(usd(row[f"{name}_usd"]) for name in ("cost", "paid", "upstream", "margin"))]


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
