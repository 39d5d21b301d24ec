"""`pagegrid keys`: what clients hold. A secret is printed once, when it is made."""

from __future__ import annotations

import time
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
    where_options,
    yes_option,
)
from gateway.cli.desk_client import perform

_KEY_ID = KeyId("pagegrid keys list USER")


@click.group()
@where_options
def keys() -> None:
    """Keys of users."""


@keys.command()
@place_options
@click.argument("user")
@click.option("--name", default="default", show_default=True, help="For people, such as the machine it is used on.")
@click.option("--rpm", type=int, default=10, show_default=True, help="Requests per minute; 0 is unlimited.")
@click.option("--models", help="Models it may use, with commas between; all if left out.")
@click.option("--expires", help="Such as 90m, 12h or 30d; never if left out.")
@json_option
def create(place: Place, user: str, name: str, rpm: int, models: str | None, expires: str | None, as_json: bool) -> None:
    """Make a key for USER. Its secret is shown this once."""
    names = None if models is None else [model.strip() for model in models.split(",") if model.strip()]
    _tell(perform(place, "keys.create", user=user, name=name, rpm=rpm, models=names, expires=expires), as_json)


@keys.command("list")
@place_options
@click.argument("user")
@json_option
def list_(place: Place, user: str, as_json: bool) -> None:
    """USER's keys, dead ones too."""
    found = perform(place, "keys.list", user=user)
    if as_json:
        print_json(found)
        return
    at_ms = time.time_ns() // 1_000_000
    rows = [
        [
            *(str(key["id"]), key["hint"] + "…", key["name"], _state(key, at_ms), str(key["rpm"] or "unlimited")),
            *(",".join(key["models"]) if key["models"] is not None else "all", time_text(key["expires_at_ms"])),
            time_text(key["created_at_ms"]),
        ]
        for key in found
    ]
    headers = ["ID", "KEY", "NAME", "STATE", "REQUESTS/MIN", "MODELS", "EXPIRES", "CREATED"]
    print_table(headers, rows, empty=f"No keys yet: pagegrid keys create {user}", right=["ID", "REQUESTS/MIN"])


@keys.command()
@place_options
@click.argument("key_id", metavar="ID", type=_KEY_ID)
@yes_option
@json_option
def revoke(place: Place, key_id: int, yes: bool, as_json: bool) -> None:
    """End a key: it is dead when this returns."""

    def question() -> str:
        return f"Revoke key {_called(perform(place, 'keys.show', key_id=key_id))}? Whoever uses it is shut out at once."

    confirm(yes, question)
    key = perform(place, "keys.revoke", key_id=key_id)
    if as_json:
        print_json(key)
        return
    successor = f" Key {key['replaced_by']} is its successor." if key["replaced_by"] is not None else ""
    say(f"Key {_called(key)} {'is' if key['changed'] else 'was already'} revoked.{successor}")


@keys.command()
@place_options
@click.argument("key_id", metavar="ID", type=_KEY_ID)
@click.option("--grace", default="0", show_default=True, help="How long the old secret lives on, such as 90m, 12h or 7d.")
@json_option
def rotate(place: Place, key_id: int, grace: str, as_json: bool) -> None:
    """Replace a key: a new secret with the same settings, its expiry too."""
    _tell(perform(place, "keys.rotate", key_id=key_id, grace=grace), as_json)


def _called(key: dict[str, Any]) -> str:
    return f"{key['id']} of {key['user']} ({key['name']}, {key['hint']}…)"


def _tell(key: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(key)
        return
    out(key["secret"])
    say(f"This is key {key['id']} of {key['user']}. Its secret is shown this once: keep it now.")
    if key["expires_at_ms"] is not None:
        inherited = ", as the key that it replaces would" if key["rotated_from"] is not None else ""
        say(f"It expires at {time_text(key['expires_at_ms'])}{inherited}.")
    if key["rotated_from"] is not None:
        say(_end_of_old(key))


def _end_of_old(key: dict[str, Any]) -> str:
    old, dead_at_ms = key["rotated_from"], key["old_dead_at_ms"]
    if dead_at_ms <= key["created_at_ms"]:
        return f"Key {old} is dead."
    why = "" if dead_at_ms == key["old_revoked_at_ms"] else ", when it expires by itself, before the grace ends"
    return f"Key {old} works until {time_text(dead_at_ms)}{why}."


def _state(key: dict[str, Any], at_ms: int) -> str:
    """Alive or not, and which key came in its place."""
    revoked, expires = key["revoked_at_ms"], key["expires_at_ms"]
    successor = f", now key {key['replaced_by']}" if key["replaced_by"] is not None else ""
    if revoked is not None and revoked <= at_ms:
        return f"revoked{successor}"
    if expires is not None and expires <= at_ms:
        return f"expired{successor}"
    return "active" if revoked is None else f"until {time_text(min(revoked, expires or revoked))}{successor}"
