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
@click.option("--plan", default="default", show_default=True, help="One of the configuration's [plans.NAME].")
@json_option
def create(place: Place, name: str, email: str | None, role: str, plan: str, as_json: bool) -> None:
    """Make a user with an empty wallet."""
    user = perform(place, "users.create", name=name, email=email, role=role, plan=plan)
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
            *(str(user["id"]), user["name"], user["email"] or "-", user["role"], user["plan"]),
            "disabled" if user["disabled"] else "active",
            *(usd(user[f"{amount}_usd"]) for amount in amounts),
            time_text(user["created_at_ms"]),
        ]
        for user in found
    ]
    numbers = [amount.upper() for amount in amounts]
    headers = ["ID", "NAME", "EMAIL", "ROLE", "PLAN", "STATE", *numbers, "CREATED"]
    print_table(headers, rows, empty="No users yet: pagegrid users create NAME", right=["ID", *numbers])


@users.command("set-plan", short_help="Put a user on a plan: it limits their keys.")
@place_options
@click.argument("user")
@click.argument("plan")
@json_option
def set_plan(place: Place, user: str, plan: str, as_json: bool) -> None:
    """Put USER on PLAN: the limits of their keys, where a key says nothing itself, are the plan's when this returns."""
    result = perform(place, "users.set_plan", user=user, plan=plan)
    _tell(result, f"on plan {result['plan']}", as_json)


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


def _tell(result: dict[str, object], state: str, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        say(f"{result['name']} is {state}." if result["changed"] else f"{result['name']} was {state} already.")
