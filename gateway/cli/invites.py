"""`pagegrid invites`: links by which people make their own account. A link is printed once, when it is made."""

from __future__ import annotations

from typing import Any

import click

from gateway.cli.context import (
    KeyId,
    Place,
    confirm,
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
def invites() -> None:
    """Invites: links by which people make their own account."""


# "-5" is an amount, to be refused in its own words.
@invites.command(context_settings={"ignore_unknown_options": True}, short_help="Invite somebody to make an account.")
@place_options
@click.option("--credit", default="0", show_default=True, help="US dollars that the new wallet starts with.")
@click.option("--plan", default="default", show_default=True, help="One of the configuration's [plans.NAME].")
@click.option("--email", help="Whom it is for; it becomes the user's address.")
@click.option("--expires", default="7d", show_default=True, help="After how long, such as 12h or 30d.")
@click.option("--note", default="", help="For yourself.")
@json_option
def create(place: Place, credit: str, plan: str, email: str | None, expires: str, note: str, as_json: bool) -> None:
    """Make an invite, where web.signup is "invite" or "open". Its token, shown this once, makes one account."""
    made = perform(place, "invites.create", credit=credit, plan=plan, email=email, expires=expires, note=note)
    if as_json:
        print_json(made)
        return
    out(made["token"])
    until = time_text(made["expires_at_ms"])
    worth = f"a credit of {usd(made['credit_usd'])} on the plan {made['plan']}"
    say(f"This is the token of invite {made['id']}: {worth}, until {until}. It is shown this once: keep it now.")


@invites.command("list")
@place_options
@json_option
def list_(place: Place, as_json: bool) -> None:
    """All invites, dead ones too."""
    found = perform(place, "invites.list")
    if as_json:
        print_json(found)
        return
    rows = [
        [
            *(str(invite["id"]), invite["email"] or "-", invite["plan"], usd(invite["credit_usd"]), _state(invite)),
            *(time_text(invite["expires_at_ms"]), invite["created_by"], invite["note"]),
        ]
        for invite in found
    ]
    headers = ["ID", "EMAIL", "PLAN", "CREDIT", "STATE", "EXPIRES", "BY", "NOTE"]
    print_table(headers, rows, empty="No invites yet: pagegrid invites create", right=["ID", "CREDIT"])


@invites.command()
@place_options
@click.argument("invite_id", metavar="ID", type=KeyId("pagegrid invites list"))
@yes_option
@json_option
def revoke(place: Place, invite_id: int, yes: bool, as_json: bool) -> None:
    """End an invite that nobody has used."""
    confirm(yes, lambda: f"Revoke invite {invite_id}? Whoever has its link cannot use it any more.")
    invite = perform(place, "invites.revoke", invite_id=invite_id)
    if as_json:
        print_json(invite)
        return
    say(f"Invite {invite['id']} {'is' if invite['changed'] else 'was already'} revoked.")


def _state(invite: dict[str, Any]) -> str:
    if invite["used_by"] is not None:
        return f"used by {invite['used_by']}"
    return "open" if invite["revoked_at_ms"] is None else "revoked"
