"""People: made with a wallet, shut out, let in again.

A user who is disabled loses every key and session at once; enabling brings back the keys that were neither revoked nor replaced
meanwhile, and no session.
"""

from __future__ import annotations

import difflib
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.access import DEFAULT_PLAN, Key, Plan
from gateway.book import Wallet
from gateway.desk.checks import NAME_CHARS_MAX, check_email, check_user_name, get_user, get_wallet, money, refused
from gateway.desk.desk import Desk
from gateway.desk.history import load_history
from gateway.desk.jobs import whole
from gateway.storage import audit_log, credentials, keys, sessions, users, wallets
from gateway.storage.ledger import LedgerWriter
from gateway.storage.readonly import snapshot

Role = Literal["user", "admin"]


@dataclass(frozen=True, slots=True)
class Member:
    """A user as their own pages need them."""

    id: int
    name: str
    email: str | None
    role: Role
    plan: str
    wallet_id: int
    low_balance_nanos: int | None
    created_at_ms: int


@whole
async def create_user(
    desk: Desk, actor: str, *, name: str, email: str | None = None, role: Role = "user", plan: str = DEFAULT_PLAN
) -> dict[str, Any]:
    """A user with an empty wallet. Raises ClientError for a name or an address that is taken."""
    check_user_name(name)
    check_plan(desk, plan)
    email = check_email(email)
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> tuple[int, int]:
        check_free(ledger.conn, name, email)
        return add_user(ledger, actor, at_ms, name, email, role, plan)

    user_id, wallet_id = await desk.writer.run(job)
    desk.book.open_wallet(Wallet(wallet_id))
    return {
        "id": user_id,
        "name": name,
        "email": email,
        "role": role,
        "plan": plan,
        "wallet_id": wallet_id,
        "created_at_ms": at_ms,
    }


@whole
async def set_plan(desk: Desk, actor: str, *, user: str, plan: str) -> dict[str, Any]:
    """Their keys' limits, where a key says nothing itself, are the plan's when this returns."""
    check_plan(desk, plan)
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> dict[str, Any]:
        found = get_user(ledger.conn, user)
        if found["plan"] != plan:
            users.set_plan(ledger.conn, found["id"], plan)
            states = {"before": {"plan": found["plan"]}, "after": {"plan": plan}}
            audit_log.record(ledger.conn, at_ms, actor, "users.set_plan", f"user:{found['name']}", **states)
        return found

    await load_history(desk, user=user)
    found = await desk.writer.run(job)
    desk.keys.set_user_plan(found["id"], plan)
    return {"id": found["id"], "name": found["name"], "plan": plan, "changed": found["plan"] != plan}


@whole
async def disable_user(desk: Desk, actor: str, *, user: str) -> dict[str, Any]:
    """No key of theirs lets a request in when this returns, and no session opens a page; requests that run end by themselves and
    are paid."""
    found, changed, _ = await desk.writer.run(_switch(desk, actor, "users.disable", user, disabled=True))
    desk.keys.drop_user(found["id"])
    desk.sessions.drop_user(found["id"])
    return {"id": found["id"], "name": found["name"], "disabled": True, "changed": changed}


@whole
async def enable_user(desk: Desk, actor: str, *, user: str) -> dict[str, Any]:
    await load_history(desk, user=user)
    found, changed, live = await desk.writer.run(_switch(desk, actor, "users.enable", user, disabled=False))
    for secret_hash, key in live:
        desk.keys.put(secret_hash, key)
    return {"id": found["id"], "name": found["name"], "disabled": False, "changed": changed}


def list_users(conn: sqlite3.Connection) -> list[dict[str, Any]]:
    """Everybody, in the order in which they came, with the state of the wallet."""
    with snapshot(conn):
        return [{**user, **_state_of_wallet(conn, user["id"])} for user in users.list_users(conn)]


def get_member(conn: sqlite3.Connection, user_id: int) -> Member:
    """Raises LookupError for an id that is nobody's; people are never deleted."""
    with snapshot(conn):
        found = users.get_user(conn, user_id)
        wallet_id = get_wallet(conn, user_id)["id"]
    fields = ("id", "name", "email", "role", "plan", "low_balance_nanos", "created_at_ms")
    return Member(**{name: found[name] for name in fields}, wallet_id=wallet_id)


