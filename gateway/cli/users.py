"""`pagegrid users`: who may have keys."""

from __future__ import annotations

import click

from gateway.cli.context import (
    Place,
    confirm,
    json_option,
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


@click.group()
@where_options
def users() -> None:
    """People: each has a wallet and any number of keys."""


@users.command()
@place_options
@click.argument("name")
@click.option("--email", help="Must be nobody else's.")
@click.option("--role", type=click.Choice(["user", "admin"]), default="user", show_default=True)
@json_option
def create(place: Place, name: str, email: str | None, role: str, as_json: bool) -> None:
    """Make a user with an empty wallet."""
    user = perform(place, "users.create", name=name, email=email, role=role)
    if as_json:
        print_json(user)
        return
    name = user["name"]
    print_id(
        user["id"],
        f"{name} is user {user['id']} and has an empty wallet. Next: pagegrid wallets topup {name} AMOUNT --reference REF",
    )


@users.command("list")
@place_options
@json_option
def list_(place: Place, as_json: bool) -> None:
    """Everybody, with balances."""
    found = perform(place, "users.list")
    if as_json:
        print_json(found)
        return
    amounts = ["balance", "held", *(["owed"] if any(user["owed_nanos"] for user in found) else [])]
    rows = [
        [
            *(str(user["id"]), user["name"], user["email"] or "-", user["role"], "disabled" if user["disabled"] else "active"),
            *(usd(user[f"{amount}_usd"]) for amount in amounts),
            time_text(user["created_at_ms"]),
        ]
        for user in found
    ]
    numbers = [amount.upper() for amount in amounts]
    headers = ["ID", "NAME", "EMAIL", "ROLE", "STATE", *numbers, "CREATED"]
    print_table(headers, rows, empty="No users yet: pagegrid users create NAME", right=["ID", *numbers])


@users.command(short_help="Shut a user out: no new request is let in.")
@place_options
@click.argument("user")
@yes_option
@json_option
def disable(place: Place, user: str, yes: bool, as_json: bool) -> None:
    """Shut a user out: no new request is let in; running ones end and are paid."""

    def question() -> str:
        name = perform(place, "users.show", user=user)["name"]
        return f"Disable {name}? No new request of theirs is let in; running ones end and are paid."

    confirm(yes, question)
    _tell(perform(place, "users.disable", user=user), "disabled", as_json)


@users.command()
@place_options
@click.argument("user")
@json_option
def enable(place: Place, user: str, as_json: bool) -> None:
    """Let a user in again: keys that were not revoked work again."""
    _tell(perform(place, "users.enable", user=user), "enabled", as_json)


# "-5" is an amount, to be refused in its own words.
@users.command("low-balance", context_settings={"ignore_unknown_options": True}, short_help="From which balance on you are told.")
@place_options
@click.argument("user")
@click.argument("amount", metavar="AMOUNT|default|off")
@json_option
def low_balance(place: Place, user: str, amount: str, as_json: bool) -> None:
    """Be told, in the log and by webhook, when USER's balance falls below AMOUNT US dollars (such as 5 or 0.50).

    "default" is what the configuration says in [notices], "off" is never.
    """
    result = perform(place, "users.set_low_balance", user=user, amount=amount)
    if as_json:
        print_json(result)
        return
    nanos = result["low_balance_nanos"]
    where = "as the configuration says" if nanos is None else f"below {usd(result['low_balance_usd'])}" if nanos else "never"
    say(f"A low balance of {result['name']} is told: {where}.")


def _tell(result: dict[str, object], state: str, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        say(f"{result['name']} is {state}." if result["changed"] else f"{result['name']} was {state} already.")
