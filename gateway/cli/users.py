"""`pagegrid users`: who may have keys."""

from __future__ import annotations

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
    click.echo(user["id"])
    say(f"{user['name']} has an empty wallet. Next: pagegrid wallets topup {user['name']} AMOUNT --reference REF")


@users.command("list")
@place_options
@json_option
def list_(place: Place, as_json: bool) -> None:
    """Everybody, with balances."""
    found = perform(place, "users.list")
    if as_json:
        print_json(found)
        return
    rows = [
        [
            *(str(user["id"]), user["name"], user["email"] or "-", user["role"], "disabled" if user["disabled"] else "active"),
            *(usd(user["balance_usd"]), usd(user["held_usd"]), time_text(user["created_at_ms"])),
        ]
        for user in found
    ]
    headers = ["ID", "NAME", "EMAIL", "ROLE", "STATE", "BALANCE", "HELD", "CREATED"]
    print_table(headers, rows, empty="No users yet: pagegrid users create NAME", right=["ID", "BALANCE", "HELD"])


@users.command()
@place_options
@click.argument("user")
@yes_option
@json_option
def disable(place: Place, user: str, yes: bool, as_json: bool) -> None:
    """Shut a user out: their keys are dead at once."""
    confirm(f"Disable {user}? All their keys stop working at once.", yes)
    _tell(perform(place, "users.disable", user=user), "disabled", as_json)


@users.command()
@place_options
@click.argument("user")
@json_option
def enable(place: Place, user: str, as_json: bool) -> None:
    """Let a user in again: keys that were not revoked work again."""
    _tell(perform(place, "users.enable", user=user), "enabled", as_json)


def _tell(result: dict[str, object], state: str, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        say(f"{result['name']} is {state}." if result["changed"] else f"{result['name']} was {state} already.")