def show_user(conn: sqlite3.Connection, *, user: str) -> dict[str, Any]:
    with snapshot(conn):
        found = get_user(conn, user)
        account = credentials.get_account(conn, found["id"])
        sign_in = {"has_password": account.password_hash is not None, "totp": account.totp}
        return {**found, **_state_of_wallet(conn, found["id"]), **sign_in}


async def check_plans_in_use(desk: Desk, plans: Mapping[str, Plan]) -> None:
    """Raises ClientError if users have a plan that is not among `plans`, with how many they are."""
    check_plans_declared(await desk.writer.run(lambda ledger: users.count_by_plan(ledger.conn)), plans)


def check_plans_declared(counts: Mapping[str, int], plans: Collection[str]) -> None:
    """As `check_plans_in_use`, of how many users have each plan."""
    gone = [f"{plan} ({count} {'user' if count == 1 else 'users'})" for plan, count in counts.items() if plan not in plans]
    if gone:
        raise refused(
            f"the configuration no longer declares a plan that users have: {', '.join(gone)}. Declare it, or move them first "
            "with `pagegrid users set-plan`",
            "plans",
        )


# ── for the rooms beside this one ────────────────────────────────────────────────────────────────────────────────────


def add_user(ledger: LedgerWriter, actor: str, at_ms: int, name: str, email: str | None, role: str, plan: str) -> tuple[int, int]:
    """(user id, wallet id) of a new user, with the audit row: within a job, whose caller opens the wallet in the book
    afterwards."""
    user_id = users.insert_user(ledger.conn, name, email, role, at_ms, plan)
    wallet_id = wallets.create_wallet(ledger.conn, user_id)
    after = {"id": user_id, "email": email, "role": role, "plan": plan}
    audit_log.record(ledger.conn, at_ms, actor, "users.create", f"user:{name}", after=after)
    return user_id, wallet_id


def check_plan(desk: Desk, plan: str) -> None:
    if plan not in desk.plans:
        near = difflib.get_close_matches(plan[:NAME_CHARS_MAX], desk.plans, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(desk.plans))}."
        raise refused(f"plan: no plan of this name is configured; {hint} Plans are [plans.NAME] in the configuration", "plan")


def check_free(conn: sqlite3.Connection, name: str, email: str | None) -> None:
    """Commands find a user by name or address: neither may be taken for another's, or money goes to the wrong one."""
    for user in users.find_namesakes(conn, name.lower(), email or ""):
        taken = user["name"].lower()
        if name.lower() == taken:
            raise refused(f"there is a user {user['name']} already; choose another name", "name")
        if name.lower() == user["email"]:
            raise refused(f"{name} is the address of {user['name']}; choose another name", "name")
        if email and email == user["email"]:
            raise refused(f"{email} is the address of {user['name']} already; leave it out or write another", "email")
        if email == taken:
            raise refused(f"{email} is the name of another user; leave it out or write another", "email")


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _state_of_wallet(conn: sqlite3.Connection, user_id: int) -> dict[str, Any]:
    wallet = get_wallet(conn, user_id)
    amounts = money(balance=wallet["balance_nanos"], held=wallet["held_nanos"], owed=wallet["owed_nanos"])
    return {**amounts, "frozen": bool(wallet["frozen"])}


def _switch(desk: Desk, actor: str, action: str, user: str, *, disabled: bool) -> Any:
    """The job that shuts a user out or lets them in: (the user, whether anything changed, their live keys)."""
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> tuple[dict[str, Any], bool, list[tuple[bytes, Key]]]:
        found = get_user(ledger.conn, user)
        changed = found["disabled"] != disabled
        if changed:
            users.set_disabled(ledger.conn, found["id"], disabled)
            sessions.delete_user_sessions(ledger.conn, found["id"])
            states = {"before": {"disabled": not disabled}, "after": {"disabled": disabled}}
            audit_log.record(ledger.conn, at_ms, actor, action, f"user:{found['name']}", **states)
        return found, changed, keys.load_user_keys(ledger.conn, found["id"], at_ms)

    return job
