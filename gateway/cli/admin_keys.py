"""`pagegrid admin-keys`: what opens the admin API. A secret is printed once, when it is made."""

from __future__ import annotations

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
    where_options,
    yes_option,
)
from gateway.cli.desk_client import perform


@click.group("admin-keys")
@where_options
def admin_keys() -> None:
    """Keys of the admin API, which is off by default."""


@admin_keys.command()
@place_options
@click.argument("name")
@json_option
def create(place: Place, name: str, as_json: bool) -> None:
    """Make an admin key, called NAME in the audit log. Its secret is shown this once."""
    key = perform(place, "admin_keys.create", name=name)
    if as_json:
        print_json(key)
        return
    out(key["secret"])
    say(f"This is admin key {key['id']} ({key['name']}). Its secret is shown this once: keep it now.")
    say("It can do all that commands can do with users and money; the API is on if server.admin_api is true.")


@admin_keys.command("list")
@place_options
@json_option
def list_(place: Place, as_json: bool) -> None:
    """All admin keys, dead ones too."""
    found = perform(place, "admin_keys.list")
    if as_json:
        print_json(found)
        return
    rows = [
        [
            *(str(key["id"]), key["hint"] + "…", key["name"]),
            "active" if key["revoked_at_ms"] is None else f"revoked {time_text(key['revoked_at_ms'])}",
            *(time_text(key["created_at_ms"]), key["created_by"]),
        ]
        for key in found
    ]
    headers = ["ID", "KEY", "NAME", "STATE", "CREATED", "BY"]
    print_table(headers, rows, empty="No admin keys yet: pagegrid admin-keys create NAME", right=["ID"])


@admin_keys.command()
@place_options
@click.argument("key_id", metavar="ID", type=KeyId("pagegrid admin-keys list"))
@yes_option
@json_option
def revoke(place: Place, key_id: int, yes: bool, as_json: bool) -> None:
    """End an admin key: it is dead when this returns."""

    def question() -> str:
        key = perform(place, "admin_keys.show", key_id=key_id)
        return f"Revoke admin key {key['id']} ({key['name']}, {key['hint']}…)? Whoever uses it is shut out at once."

    confirm(yes, question)
    key = perform(place, "admin_keys.revoke", key_id=key_id)
    if as_json:
        print_json(key)
        return
    say(f"Admin key {key['id']} ({key['name']}, {key['hint']}…) {'is' if key['changed'] else 'was already'} revoked.")
