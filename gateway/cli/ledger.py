"""`pagegrid ledger`: the books, and whether they balance."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from gateway.cli.context import Place, counted, json_option, out, place_options, print_json, say, usd, where_options
from gateway.cli.desk_client import perform
from gateway.cli.wallets import print_lines


@click.group()
@where_options
def ledger() -> None:
    """The ledger: append-only, in whole nano-dollars."""


@ledger.command(short_help="Check every invariant from the first transfer on.")
@place_options
@json_option
def audit(place: Place, as_json: bool) -> None:
    """Check every invariant from the first transfer on; exit 1 if one is broken."""
    report = perform(place, "ledger.audit")
    if as_json:
        print_json(report)
    else:
        _print_report(report)
    if not report["clean"]:
        say("The books do not balance. Stop the server, keep a copy of the data directory, and look at the rows above.")
        sys.exit(1)


def _print_report(report: dict[str, Any]) -> None:
    for finding in report["findings"]:
        out(f"BROKEN  {finding['invariant']}: {counted(finding['count'], 'row')}")
        for row in finding["rows"]:
            out(f"        {json.dumps(row, ensure_ascii=False)}")
    broken = f"{counted(len(report['findings']), 'invariant')} broken" if report["findings"] else "the books balance"
    out(f"{counted(report['transfers'], 'transfer')}: {broken}.")
    unknown = report["unknown_holds"]
    if unknown:
        were = "was" if unknown == 1 else "were"
        out(f"{counted(unknown, 'request')} {were} running at a crash; nothing had been seen and nothing was charged.")


@ledger.command()
@place_options
@click.argument("user")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="The latest so many lines.")
@json_option
def show(place: Place, user: str, limit: int, as_json: bool) -> None:
    """USER's statement of account, oldest line first."""
    statement = perform(place, "ledger.show", user=user, limit=limit)
    if as_json:
        print_json(statement)
        return
    out(f"opening balance {usd(statement['opening_usd'])}")
    print_lines(statement["lines"])
    held, owed = usd(statement["held_usd"]), usd(statement["owed_usd"])
    out(f"closing balance {usd(statement['closing_usd'])} (held {held}, owed {owed})")
