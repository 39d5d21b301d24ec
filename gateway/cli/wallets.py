"""`pagegrid wallets`: money in, money out, what is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from gateway.cli.context import (
    Place,
    confirm,
    json_option,
    out,
    place_options,
    print_id,
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


# "-5" is an amount, to be refused in its own words; click would take it for an option that nobody knows.
_TAKES_ANY_AMOUNT = {"ignore_unknown_options": True}


def _movement_options(command: F) -> F:
    for decorate in (
        click.option("--note", default="", help="For people; appears in the statement."),
        click.option(
            "--reference",
            required=True,
            help="Your own name for it, such as an invoice's; used once, so that repeating the command is safe.",
        ),
        click.argument("amount"),
        click.argument("user"),
    ):
        command = decorate(command)
    return command


@wallets.command(context_settings=_TAKES_ANY_AMOUNT)
@place_options
@_movement_options
@json_option
def topup(place: Place, user: str, amount: str, reference: str, note: str, as_json: bool) -> None:
    """Put AMOUNT US dollars (such as 25 or 12.50) into USER's wallet."""
    _tell(perform(place, "wallets.topup", user=user, amount=amount, reference=reference, note=note), "put in", as_json)


@wallets.command(context_settings=_TAKES_ANY_AMOUNT, short_help="Take AMOUNT US dollars out of USER's wallet.")
@place_options
@_movement_options
@yes_option
@json_option
def withdraw(place: Place, user: str, amount: str, reference: str, note: str, yes: bool, as_json: bool) -> None:
    """Take AMOUNT US dollars out of USER's wallet; what running requests hold stays."""

    def question() -> str:
        plan = perform(place, "wallets.plan_withdrawal", user=user, amount=amount, reference=reference)
        available = f"{usd(plan['available_usd'])} is available"
        return f"Take {usd(plan['amount_usd'])} out of the wallet of {plan['user']}? {available}."

    confirm(yes, question)
    _tell(perform(place, "wallets.withdraw", user=user, amount=amount, reference=reference, note=note), "taken out", as_json)


@wallets.command(context_settings=_TAKES_ANY_AMOUNT, short_help="Give back what a request cost, or a part of it.")
@place_options
@click.argument("request_id")
@click.argument("amount", required=False)
@click.option(
    "--number",
    type=click.IntRange(min=1),
    help="Which refund of this request it is, for a second one; used once, so that repeating the command is safe. Default 1.",
)
@click.option("--note", default="", help="For people; appears in the statement.")
@json_option
def refund(place: Place, request_id: str, amount: str | None, number: int | None, note: str, as_json: bool) -> None:
    """Give back what a request cost: AMOUNT US dollars of it, or the whole rest.

    All refunds of a request together are no more than its wallet paid.
    """
    made = perform(place, "wallets.refund", request_id=request_id, amount=amount, number=number, note=note)
    if as_json or made["applied"]:
        _tell(made, "refunded", as_json)
        return
    say(
        f"Already refunded: {made['reference']} ({usd(made['amount_usd'])}) is transfer {made['transfer_id']}, and "
        f"{usd(made['refunded_usd'])} of {usd(made['paid_usd'])} in all; nothing was moved again."
    )


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
        out(f"{name:<10} {usd(wallet[name + '_usd'])}")
    if wallet["owed_nanos"]:
        out("           (what requests cost beyond the balance; collected only from what its requests of that time set free)")
    if wallet["frozen"]:
        out(f"frozen     yes: no new request is paid from it (pagegrid wallets unfreeze {wallet['user']})")
    out()
    print_lines(wallet["lines"])


@wallets.command()
@place_options
@click.argument("user")
@json_option
def freeze(place: Place, user: str, as_json: bool) -> None:
    """Let no new request be paid from USER's wallet."""
    result = perform(place, "wallets.freeze", user=user)
    _tell_frozen(result, "is frozen: no new request is paid from it" if result["changed"] else "was frozen already", as_json)


@wallets.command()
@place_options
@click.argument("user")
@json_option
def unfreeze(place: Place, user: str, as_json: bool) -> None:
    """Let USER's wallet pay again."""
    result = perform(place, "wallets.unfreeze", user=user)
    _tell_frozen(result, "pays for new requests again" if result["changed"] else "was not frozen", as_json)


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
    number = moved["transfer_id"]
    if moved["applied"]:
        balance = f"the wallet of {moved['user']} has {usd(moved['balance_usd'])}"
        told = f"{usd(moved['amount_usd'])} {what} (transfer {number}); {balance}."
    else:
        told = f"Already applied: reference {moved['reference']} is transfer {number}; nothing was moved again."
    print_id(number, told)


def _tell_frozen(result: dict[str, Any], told: str, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        say(f"The wallet of {result['user']} {told}.")
