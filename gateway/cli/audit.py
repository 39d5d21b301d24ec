"""`pagegrid audit`: what was done here, by whom. (Whether the books balance: `pagegrid ledger audit`.)"""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import Any

import click

from gateway.cli.context import (
    Place,
    Refusal,
    json_option,
    place_options,
    print_json,
    print_table,
    say,
    time_text,
    usd,
    where_options,
)
from gateway.cli.desk_client import perform
from gateway.desk.checks import parse_duration_ms, parse_time_ms
from gateway.errors import ClientError
from gateway.money import format_usd


@click.group()
@where_options
def audit() -> None:
    """The log of all that was administered."""


@audit.command("list")
@place_options
@click.option("--actor", help="Who did it: such as cli:root, or admin-key:3.")
@click.option("--action", help="What was done: such as wallets.topup, or wallets for all that concerns wallets.")
@click.option("--subject", help="About what: such as user:ada, or key:7.")
@click.option("--since", help="A duration such as 90m, 12h or 7d, a day (2026-11-20, UTC), or a time (2026-11-20T08:00:00Z).")
@click.option("--day", help="One day alone (2026-11-20, UTC).")
@click.option("--before", type=click.IntRange(min=1), help="Older entries than the one of this ID.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@json_option
def list_(
    place: Place,
    actor: str | None,
    action: str | None,
    subject: str | None,
    since: str | None,
    day: str | None,
    before: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """What was done, newest first."""
    filters = {"actor": actor, "action": action, "subject": subject, "since": since and _since(since), "day": day}
    found = perform(place, "audit.list", **filters, before=before, limit=limit)
    if as_json:
        print_json(found)
        return
    rows = [
        [*(str(entry["id"]), time_text(entry["at_ms"]), entry["actor"], entry["action"], entry["subject"]), _change(entry)]
        for entry in found["entries"]
    ]
    headers = ["ID", "TIME", "ACTOR", "ACTION", "SUBJECT", "CHANGE"]
    print_table(headers, rows, empty="Nothing of this kind was done.", right=["ID"])
    if found["next_before"] is not None:
        say(f"There is more: add --before {found['next_before']}.")


def _since(text: str) -> str:
    """As the act wants it, which knows no durations."""
    try:
        if re.fullmatch(r"[0-9]+[a-z]", text):
            at_ms = time.time_ns() // 1_000_000 - parse_duration_ms(text, "since")
            return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()
        parse_time_ms(text, "since")
    except ClientError:
        raise Refusal(
            "invalid_request",
            "since: write a duration such as 90m, 12h or 7d, a day (2026-11-20, UTC) or a time with its offset "
            "(2026-11-20T08:00:00Z)",
        ) from None
    return text


def _change(entry: dict[str, Any]) -> str:
    """Such as "frozen: no → yes": what was set, and what it had been where that is known."""
    before, after = entry["before"] or {}, entry["after"] or {}
    changes = []
    for name in sorted({**before, **after}) if before else after:
        states = [_value(name, state[name]) for state in (before, after) if name in state]
        if any(states):
            changes.append(f"{_UNIT.sub('', name)}: {' → '.join(text or '-' for text in states)}")
    return ", ".join(changes)


# Units that stand last in a name.
_UNIT = re.compile(r"_(nanos|at_ms)$")


def _value(name: str, value: Any) -> str:
    """For people: money as dollars, times as dates; "" for what was not set."""
    if value is None or value == [] or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("_nanos"):
        return usd(format_usd(value))
    if isinstance(value, int) and name.endswith("_at_ms"):
        return time_text(value)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "|".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
