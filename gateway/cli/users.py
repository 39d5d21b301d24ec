"""`pagegrid users`: who may have keys."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from gateway.cli.context import (
    Place,
    Refusal,
    confirm,
    counted,
    is_interactive,
    json_option,
    out,
    place_options,
    print_fields,
    print_id,
    print_json,
    print_table,
    say,
    time_text,
    url_on_this_machine,
    usd,
    where_options,
    yes_option,
)
from gateway.cli.desk_client import find_server, perform
from gateway.desk.csv_text import render_csv
from gateway.desk.user_rows import BYTES_MAX
from gateway.money import format_usd
from gateway.passwords import CHARS_MAX
from gateway.web.entry import WELCOME_PATH


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
            _state(user),
            *(usd(user[f"{amount}_usd"]) for amount in amounts),
            time_text(user["created_at_ms"]),
        ]
        for user in found
    ]
    numbers = [amount.upper() for amount in amounts]
    headers = ["ID", "NAME", "EMAIL", "ROLE", "PLAN", "STATE", *numbers, "CREATED"]
    print_table(headers, rows, empty="No users yet: pagegrid users create NAME", right=["ID", *numbers])


@users.command()
@place_options
@click.argument("user")
@json_option
def show(place: Place, user: str, as_json: bool) -> None:
    """One user, with what is in their wallet."""
    found = perform(place, "users.show", user=user)
    if as_json:
        print_json(found)
        return
    plain = {name: str(found[name] or "-") for name in ("id", "name", "email", "role", "plan")}
    amounts = {name: usd(found[f"{name}_usd"]) for name in ("balance", "held", "owed")}
    told = {"low": f"told {_threshold(found['low_balance_nanos'])}", "created": time_text(found["created_at_ms"])}
    print_fields({**plain, "state": _state(found), **amounts, **told})


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


@users.command("set-password", short_help="Set a password, by which somebody signs in to the pages.")
@place_options
@click.argument("user")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read it from standard input (one line); else it is asked for.")
@json_option
def set_password(place: Place, user: str, from_stdin: bool, as_json: bool) -> None:
    """Set USER's password: 12 to 128 characters. Their sessions end; a second factor stays."""
    if from_stdin:
        # Never an argument: those stand in the shell's history and in the list of processes.
        password = _read_line()
    elif is_interactive():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        raise click.UsageError("There is nobody to ask: add --stdin, and write the password there.")
    result = perform(place, "users.set_password", user=user, password=password)
    if as_json:
        print_json(result)
        return
    say(f"The password of {result['name']} is set.{_ended(result)}")


@users.command("create-link", short_help="Print a link by which somebody chooses a password, once.")
@place_options
@click.argument("user")
@json_option
def create_link(place: Place, user: str, as_json: bool) -> None:
    """Print a link by which USER chooses a password and is signed in. It works once, within an hour; an earlier one is dead."""
    settings = place.load_settings("unneeded")
    server = find_server(place.data_dir)
    made = perform(place, "users.create_link", user=user)
    port = server.port if server and server.port else settings.server.port
    url = settings.server.public_url or url_on_this_machine(settings, port)
    link = f"{url}{WELCOME_PATH}/{made['token']}"
    if as_json:
        print_json({"id": made["id"], "name": made["name"], "expires_at_ms": made["expires_at_ms"], "link": link})
        return
    out(link)
    rest = "" if server else " No server is running: start it first, with `pagegrid serve`."
    say(f"Whoever opens it chooses the password of {made['name']}: hand it to nobody else.{rest}")


@users.command("disable-totp", short_help="Take off the second factor of somebody who lost it.")
@place_options
@click.argument("user")
@yes_option
@json_option
def disable_totp(place: Place, user: str, yes: bool, as_json: bool) -> None:
    """Take off USER's second factor and recovery codes, which they have lost. The password stays; their sessions end."""

    def question() -> str:
        name = perform(place, "users.show", user=user)["name"]
        return f"Take off the second factor of {name}? Be sure that it is they who ask."

    confirm(yes, question)
    result = perform(place, "users.disable_totp", user=user)
    if as_json:
        print_json(result)
        return
    say(f"{result['name']} {'has' if result['changed'] else 'had'} no second factor.{_ended(result)}")


@users.command("end-sessions")
@place_options
@click.argument("user")
@json_option
def end_sessions(place: Place, user: str, as_json: bool) -> None:
    """Sign USER out of the pages everywhere; keys go on working."""
    result = perform(place, "users.end_sessions", user=user)
    if as_json:
        print_json(result)
        return
    say(f"{result['name']} is signed out everywhere.{_ended(result)}")


@users.command("import", short_help="Make many users, with top-ups and keys, from a CSV file.")
@place_options
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Check the file and tell what would be done.")
@json_option
def import_(place: Place, file: Path, dry_run: bool, as_json: bool) -> None:
    """Make users from FILE, with the columns name, email, role, plan, topup, reference and key_name; only name is needed.

    All of it is checked before anything is done, and a file may be imported again: only what is new is done. Keys are printed
    as CSV, this once.
    """
    done = perform(place, "users.import", csv=_read_csv(file), dry_run=dry_run)
    if as_json:
        print_json(done)
        return
    made = [user for user in done["users"] if "secret" in user]
    if made:
        rows = [[user["name"], user["key_name"], user["secret"]] for user in made]
        out(render_csv(["name", "key_name", "key"], rows, quote_all=True).removesuffix("\r\n"))
    would = "Nothing was done. It would be: " if dry_run else ""
    users = f"{counted(done['created'], 'user')} made, {done['existing']} there already"
    topups = f"{counted(done['topups'], 'top-up')} ({usd(done['topped_up_usd'])})"
    once = ", shown this once: keep them now" if made else ""
    say(f"{would}{users}; {topups}; {counted(done['keys'], 'key')}{once}.")


def _state(user: dict[str, Any]) -> str:
    return ("disabled" if user["disabled"] else "active") + (", wallet frozen" if user["frozen"] else "")


def _read_csv(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(BYTES_MAX + 1)
        if len(data) > BYTES_MAX:
            raise Refusal("too_large", f"{file} is larger than {BYTES_MAX // 1024} KiB; split it")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refusal("invalid_request", f"{file} is not UTF-8 text at byte {error.start}; save it as CSV UTF-8") from None
    except OSError as error:
        raise Refusal("invalid_request", f"{file} cannot be read: {error.strerror}") from None


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
    say(f"A low balance of {result['name']} is told: {_threshold(result['low_balance_nanos'])}.")


def _threshold(nanos: int | None) -> str:
    return "as the configuration says" if nanos is None else f"below {usd(format_usd(nanos))}" if nanos else "never"


def _read_line() -> str:
    try:
        line = sys.stdin.readline(8 * CHARS_MAX)
        line.encode()
    except UnicodeError:
        raise Refusal("invalid_request", "the password on standard input is not UTF-8 text") from None
    return line.removesuffix("\n").removesuffix("\r")


def _ended(result: dict[str, int]) -> str:
    return f" {counted(result['sessions_ended'], 'session')} ended." if result["sessions_ended"] else ""


def _tell(result: dict[str, object], state: str, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        say(f"{result['name']} is {state}." if result["changed"] else f"{result['name']} was {state} already.")
