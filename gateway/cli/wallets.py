"""`pagegrid wallets`: money in, money out, what is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from gateway.cli.context import (
    Place,
    confirm,
    json_option,
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

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
@where_options
def wallets() -> None:
    """Prepaid wallets, one per user."""


def _movement_options(command: F) -> F:
    for decorate in (
        click.option("--note", default="", help="For people; appears in the statement."),
        click.option("--reference", required=True, help="Your name for this movement, such as an invoice; repeating it is safe."),
        click.argument("amount"),
        click.argument("user"),
    ):
        command = decorate(command)
    return command


@wallets.command()
@place_options
@_movement_options
@json_option
def topup(place: Place, user: str, amount: str, reference: str, note: str, as_json: bool) -> None:
    """Put AMOUNT US dollars (such as 25 or 12.50) into USER's wallet."""
    _tell(perform(place, "wallets.topup", user=user, amount=amount, reference=reference, note=note), "put in", as_json)


@wallets.command()
@place_options
@_movement_options
@yes_option
@json_option
def withdraw(place: Place, user: str, amount: str, reference: str, note: str, yes: bool, as_json: bool) -> None:
    """Take AMOUNT US dollars out of USER's wallet; what running requests hold stays."""
    confirm(f"Take {usd(amount)} out of the wallet of {user}?", yes)
    _tell(perform(place, "wallets.withdraw", user=user, amount=amount, reference=reference, note=note), "taken out", as_json)


@wallets.command()
@place_options
@click.argument("user")
@json_option
def show(place: Place, user: str, as_json: bool) -> None:
    """Balance, what is held and available, and the latest lines."""
    wallet = perform(place, "wallets.show", user=user)
    if as_json:
        print_json(wallet)
        return
    for name in ("balance", "held", "available", "owed"):
        click.echo(f"{name:<10} {usd(wallet[name + '_usd'])}")
    if wallet["frozen"]:
        click.echo("frozen     yes: no new request is paid from it (pagegrid wallets unfreeze)")
    click.echo()
    print_lines(wallet["lines"])


@wallets.command()
@place_options
@click.argument("user")
@json_option
def freeze(place: Place, user: str, as_json: bool) -> None:
    """Let no new request be paid from USER's wallet."""
    _tell_frozen(perform(place, "wallets.freeze", user=user), as_json)


@wallets.command()
@place_options
@click.argument("user")
@json_option
def unfreeze(place: Place, user: str, as_json: bool) -> None:
    """Let USER's wallet pay again."""
    _tell_frozen(perform(place, "wallets.unfreeze", user=user), as_json)


def print_lines(lines: list[dict[str, Any]]) -> None:
    """The lines of a statement, in the order given."""
    rows = [
        [
            *(str(line["transfer_id"]), time_text(line["at_ms"]), line["kind"], usd(line["amount_usd"])),
            *(usd(line["balance_after_usd"]), line["reference"], line["note"]),
        ]
        for line in lines
    ]
    headers = ["ID", "TIME", "KIND", "AMOUNT", "BALANCE", "REFERENCE", "NOTE"]
    print_table(headers, rows, empty="No movements yet.", right=["ID", "AMOUNT", "BALANCE"])


def _tell(moved: dict[str, Any], what: str, as_json: bool) -> None:
    if as_json:
        print_json(moved)
        return
    click.echo(moved["transfer_id"])
    if not moved["applied"]:
        say(f"Already applied: reference {moved['reference']} is transfer {moved['transfer_id']}; nothing was moved again.")
    else:
        say(f"{usd(moved['amount_usd'])} {what}; the wallet of {moved['user']} has {usd(moved['balance_usd'])}.")


def _tell_frozen(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    state = "frozen" if result["frozen"] else "not frozen"
    say(f"The wallet of {result['user']} is {state}." if result["changed"] else f"It was {state} already.")
