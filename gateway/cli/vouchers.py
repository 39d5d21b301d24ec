"""`pagegrid vouchers`: codes that each put a sum into one wallet, once. Codes are printed once, when they are made."""

from __future__ import annotations

import click

from gateway.cli.context import (
    Place,
    confirm,
    counted,
    json_option,
    out,
    place_options,
    print_json,
    print_table,
    say,
    time_text,
    usd,
    where_options,
    yes_option,
)
from gateway.cli.desk_client import perform


@click.group()
@where_options
def vouchers() -> None:
    """Vouchers: codes for credit, each to be redeemed once."""


@vouchers.command(context_settings={"ignore_unknown_options": True}, short_help="Make a batch of vouchers.")
@place_options
@click.argument("amount")
@click.option("--batch", required=True, help="A name for all of them; one that no batch has yet.")
@click.option("--count", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option("--expires", help="After how long, such as 90d; never, if it is left out.")
@json_option
def create(place: Place, amount: str, batch: str, count: int, expires: str | None, as_json: bool) -> None:
    """Make vouchers of AMOUNT US dollars each. Their codes are shown this once."""
    made = perform(place, "vouchers.create", amount=amount, batch=batch, count=count, expires=expires)
    if as_json:
        print_json(made)
        return
    for voucher in made["vouchers"]:
        out(voucher["code"])
    until = f", until {time_text(made['expires_at_ms'])}" if made["expires_at_ms"] is not None else ""
    worth = f"{counted(count, 'voucher')} of {usd(made['amount_usd'])} each ({usd(made['total_usd'])} in all){until}"
    say(f"{worth}. The codes are shown this once: keep them now.")


@vouchers.command("list")
@place_options
@click.option("--batch", help="Only those of this batch.")
@click.option("--before", type=click.IntRange(min=1), help="Older ones than the one of this ID.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@json_option
def list_(place: Place, batch: str | None, before: int | None, limit: int, as_json: bool) -> None:
    """Single vouchers, newest first."""
    found = perform(place, "vouchers.list", batch=batch, before=before, limit=limit)
    if as_json:
        print_json(found)
        return
    rows = [
        [
            *(str(voucher["id"]), voucher["batch"], voucher["hint"] + "…", usd(voucher["amount_usd"]), _state(voucher)),
            time_text(voucher["expires_at_ms"]),
        ]
        for voucher in found["vouchers"]
    ]
    headers = ["ID", "BATCH", "CODE", "AMOUNT", "STATE", "EXPIRES"]
    print_table(headers, rows, empty="No vouchers: pagegrid vouchers create AMOUNT --batch NAME", right=["ID", "AMOUNT"])
    if found["next_before"] is not None:
        say(f"There is more: add --before {found['next_before']}.")


@vouchers.command()
@place_options
@json_option
def batches(place: Place, as_json: bool) -> None:
    """Batches, newest first, with what became of them."""
    found = perform(place, "vouchers.batches")
    if as_json:
        print_json(found)
        return
    rows = [
        [
            *(batch["batch"], usd(batch["amount_usd"]), str(batch["open"]), str(batch["redeemed"]), str(batch["voided"])),
            *(time_text(batch["expires_at_ms"]), time_text(batch["created_at_ms"]), batch["created_by"]),
        ]
        for batch in found
    ]
    headers = ["BATCH", "EACH", "OPEN", "REDEEMED", "VOIDED", "EXPIRES", "CREATED", "BY"]
    right = ["EACH", "OPEN", "REDEEMED", "VOIDED"]
    print_table(headers, rows, empty="No vouchers: pagegrid vouchers create AMOUNT --batch NAME", right=right)


@vouchers.command()
@place_options
@click.option("--batch", help="All of this batch that are open.")
@click.option("--id", "voucher_id", type=click.IntRange(min=1), help="One voucher: the ID in `pagegrid vouchers list`.")
@yes_option
@json_option
def void(place: Place, batch: str | None, voucher_id: int | None, yes: bool, as_json: bool) -> None:
    """End vouchers that nobody has redeemed."""
    if (batch is None) == (voucher_id is None):
        raise click.UsageError("Say --batch NAME or --id ID.")
    what = f"every open voucher of {batch}" if batch is not None else f"voucher {voucher_id}"
    confirm(yes, lambda: f"Void {what}? Whoever holds a code cannot redeem it any more.")
    result = perform(place, "vouchers.void", batch=batch, voucher_id=voucher_id)
    if as_json:
        print_json(result)
        return
    say(f"{counted(result['voided'], 'voucher')} voided.")


@vouchers.command()
@place_options
@click.argument("user")
@json_option
def redeem(place: Place, user: str, as_json: bool) -> None:
    """Redeem a voucher into USER's wallet. The code is asked for, or read from standard input: it is money."""
    code = click.prompt("Code", err=True)
    result = perform(place, "vouchers.redeem", user=user, code=code)
    if as_json:
        print_json(result)
        return
    say(f"{usd(result['amount_usd'])} went to {result['user']}; the balance is {usd(result['balance_usd'])}.")


def _state(voucher: dict[str, object]) -> str:
    if voucher["redeemed_by"] is not None:
        return f"redeemed by {voucher['redeemed_by']}"
    return "open" if voucher["voided_at_ms"] is None else "void"
