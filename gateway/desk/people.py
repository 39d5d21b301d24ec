"""Users as the pages of administrators show them: many in a list, or one with all that belongs to them. Changes nothing.

Acts about people are in `users.py`, `wallets.py`, `credentials.py`, `keys.py`; here is what somebody looks at before.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from gateway.desk.checks import get_wallet
from gateway.desk.keys import list_keys
from gateway.errors import ClientError
from gateway.ids import render_id
from gateway.storage import credentials, people, users
from gateway.storage.people import State
from gateway.storage.readonly import snapshot
from gateway.storage.rollups import DAY_MS

PAGE_ROWS = 50
SPENT_DAYS = 30
LATEST = 10
# A script may have rotated one for years.
KEYS_SHOWN = 200
WORDS_CHARS_MAX = 100


@dataclass(frozen=True, slots=True)
class People:
    """A page of users. `next_after` leads to the next one, None if this is the last; `total` counts everybody there is."""

    rows: list[dict[str, Any]]
    next_after: int | None
    total: int


@dataclass(frozen=True, slots=True)
class Person:
    """One user. `requests` (those that were charged) and `movements` (all other transfers of the wallet) are the latest rows,
    newest first; `running` counts requests that hold money. `keys` are KEYS_SHOWN of `keys_ever` at most."""

    id: int
    name: str
    email: str | None
    role: str
    plan: str
    disabled: bool
    created_at_ms: int
    low_balance_nanos: int | None
    wallet_id: int
    frozen: bool
    owed_nanos: int
    has_password: bool
    totp: bool
    running: int
    spent_nanos: int
    keys: list[dict[str, Any]]
    keys_ever: int
    requests: list[dict[str, Any]]
    movements: list[dict[str, Any]]


def list_people(conn: sqlite3.Connection, now_ms: int, *, words: str = "", state: State = "", after_id: int = 0) -> People:
    """`words` stand somewhere in the name or the address; rows carry `spent_nanos` of 30 days and `used_at_ms`."""
    with snapshot(conn):
        rows = people.list_people(conn, words=words[:WORDS_CHARS_MAX], state=state, after_id=after_id, limit=PAGE_ROWS + 1)
        more, rows = len(rows) > PAGE_ROWS, rows[:PAGE_ROWS]
        wallet_ids = [row["wallet_id"] for row in rows]
        spent = people.spent_nanos(conn, wallet_ids, _days(now_ms))
        used = people.last_used(conn, "wallet_id", wallet_ids)
        total = people.count_people(conn)
    for row in rows:
        row["spent_nanos"] = sum(spent[row["wallet_id"]].values())
        row["used_at_ms"] = used.get(row["wallet_id"])
    return People(rows, rows[-1]["id"] if more else None, total)


def get_person(conn: sqlite3.Connection, now_ms: int, user_id: int) -> Person:
    """Raises ClientError `not_found`."""
    user = get_user_of_id(conn, user_id)
    every = list_keys(conn, user=user["name"])
    # What works stands first, and of the rest what was made last.
    keys = sorted(every, key=lambda key: (key_state(key, now_ms) != "active", -key["id"]))[:KEYS_SHOWN]
    with snapshot(conn):
        wallet = get_wallet(conn, user_id)
        account = credentials.get_account(conn, user_id)
        spent = people.spent_nanos(conn, [wallet["id"]], _days(now_ms))[wallet["id"]]
        used = people.last_used(conn, "key_id", [key["id"] for key in keys])
        requests = people.latest_requests(conn, wallet["id"], LATEST)
        movements = people.latest_movements(conn, wallet["id"], LATEST)
        running = people.count_running(conn, wallet["id"])
    return Person(
        id=user_id,
        name=user["name"],
        email=user["email"],
        role=user["role"],
        plan=user["plan"],
        disabled=user["disabled"],
        created_at_ms=user["created_at_ms"],
        low_balance_nanos=user["low_balance_nanos"],
        wallet_id=wallet["id"],
        frozen=bool(wallet["frozen"]),
        owed_nanos=wallet["owed_nanos"],
        has_password=account.password_hash is not None,
        totp=account.totp,
        running=running,
        spent_nanos=sum(spent.values()),
        keys=[{**key, "spent_nanos": spent.get(key["id"], 0), "used_at_ms": used.get(key["id"])} for key in keys],
        keys_ever=len(every),
        requests=[{**row, "request_id": render_id(row["request_id"])} for row in requests],
        movements=movements,
    )


def get_user_of_id(conn: sqlite3.Connection, user_id: int) -> dict[str, Any]:
    """Who it is, in short, with their `wallet_id`. Raises ClientError `not_found`."""
    try:
        return {**users.get_user(conn, user_id), "wallet_id": get_wallet(conn, user_id)["id"]}
    except LookupError:
        raise ClientError("not_found", "There is no such user. The list of users shows who there is.") from None


def key_state(key: dict[str, Any], now_ms: int) -> str:
    """What has become of a key of `list_keys`; one that a rotation lets live on for a while is active."""
    if key["revoked_at_ms"] is not None and key["revoked_at_ms"] <= now_ms:
        return "replaced" if key["replaced_by"] else "revoked"
    return "expired" if key["expires_at_ms"] is not None and key["expires_at_ms"] <= now_ms else "active"


def _days(now_ms: int) -> range:
    """The beginnings of the last days, today's being the last."""
    today = now_ms - now_ms % DAY_MS
    return range(today - (SPENT_DAYS - 1) * DAY_MS, today + 1, DAY_MS)
