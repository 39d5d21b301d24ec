"""`pagegrid keys`: what clients hold. A secret is printed once, when it is made."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import click

from gateway.cli.context import (
    KeyId,
    Place,
    confirm,
    json_option,
    out,
    place_options,
    print_fields,
    print_json,
    print_table,
    say,
    time_text,
    where_options,
    yes_option,
)
from gateway.cli.desk_client import perform

P = ParamSpec("P")
T = TypeVar("T")


_KEY_ID = KeyId("pagegrid keys list USER")


@click.group()
@where_options
def keys() -> None:
    """Keys of users."""


class _Limit(click.ParamType[int | str]):
    """A number, 0 for unlimited, or "plan"."""

    name = "n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "plan":
            return "plan"
        if not re.fullmatch(r"[0-9]{1,13}", str(value)):
            self.fail('write a whole number, 0 for unlimited, or "plan" for what the plan says', param, ctx)
        return int(value)


_OPTIONS: tuple[tuple[str, click.ParamType[Any], str], ...] = (
    ("--rpm", _Limit(), "Requests per minute."),
    ("--tpm", _Limit(), "Tokens per minute: input, cache writes and output."),
    ("--concurrent", _Limit(), "Requests at one time."),
    ("--requests-per-day", _Limit(), "Answered requests per day (UTC)."),
    ("--tokens-per-month", _Limit(), "Tokens per calendar month (UTC)."),
    ("--spend-per-day", click.STRING, "US dollars per day (UTC)."),
    ("--spend-per-month", click.STRING, "US dollars per calendar month (UTC)."),
    ("--spend-total", click.STRING, "US dollars in all."),
    ("--models", click.STRING, 'Models it may use, with commas between; "plan" for the plan\'s.'),
    ("--addresses", click.STRING, 'Addresses or CIDR ranges it may be used from, with commas between; "any" or "plan".'),
    ("--factor", click.STRING, "Multiplier on every price, such as 0.9."),
    ("--expires", click.STRING, "Such as 90m, 12h or 30d from now, or never."),
)


def terms_options(command: Callable[P, T]) -> Callable[P, T]:
    """What a key may do. A limit is a number, 0 for unlimited, or "plan"; what is left out is the plan's, or stays."""
    for name, kind, text in reversed(_OPTIONS):
        command = click.option(name, type=kind, help=text)(command)
    return command


@keys.command()
@place_options
@click.argument("user")
@click.option("--name", default="default", show_default=True, help="For people, such as the machine it is used on.")
@terms_options
@json_option
def create(place: Place, /, user: str, name: str, as_json: bool, **terms: Any) -> None:
    """Make a key for USER. Its secret is shown this once.

    Each limit is a number, 0 for unlimited, or "plan": what the user's plan says, also when that changes. What is left out is the
    plan's.
    """
    _tell(perform(place, "keys.create", user=user, name=name, **_given(terms)), as_json)


@keys.command(short_help="Change what a key may do, at once.")
@place_options
@click.argument("key_id", metavar="ID", type=_KEY_ID)
@click.option("--name", help="For people, such as the machine it is used on.")
@terms_options
@json_option
def update(place: Place, /, key_id: int, name: str | None, as_json: bool, **terms: Any) -> None:
    """Change what a key may do; what is left out stays. In force when this returns.

    Each limit is a number, 0 for unlimited, or "plan": what the user's plan says.
    """
    key = perform(place, "keys.update", key_id=key_id, **({} if name is None else {"name": name}), **_given(terms))
    if as_json:
        print_json(key)
    else:
        say(f"Key {_called(key)} {'is changed' if key['changed'] else 'was like that already'}.")


def _given(terms: dict[str, Any]) -> dict[str, Any]:
    """The options that were written, lists split at their commas."""
    given = {name: value for name, value in terms.items() if value is not None}
    for name in ("models", "addresses"):
        if name in given and given[name] != "plan":
            texts = [text.strip() for text in given[name].split(",") if text.strip()]
            given[name] = [] if name == "addresses" and texts == ["any"] else texts
    return given


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
            *(str(key["id"]), key["hint"] + "…", key["name"], _state(key, at_ms), key["plan"], _limits(key)),
            *(",".join(key["models"]) if key["models"] is not None else "plan", time_text(key["expires_at_ms"])),
            time_text(key["created_at_ms"]),
        ]
        for key in found
    ]
    headers = ["ID", "KEY", "NAME", "STATE", "PLAN", "OWN LIMITS", "MODELS", "EXPIRES", "CREATED"]
    print_table(headers, rows, empty=f"No keys yet: pagegrid keys create {user}", right=["ID"])


@keys.command()
@place_options
@click.argument("key_id", metavar="ID", type=_KEY_ID)
@json_option
def show(place: Place, key_id: int, as_json: bool) -> None:
    """One key: whose it is, whether it works, and what it says itself."""
    key = perform(place, "keys.show", key_id=key_id)
    if as_json:
        print_json(key)
        return
    print_fields(
        {
            "key": f"{key['id']} ({key['name']}, {key['hint']}…)",
            "user": key["user"],
            "state": _state(key, time.time_ns() // 1_000_000),
            "plan": key["plan"],
            "own limits": _limits(key),
            "models": ",".join(key["models"]) if key["models"] is not None else "plan",
            "expires": time_text(key["expires_at_ms"]),
        }
    )


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


SHOWN_LIMITS = {
    "rpm": "rpm",
    "tpm": "tpm",
    "concurrent": "concurrent",
    "requests_per_day": "requests/day",
    "tokens_per_month": "tokens/month",
    "spend_per_day": "$/day",
    "spend_per_month": "$/month",
    "spend_total": "$ in all",
}


def _limits(key: dict[str, Any]) -> str:
    """What the key says for itself; everything else is as its plan has it."""
    limits = [f"{word} {_amount(key[name])}" for name, word in SHOWN_LIMITS.items() if key[name] is not None]
    if key["addresses"]:
        limits.append("from " + "|".join(key["addresses"]))
    if key["factor"] != "1":
        limits.append(f"× {key['factor']}")
    return ", ".join(limits) or "-"


def _amount(value: int | str) -> str:
    return "unlimited" if value in (0, "0.00") else str(value)


def _state(key: dict[str, Any], at_ms: int) -> str:
    """Alive or not, and which key came in its place."""
    revoked, expires = key["revoked_at_ms"], key["expires_at_ms"]
    successor = f", now key {key['replaced_by']}" if key["replaced_by"] is not None else ""
    if revoked is not None and revoked <= at_ms:
        return f"revoked{successor}"
    if expires is not None and expires <= at_ms:
        return f"expired{successor}"
    return "active" if revoked is None else f"until {time_text(min(revoked, expires or revoked))}{successor}"
