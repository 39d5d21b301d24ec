"""Many users at once, from a CSV file: checked whole before anything is done, then done whole or not at all.

It may be repeated: a user who is there, a top-up of a reference that was applied and a key of a name that the user has are left
as they are, so a file with more lines than the last time does only what is new. What contradicts what is there is refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.access import DEFAULT_PLAN, Key, hash_secret
from gateway.book import Wallet
from gateway.desk.checks import get_wallet, money
from gateway.desk.desk import Desk
from gateway.desk.jobs import whole
from gateway.desk.keys import issue_key
from gateway.desk.user_rows import Problems, UserRow, parse_users
from gateway.desk.users import add_user
from gateway.storage import audit_log, keys, users, wallets
from gateway.storage.ledger import LedgerWriter


@dataclass(slots=True)
class _Step:
    """What is to be done for a row, and what has been. `user` is who is there already."""

    row: UserRow
    user: dict[str, Any] | None
    topup: bool = False
    key: bool = False
    wallet_id: int = 0
    made: tuple[str, Key] | None = None


@whole
async def import_users(desk: Desk, actor: str, *, csv: str, dry_run: bool = False) -> dict[str, Any]:
    """`csv` is the text of the file. The result carries the secrets of the keys that were made. Raises ClientError with all that
    is wrong, line by line; nothing was done then. With `dry_run` nothing is done in any case, and the result tells what would be.
    """
    problems = Problems()
    rows = parse_users(csv, desk.plans, problems)
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> list[_Step]:
        steps = _plan(ledger.conn, rows, problems)
        problems.raise_if_any()
        if not dry_run:
            for step in steps:
                _perform(desk, ledger, actor, at_ms, step)
            audit_log.record(ledger.conn, at_ms, actor, "users.import", "users", after=_counts(steps))
        return steps

    steps = await desk.writer.run(job)
    if not dry_run:
        for step in steps:
            _follow(desk, step)
    return {"dry_run": dry_run, **_counts(steps), "users": [_render(step) for step in steps]}


# ── checking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _plan(conn: sqlite3.Connection, rows: list[UserRow], problems: Problems) -> list[_Step]:
    """For the writer's connection: nobody comes in between."""
    known = users.list_users(conn)
    by_name = {user["name"].lower(): user for user in known}
    # Commands find a user by name or address: neither may be taken for another's, or money goes to the wrong one.
    taken = {word: user["name"] for user in known for word in (user["name"].lower(), user["email"]) if word}
    steps = []
    for row in rows:
        step = _Step(row, by_name.get(row.name.lower()))
        if step.user is None:
            _check_new(row, taken, problems)
        else:
            _check_same(row, step.user, problems)
        _plan_topup(conn, step, problems)
        _plan_key(conn, step, problems)
        steps.append(step)
    return steps


def _check_new(row: UserRow, taken: Mapping[str, str], problems: Problems) -> None:
    for column, word in (("name", row.name.lower()), ("email", row.email)):
        if word is not None and word in taken:
            problems.add(row.line, f"{column}: {word} is the name or the address of {taken[word]} already; write another")


def _check_same(row: UserRow, user: dict[str, Any], problems: Problems) -> None:
    """Who is there stays as they are; a file that says otherwise means somebody else, or a change that has its own command."""
    if row.name != user["name"]:
        problems.add(row.line, f"name: {user['name']} is there already; write the name like that, or choose another")
    for column, said in (("email", row.email), ("role", row.role), ("plan", row.plan)):
        if said is not None and said != user[column]:
            problems.add(
                row.line, f"{column}: {user['name']} is there already, with {user[column] or 'none'}; an import changes nobody"
            )


def _plan_topup(conn: sqlite3.Connection, step: _Step, problems: Problems) -> None:
    row = step.row
    if not row.topup_nanos:
        return
    step.topup = True
    earlier = wallets.find_movement(conn, "deposit", row.reference)
    if earlier is None:
        return
    step.topup = False
    if step.user is None or earlier != (get_wallet(conn, step.user["id"])["id"], row.topup_nanos):
        problems.add(row.line, f"reference: {row.reference} was used before, for another top-up; use one of its own for each")


def _plan_key(conn: sqlite3.Connection, step: _Step, problems: Problems) -> None:
    row, user = step.row, step.user
    # Also a dead one counts: a repeated import must not bring back what was revoked.
    step.key = bool(row.key_name) and (user is None or not keys.has_key_named(conn, user["id"], row.key_name))
    if step.key and user is not None and user["disabled"]:
        problems.add(row.line, f"key_name: {row.name} is disabled; `pagegrid users enable` first")


# ── doing ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _perform(desk: Desk, ledger: LedgerWriter, actor: str, at_ms: int, step: _Step) -> None:
    """As the acts for one user do it, with the same audit rows."""
    conn, row = ledger.conn, step.row
    subject = f"user:{row.name}"
    if step.user is None:
        role, plan = row.role or "user", row.plan or DEFAULT_PLAN
        user_id, step.wallet_id = add_user(ledger, actor, at_ms, row.name, row.email, role, plan)
    else:
        user_id, plan = step.user["id"], step.user["plan"]
        step.wallet_id = get_wallet(conn, user_id)["id"]
    if step.topup:
        movement = wallets.deposit(ledger, step.wallet_id, row.topup_nanos, row.reference, "", at_ms)
        assert movement.applied, "it was looked for in the same transaction"
        after = {"transfer_id": movement.transfer_id, "amount_nanos": row.topup_nanos, "reference": row.reference, "note": ""}
        audit_log.record(conn, at_ms, actor, "wallets.topup", subject, after=after)
    if step.key:
        step.made = issue_key(desk, conn, actor, user_id, plan, row.key_name, at_ms)


def _follow(desk: Desk, step: _Step) -> None:
    """Memory, once all is on disk."""
    if step.user is None:
        desk.book.open_wallet(Wallet(step.wallet_id))
    if step.topup:
        desk.book.deposit(step.wallet_id, step.row.topup_nanos)
    if step.made is not None:
        secret, key = step.made
        desk.keys.put(hash_secret(secret), key)


# ── telling ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _counts(steps: list[_Step]) -> dict[str, Any]:
    return {
        "created": sum(step.user is None for step in steps),
        "existing": sum(step.user is not None for step in steps),
        "topups": sum(step.topup for step in steps),
        **money(topped_up=sum(step.row.topup_nanos for step in steps if step.topup)),
        "keys": sum(step.key for step in steps),
    }


def _render(step: _Step) -> dict[str, Any]:
    row = step.row
    shown: dict[str, Any] = {"line": row.line, "name": row.name, "user": "created" if step.user is None else "existing"}
    if row.topup_nanos:
        shown |= {"topup": "applied" if step.topup else "applied before", "reference": row.reference}
        shown |= money(amount=row.topup_nanos)
    if row.key_name:
        shown |= {"key": "created" if step.key else "existing", "key_name": row.key_name}
    if step.made is not None:
        secret, key = step.made
        shown |= {"key_id": key.id, "secret": secret}
    return shown
